"""Open, read and extend arrays over time in zarr folders (v2 and v3); errors name the damaged file.

By itself zarr reads a missing chunk as zeros, does not name a damaged one, and decodes a truncated Blosc chunk to
whatever follows it in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from .declared_sizes import SIZES, declared_sizes
from .descriptions import check_description

ZarrArray: TypeAlias = zarr.Array[Any]
"""An array on disk, v2 or v3."""

DAMAGE = (
    *(ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError),
    *(ArithmeticError, MemoryError, EOFError, zlib.error, lzma.LZMAError),
)
"""Errors of zarr and its codecs about damaged content. OSError is not among them: there the machine failed, and the
message says how."""

SPARSE = 1000
"""Of so many chunk files at least one must exist. Writers may leave out chunks of zeros."""


def open_group(path: str | Path, mode: str = "r") -> zarr.Group:
    """The zarr group (v2 or v3) in the folder `path`.

    Raises FileNotFoundError if `path` does not exist, and ValueError if it is not a zarr group or is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the path")
    if not is_group(path):
        raise ValueError(f"{path}: not a zarr group (neither zarr.json nor .zgroup in it): {_remedy(path)}")
    try:
        store = LocalStore(path, read_only=mode == "r")
        return zarr.open_group(store, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
    except DAMAGE as error:
        remedy = enclosing_store(path) or "restore that file from a copy"
        raise ValueError(f"{path}: not a zarr group, or its zarr.json is damaged ({error}): {remedy}") from error


def enclosing_store(path: Path) -> str:
    """What to do about a path within a store: name the store; empty if it lies within none."""
    groups = [parent for parent in path.parents if is_group(parent)]
    return f"it lies within {groups[-1]}, so name that" if groups else ""


def is_group(path: Path) -> bool:
    """Whether a folder is a zarr group, v2 or v3. Does not open it."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def _remedy(path: Path) -> str:
    """What to do about a path that is no zarr group, by what it seems to be."""
    if path.is_file() and zipfile.is_zipfile(path):
        return f"it is a zip archive, so unzip it first (unzip {path.name} -d FOLDER) and name the folder"
    if path.is_file() and path.suffix in (".hdf5", ".h5"):
        return f"it is a file of HDF5, so make a store of it: recede convert {path.name} out=STORE"
    if (path / "meta" / "info.json").is_file():
        return f"it seems to be a data set of LeRobot, so make a store of it: recede convert {path} out=STORE"
    if stores := sorted(file.parents[1] for name in (".zgroup", "zarr.json") for file in path.glob(f"*/data/{name}")):
        return f"did you mean {stores[0]}?"
    return enclosing_store(path) or "name the folder of a store"


def open_array(group: zarr.Group, key: str, path: Path) -> ZarrArray:
    """The array `key` of the group at `path`.

    Raises ValueError if it is missing, or if its description is damaged or refused by `check_description`.
    """
    description = path / key / ("zarr.json" if group.metadata.zarr_format == 3 else ".zarray")
    if not description.is_file():
        raise ValueError(f"{path}: there is no array {key}: restore it from a copy")
    check_description(description)
    try:
        array = group[key]
    except DAMAGE as error:
        raise ValueError(f"{path}: the description of {key} is damaged ({error}): restore it from a copy") from error
    if not isinstance(array, zarr.Array) or array.ndim < 1:
        raise ValueError(f"{path}: {key} must be an array over time, got {array}: restore it from a copy")
    return array


def read_rows(array: ZarrArray, start: int, stop: int) -> NDArray[Any]:
    """Rows start .. stop of an array on disk. Raises ValueError, naming the chunk file, if one is damaged."""
    _require_untruncated(array, start, stop)
    _require_no_bomb(array, start, stop)
    try:
        return np.asarray(array[start:stop])
    except DAMAGE:
        for file, region in _chunks(array, start, stop):
            try:
                array[region]
            except DAMAGE as error:
                raise ValueError(
                    f"{_place(array)}: chunk file {file} is damaged ({error or 'it claims to be too large'}): restore "
                    "it from a copy"
                ) from error
        raise


def require_chunks(array: ZarrArray, start: int, stop: int) -> None:
    """Raise ValueError if a file of rows start .. stop is missing, which zarr would read as zeros."""
    for file, _ in _chunks(array, start, stop):
        if not file.is_file():
            raise ValueError(f"{_place(array)}: chunk file {file} is missing: restore it from a copy")


def chunk_files(array: ZarrArray) -> list[Path]:
    """The files of all rows of an array on disk."""
    return [file for file, _ in _chunks(array, 0, array.shape[0])]


def files_digest(array: ZarrArray, num_steps: int) -> str:
    """SHA-256 of the description of an array and of the files of its first `num_steps` rows, whatever their folder."""
    folder, digest = _root(array) / array.path, hashlib.sha256(f"{num_steps}".encode())
    description = folder / ("zarr.json" if array.metadata.zarr_format == 3 else ".zarray")
    for file in [description, *(file for file, _ in _chunks(array, 0, num_steps))]:
        digest.update(f"\n{file.relative_to(folder)} ".encode())
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def extend(array: ZarrArray, start: int, rows: NDArray[Any]) -> None:
    """Write rows from `start` on and end the array after them; rows of an unfinished append are overwritten.

    Raises ValueError if the chunk that the rows continue is missing or damaged.
    """
    # zarr would fill the earlier rows of a missing chunk with zeros.
    begin = start - start % file_rows(array)
    require_chunks(array, begin, start)
    array.resize((start + len(rows), *array.shape[1:]))
    try:
        array[start : start + len(rows)] = rows
    except DAMAGE:
        read_rows(array, begin, start)  # names the damaged file
        raise


def _chunks(array: ZarrArray, start: int, stop: int) -> Iterator[tuple[Path, tuple[slice, ...]]]:
    """The files of rows start .. stop, each with the region of the array that it holds."""
    folder, sizes = _root(array) / array.path, _file_shape(array)
    rows = range(start // sizes[0], -(-stop // sizes[0])) if start < stop else range(0)
    columns = [range(-(-length // size)) for length, size in zip(array.shape[1:], sizes[1:], strict=True)]
    for chunk in ((row, *rest) for row in rows for rest in itertools.product(*columns)):  # a row of chunks at a time
        region = tuple(slice(index * size, (index + 1) * size) for index, size in zip(chunk, sizes, strict=True))
        yield folder / array.metadata.encode_chunk_key(chunk), region


def file_rows(array: ZarrArray) -> int:
    """Number of rows in one file."""
    return _file_shape(array)[0]


def _file_shape(array: ZarrArray) -> tuple[int, ...]:
    """The shape of the region in one file: a shard if there are shards, else a chunk."""
    return array.shards or array.chunks


def _require_untruncated(array: ZarrArray, start: int, stop: int) -> None:
    """Raise ValueError if a truncated file would decode without an error.

    The decoder of a Blosc chunk reads beyond its end and returns garbage; bytes 12 to 16 hold its size. zarr reads an
    empty shard as zeros.
    """
    codec = type(array.compressors[-1]).__name__ if array.compressors and not array.shards else ""
    is_blosc = codec in ("Blosc", "BloscCodec")  # zarr v2, v3
    if not (is_blosc or array.shards):
        return
    for file, _ in _chunks(array, start, stop):
        if not file.is_file():
            continue
        size = max(file.stat().st_size, 1)
        if is_blosc:
            with file.open("rb") as opened:
                size = int.from_bytes(opened.read(16)[12:], "little")
        if size != file.stat().st_size:
            least = "" if is_blosc else "at least "
            raise ValueError(
                f"{_place(array)}: chunk file {file} is damaged (it must have {least}{size} bytes, "
                f"got {file.stat().st_size}): restore it from a copy"
            )


def _require_no_bomb(array: ZarrArray, start: int, stop: int) -> None:
    """Raise ValueError if a chunk of rows start .. stop would decompress to more than a chunk."""
    codecs = [
        type(codec).__name__ for codec in array.compressors if not type(codec).__name__.lower().startswith("crc32")
    ]
    if not codecs or codecs[-1] not in SIZES:
        return
    # A filter may store its result in another dtype, of up to 8 times the bytes.
    most = math.prod(array.chunks) * array.dtype.itemsize * (8 if array.filters else 1)
    for file, region in _chunks(array, start, stop):
        if not file.is_file():
            continue
        first = max(start - region[0].start, 0) // array.chunks[0]
        last = -(-(min(stop, region[0].stop) - region[0].start) // array.chunks[0])
        for size in declared_sizes(file, array, codecs[-1], slice(first, last), most):
            if size > most:
                raise ValueError(
                    f"{_place(array)}: chunk file {file} is damaged (a chunk has {most} bytes, one claims {size}): "
                    "restore it from a copy"
                )


def _root(array: ZarrArray) -> Path:
    store = array.store
    assert isinstance(store, LocalStore)
    return store.root


def _place(array: ZarrArray) -> str:
    return f"{_root(array)}: {array.path}"


def check_length(array: ZarrArray, num_steps: int, path: Path) -> None:
    """Raise ValueError if an array over time is shorter than the episodes, or has hardly any of their files."""
    if array.shape[0] < num_steps:
        raise ValueError(
            f"{path}: {array.path} must reach the last episode's end at step {num_steps}, got {array.shape[0]} steps: "
            "restore it from a copy"
        )
    least = -(-num_steps // file_rows(array)) // SPARSE
    present = sum(1 for _ in itertools.islice((_root(array) / array.path).rglob("*"), least))
    if present < least:
        raise ValueError(
            f"{path}: {array.path} must have at least {least} chunk files for {num_steps} steps, got {present}: "
            "restore it from a copy"
        )
