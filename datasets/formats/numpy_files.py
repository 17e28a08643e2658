"""Episodes as numpy wrote them: a folder of `.npz` files, or of folders of `.npy` files.

One such file or folder is one episode, and its arrays (L, ...) are the columns. Arrays of objects are refused, because
they are pickles. Arrays of `.npy` files are mapped, so memory grows with the rows that are read. An array of a `.npz`
file is decompressed as a whole.
"""

from __future__ import annotations

import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .interface import ACTION, OBSERVATION, Column, ForeignDataset

DAMAGE = (
    *(ValueError, OSError, EOFError, KeyError, SyntaxError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""Errors of numpy and zipfile about damaged files."""

ACTIONS = ("action", "actions", "act", "command", "commands", "cmd")
"""Names of columns that are proposed as the action."""


def is_action(key: str) -> bool:
    """Whether a column is proposed as the action: by its name, or by the first part of it.

    >>> [is_action(key) for key in ("action", "action.joints", "Actions/arm", "cmd", "reaction")]
    [True, True, True, True, False]
    """
    return re.split("[./]", key.lower())[0] in ACTIONS


class NumpyFiles(ForeignDataset):
    """A folder of episodes in numpy's formats, in the order of their names, numbers in them counting as numbers."""

    kind = "numpy"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this is an `.npz` file, or a folder that directly holds such files or folders of `.npy` files."""
        return bool(_episodes(path))

    def __init__(self, path: str | Path) -> None:
        self.path, self.metadata, self.rate = Path(path), {}, None
        self._episodes = _episodes(self.path)
        self._cached: tuple[Path, str, NDArray[Any]] | None = None
        headers = [_headers(episode) for episode in self._episodes]
        self.episode_lengths = np.array(
            [_length(episode, header) for episode, header in zip(self._episodes, headers, strict=True)], dtype=np.int64
        )
        for episode, header in zip(self._episodes, headers, strict=True):
            _check_alike(episode, header, self._episodes[0], headers[0])
        self.columns = tuple(
            Column(key, shape[1:], dtype, role=ACTION if is_action(key) else OBSERVATION)
            for key, (shape, dtype) in headers[0].items()
        )

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop of an array of an episode. Raises ValueError if the file is damaged."""
        path = self._episodes[episode]
        if path.is_dir():
            return np.array(_opened(path / f"{key}.npy")[start:stop])
        if self._cached is None or self._cached[:2] != (path, key):  # a read in pieces decompresses once
            self._cached = (path, key, _opened(path, key))
        return self._cached[2][start:stop].copy()

    def files(self) -> Iterable[Path]:
        """The `.npz` and `.npy` files."""
        for path in self._episodes:
            yield from sorted(path.glob("*.npy")) if path.is_dir() else [path]

    def episode_name(self, episode: int) -> str:
        """The name of its file or folder."""
        return self._episodes[episode].name


def _episodes(path: Path) -> list[Path]:
    """The files or folders of the episodes; empty if there are none."""
    if path.is_file():
        return [path] if path.suffix == ".npz" and zipfile.is_zipfile(path) else []
    if not path.is_dir():
        return []
    entries = sorted(path.iterdir(), key=natural)
    files = [entry for entry in entries if entry.suffix == ".npz" and entry.is_file()]
    folders = [entry for entry in entries if entry.is_dir() and any(entry.glob("*.npy"))]
    if files and folders:
        raise ValueError(
            f"{path} must hold .npz files or folders of .npy files, and holds both ({files[0].name}, "
            f"{folders[0].name}): move one kind to another folder"
        )
    return files or folders or ([path] if any(path.glob("*.npy")) else [])


def natural(path: Path) -> list[Any]:
    """A key that sorts names by the numbers in them: episode_2 before episode_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _headers(episode: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key -> shape and dtype of every array, without reading its values. Raises ValueError if one is no array."""
    if episode.is_dir():
        opened = {file.stem: _opened(file) for file in sorted(episode.glob("*.npy"))}
        return {key: (array.shape, _named(array.dtype)) for key, array in opened.items()}
    headers = dict[str, tuple[tuple[int, ...], str]]()
    try:
        with zipfile.ZipFile(episode) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    form = np.lib.format
                    is_first = form.read_magic(member) == (1, 0)
                    shape, _, dtype = (form.read_array_header_1_0 if is_first else form.read_array_header_2_0)(member)
                    begin, size = member.tell(), archive.getinfo(name).file_size
                if not dtype.hasobject and size != begin + math.prod(shape) * dtype.itemsize:
                    raise ValueError(f"{name} must hold {dtype.name} {shape}, and has {size - begin} bytes")
                headers[name.removesuffix(".npy")] = (shape, _named(dtype))
    except DAMAGE as error:
        raise ValueError(f"{episode} is no whole .npz file of arrays ({error}): restore it from a copy") from error
    return headers


def _named(dtype: np.dtype[Any]) -> str:
    """The dtype of a column."""
    return "text" if dtype.kind in "US" else dtype.name


def _opened(file: Path, key: str | None = None) -> NDArray[Any]:
    """The array of an `.npy` file, mapped, or one of an `.npz` file. Raises ValueError if it is damaged or a pickle."""
    try:
        if key is None:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        with np.load(file, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    except DAMAGE as error:
        name = f"{file}" if key is None else f"{file}: {key}"
        raise ValueError(f"{name} is no whole array of numbers ({error}): restore it from a copy") from error


def _length(episode: Path, headers: Mapping[str, tuple[tuple[int, ...], str]]) -> int:
    """The steps of an episode. Raises ValueError unless all its arrays have the same length, at least 1."""
    lengths = {key: shape[0] if shape else 0 for key, (shape, _) in headers.items()}
    if not lengths or len(set(lengths.values())) > 1 or min(lengths.values()) < 1:
        raise ValueError(
            f"{episode}: all arrays of an episode must have a row for each of its steps, got rows {lengths}: save "
            "those of other lengths elsewhere"
        )
    return next(iter(lengths.values()))


def _check_alike(episode: Path, headers: Mapping[str, Any], first: Path, others: Mapping[str, Any]) -> None:
    """Raises ValueError unless an episode has the arrays of the first one."""
    if headers.keys() != others.keys():
        key = sorted(headers.keys() ^ others.keys())[0]
        has, lacks = (episode, first) if key in headers else (first, episode)
        raise ValueError(f"{has} has an array {key!r} and {lacks} has none: all episodes must have the same arrays")
    for key, (shape, dtype) in headers.items():
        other, kind = others[key]
        if (shape[1:], dtype) != (other[1:], kind):
            raise ValueError(
                f"{episode}: {key} must have steps of {kind} {other[1:]} as in {first.name}, got {dtype} {shape[1:]}"
            )
