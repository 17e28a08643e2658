"""Arrays over time in zarr folders (v2 and v3): opened, read and extended, with every damage named.

By itself zarr reads a missing chunk as zeros, says of a damaged one neither where it lies nor whose it is, and decodes
a Blosc chunk that was cut off to whatever lies behind it in memory.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

ZarrArray: TypeAlias = zarr.Array[Any]
"""An array on disk, of either version."""

DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError, zlib.error)
"""What zarr and its codecs raise on content that they cannot make sense of. An OSError is not among them: it is the
machine that failed then, and its own message says how."""


def open_group(path: str | Path, mode: str = "r") -> zarr.Group:
    """The zarr group (v2 or v3) in the folder `path`.

    Raises FileNotFoundError where nothing is there, and ValueError where it is no zarr group or a damaged one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is nothing here: check the path")
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise ValueError(f"{path}: not a zarr group (neither zarr.json nor .zgroup in it): name the folder of a store")
    try:
        store = LocalStore(path, read_only=mode == "r")
        return zarr.open_group(store, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
    except DAMAGE as error:
        raise ValueError(
            f"{path}: not a zarr group, or its zarr.json is damaged ({error}): restore that file from a copy"
        ) from error


def open_array(group: zarr.Group, key: str, path: Path) -> ZarrArray:
    """The array `key` of a group that lies at `path`; ValueError where it is missing or its description is damaged."""
    if not any((path / key / name).is_file() for name in ("zarr.json", ".zarray")):
        raise ValueError(f"{path}: there is no array {key}: restore it from a copy")
    try:
        array = group[key]
    except DAMAGE as error:
        raise ValueError(f"{path}: the description of {key} is damaged ({error}): restore it from a copy") from error
    if not isinstance(array, zarr.Array) or array.ndim < 1:
        raise ValueError(f"{path}: {key} must be an array over time, got {array}: restore it from a copy")
    return array


def read_rows(array: ZarrArray, start: int, stop: int) -> NDArray[Any]:
    """Rows start .. stop of an array on disk; ValueError naming the chunk file that cannot be decompressed."""
    _require_whole_blosc(array, start, stop)
    try:
        return np.asarray(array[start:stop])
    except DAMAGE:
        for file, chunk in _chunks(array, start, stop):
            try:
                array.blocks[chunk]
            except DAMAGE as error:
                raise ValueError(
                    f"{_place(array)}: chunk file {file} is damaged ({error}): restore it from a copy"
                ) from error
        raise


def require_chunks(array: ZarrArray, start: int, stop: int) -> None:
    """Raise ValueError where a file that holds rows start .. stop is not there; zarr would read zeros."""
    for file, _ in _chunks(array, start, stop):
        if not file.is_file():
            raise ValueError(f"{_place(array)}: chunk file {file} is missing: restore it from a copy")


def extend(array: ZarrArray, start: int, rows: NDArray[Any]) -> None:
    """Write rows from `start` on, in place of whatever an unfinished append left there, and end the array with them.

    Raises ValueError where the chunk that they continue is missing or damaged.
    """
    # zarr would fill the committed rows of a lost chunk with zeros when it writes the others.
    require_chunks(array, start - start % array.chunks[0], start)
    array.resize((start + len(rows), *array.shape[1:]))
    try:
        array[start : start + len(rows)] = rows
    except DAMAGE:
        read_rows(array, start - start % array.chunks[0], start)  # says which file is damaged
        raise


def _chunks(array: ZarrArray, start: int, stop: int) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """The files that hold rows start .. stop, each with the chunk's place in the array's grid of chunks."""
    folder = _root(array) / array.path
    sizes = array.shards or array.chunks
    rows = range(start // sizes[0], -(-stop // sizes[0])) if start < stop else range(0)
    others = (range(-(-length // size)) for length, size in zip(array.shape[1:], sizes[1:], strict=True))
    for chunk in itertools.product(rows, *others):
        yield folder / array.metadata.encode_chunk_key(chunk), chunk


def _require_whole_blosc(array: ZarrArray, start: int, stop: int) -> None:
    """Raise ValueError where a Blosc chunk was cut off: its decoder would read on behind the end, and give garbage.

    Bytes 12 to 16 of such a chunk say how many bytes it has.
    """
    codec = type(array.compressors[-1]).__name__ if array.compressors and not array.shards else ""
    if codec not in ("Blosc", "BloscCodec"):  # of zarr v2 and v3
        return
    for file, _ in _chunks(array, start, stop):
        if file.is_file():
            with file.open("rb") as opened:
                size = int.from_bytes(opened.read(16)[12:], "little")
            if size != file.stat().st_size:
                raise ValueError(
                    f"{_place(array)}: chunk file {file} is damaged (it must have {size} bytes, got "
                    f"{file.stat().st_size}): restore it from a copy"
                )


def _root(array: ZarrArray) -> Path:
    store = array.store
    assert isinstance(store, LocalStore)
    return store.root


def _place(array: ZarrArray) -> str:
    return f"{_root(array)}: {array.path}"
