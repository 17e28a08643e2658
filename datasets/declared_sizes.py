"""The sizes that compressed chunks declare, read before they are decompressed.

A decompressor takes as much memory as the first bytes of a chunk ask for, whatever size the chunk should have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zarr
from zarr.codecs import ShardingCodec

_HEAD = 18
"""Bytes of the longest header."""


def _zstd(head: bytes) -> int:
    """The content size in the header of a zstd frame (RFC 8878, 3.1.1.1), or 0 if it has none."""
    if not head.startswith(b"\x28\xb5\x2f\xfd") or len(head) < 6:
        return 0
    descriptor = head[4]
    is_single_segment = bool(descriptor & 0x20)
    width = (1 if is_single_segment else 0, 2, 4, 8)[descriptor >> 6]
    begin = 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(head[begin : begin + width], "little") + (256 if width == 2 else 0)


def _blosc(head: bytes) -> int:
    return int.from_bytes(head[4:8], "little")


def _lz4(head: bytes) -> int:
    return int.from_bytes(head[:4], "little")


HEADERS: dict[str, Callable[[bytes], int]] = {
    **dict.fromkeys(("Zstd", "ZstdCodec"), _zstd),
    **dict.fromkeys(("Blosc", "BloscCodec"), _blosc),
    "LZ4": _lz4,
}
"""Class of a compressor, of zarr v2 or v3 -> the size that the first bytes of a chunk declare, or 0."""


def declared_sizes(file: Path, array: zarr.Array[Any], codec: str, rows: slice) -> Iterator[int]:
    """The sizes that the chunks in a file declare. rows: the rows of chunks within a shard."""
    with file.open("rb") as opened:
        for offset in _offsets(opened, array, rows) if array.shards else [0]:
            opened.seek(offset)
            yield HEADERS[codec](opened.read(_HEAD))


def _offsets(opened: BinaryIO, array: zarr.Array[Any], rows: slice) -> list[int]:
    """The places of chunks in a shard, from its index; empty if the index is damaged, which zarr notices."""
    sharding = array.metadata.codecs[0]  # type: ignore[union-attr]
    assert isinstance(sharding, ShardingCodec)
    assert array.shards is not None
    counts = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    order = next((getattr(codec, "endian", None) for codec in sharding.index_codecs if hasattr(codec, "endian")), None)
    checksum = 4 * sum(type(codec).__name__ == "Crc32cCodec" for codec in sharding.index_codecs)
    length = 16 * math.prod(counts)
    size = opened.seek(0, 2)
    if size < length + checksum:
        return []
    opened.seek(size - length - checksum if sharding.index_location.value == "end" else 0)
    index = np.frombuffer(opened.read(length), ">u8" if getattr(order, "value", "") == "big" else "<u8").reshape(
        counts[0], -1, 2
    )
    return [int(offset) for offset in index[rows, :, 0].ravel() if offset < size]
