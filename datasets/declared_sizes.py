"""How large compressed chunks become, found before they are decompressed.

A decompressor takes as much memory as a chunk asks for, whatever size the chunk should have. Most formats declare the
size in their first bytes. Others do not, and are decompressed piece by piece first, until they are too large.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zarr
from zarr.codecs import ShardingCodec

PIECE = 2**20
"""Bytes that are decompressed at a time to find a size."""

SLACK = 2**24
"""Bytes more than a chunk that are no harm."""

DEFLATED = 1032
"""A byte of zlib's format becomes at most so many."""

_ZSTD, _SKIPPABLE, _BLOCK = 0xFD2FB528, 0x184D2A50, 2**17


def _zstd(chunk: bytes, most: int) -> int:
    """The size in the header of a zstd frame (RFC 8878, 3.1.1.1), or the largest of its blocks.

    Several frames, and one that does not say its size, are decompressed block by block.
    """
    begin, declared, num_blocks, num_frames = 0, 0, 0, 0
    while begin + 6 <= len(chunk):
        magic = int.from_bytes(chunk[begin : begin + 4], "little")
        if magic & 0xFFFFFFF0 == _SKIPPABLE:
            begin += 8 + int.from_bytes(chunk[begin + 4 : begin + 8], "little")
            continue
        if magic != _ZSTD:
            break
        descriptor = chunk[begin + 4]
        is_single_segment = bool(descriptor & 0x20)
        width = (1 if is_single_segment else 0, 2, 4, 8)[descriptor >> 6]
        begin += 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
        declared += int.from_bytes(chunk[begin : begin + width], "little") + (256 if width == 2 else 0)
        num_frames += 1 if width else 2  # as if there were another one, whose size is unknown
        begin, more = _after_blocks(chunk, begin + width)
        num_blocks += more
        begin += 4 * bool(descriptor & 4)
    grown = num_blocks * _BLOCK if num_frames > 1 else 0
    return max(declared, grown if grown > most + SLACK else 0)


def _after_blocks(chunk: bytes, begin: int) -> tuple[int, int]:
    """Where the blocks of a frame end, and their number."""
    count = 0
    while begin + 3 <= len(chunk):
        header = int.from_bytes(chunk[begin : begin + 3], "little")
        is_run = header >> 1 & 3 == 1
        begin += 3 + (1 if is_run else header >> 3)
        count += 1
        if header & 1:
            break
    return begin, count


def _number(chunk: bytes, most: int, *, begin: int) -> int:
    return int.from_bytes(chunk[begin : begin + 4], "little")


def _inflated(chunk: bytes, most: int, *, bits: int) -> int:
    """The size of a stream of zlib or gzip, or a larger one than `most`."""
    if DEFLATED * len(chunk) <= most + SLACK:
        return 0
    size = 0
    while chunk:
        stream = zlib.decompressobj(bits)
        try:
            while chunk and not stream.eof and size <= most:
                size += len(stream.decompress(chunk, PIECE))
                chunk = stream.unconsumed_tail
        except zlib.error:  # the codec will say so
            break
        chunk = stream.unused_data if size <= most and bits > 16 else b""  # gzip alone reads several streams
    return size


def _expanded(chunk: bytes, most: int, *, stream: Callable[[], Any]) -> int:
    """The size of streams of bz2 or lzma, or a larger one than `most`."""
    size = 0
    while chunk and size <= most:
        decompressor, waiting = stream(), chunk
        chunk = b""
        try:
            while not decompressor.eof and size <= most:
                piece = decompressor.decompress(waiting, PIECE)
                size, waiting = size + len(piece), b""
                if not piece and decompressor.needs_input:
                    break
        except lzma.LZMAError as error:
            return most + 1 if "limit" in str(error) else size
        except (OSError, EOFError):  # the codec will say so
            break
        chunk = decompressor.unused_data if decompressor.eof else b""
    return size


_xz = partial(_expanded, stream=partial(lzma.LZMADecompressor, memlimit=2**28))

SIZES: dict[str, Callable[[bytes, int], int]] = {
    **dict.fromkeys(("Zstd", "ZstdCodec"), _zstd),
    **dict.fromkeys(("Blosc", "BloscCodec"), partial(_number, begin=4)),
    "LZ4": partial(_number, begin=0),
    "Zlib": partial(_inflated, bits=zlib.MAX_WBITS),
    **dict.fromkeys(("GZip", "GzipCodec"), partial(_inflated, bits=16 + zlib.MAX_WBITS)),
    "BZ2": partial(_expanded, stream=bz2.BZ2Decompressor),
    "LZMA": _xz,
}
"""Class of a compressor, of zarr v2 or v3 -> a function of a chunk and of the bytes that it should have at most. It
returns the size that the chunk takes when it is decompressed, or 0 if that is small enough."""


def declared_sizes(file: Path, array: zarr.Array[Any], codec: str, rows: slice, most: int) -> Iterator[int]:
    """What `SIZES` says of the chunks in a file. rows: the rows of chunks within a shard."""
    with file.open("rb") as opened:
        for offset, length in _places(opened, array, rows) if array.shards else [(0, -1)]:
            opened.seek(offset)
            yield SIZES[codec](opened.read(length), most)


def _places(opened: BinaryIO, array: zarr.Array[Any], rows: slice) -> list[tuple[int, int]]:
    """The places and lengths of chunks in a shard, by its index; empty if the index is damaged, as zarr notices."""
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
    opened.seek(size - length - checksum if _name(sharding.index_location) == "end" else 0)
    index = np.frombuffer(opened.read(length), ">u8" if _name(order) == "big" else "<u8").reshape(counts[0], -1, 2)
    return [(offset, length) for offset, length in index[rows].reshape(-1, 2).tolist() if offset + length <= size]


def _name(option: Any) -> str:
    """The name of an option of a codec: an enumeration up to zarr 3.1, and a text in later versions."""
    return str(getattr(option, "value", option))
