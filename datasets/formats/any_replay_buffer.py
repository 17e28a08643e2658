"""Replay buffers in the layout of Diffusion Policy, without a task that knows what is in them.

See `replay_buffer` for the layout, and for what damage to one is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ZarrArray, check_length, chunk_files, open_array, open_group, read_rows
from .interface import ACTION, OBSERVATION, Column, ForeignDataset
from .numpy_files import ACTIONS
from .replay_buffer import data_keys, read_ends, to_uint8

DESCRIPTIONS = ("zarr.json", ".zgroup")
"""Files of which one describes a group."""


class AnyReplayBuffer(ForeignDataset):
    """A replay buffer. Its arrays directly in `data` are its columns.

    Images that are stored as floating-point numbers become uint8, if those of the first step are whole numbers.
    """

    kind = "replay_buffer"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this is a group of zarr with `data` and `meta/episode_ends`."""
        is_group = any((path / name).is_file() for name in DESCRIPTIONS)
        return is_group and (path / "data").is_dir() and (path / "meta" / "episode_ends").is_dir()

    def __init__(self, path: str | Path) -> None:
        self.path, self.rate = Path(path), None
        group = open_group(self.path)
        if "recede" in group.attrs:
            raise ValueError(f"{self.path} is a store of Recede already: recede edit makes another one of it")
        ends = read_ends(group, self.path)
        if not len(ends):
            raise ValueError(f"{self.path}: meta/episode_ends must name an episode or more, got none: record some")
        self._starts, self.episode_lengths = np.append(0, ends[:-1]), np.diff(ends, prepend=0)
        self._ends = open_array(group, "meta/episode_ends", self.path)
        self._arrays = {key: open_array(group, f"data/{key}", self.path) for key in data_keys(self.path)}
        for array in self._arrays.values():
            check_length(array, int(ends[-1]), self.path)
        self.columns = tuple(_column(key, array) for key, array in self._arrays.items())
        self.metadata = {"attributes": dict(group.attrs)} if group.attrs else {}

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop of an array in an episode. Raises ValueError, naming the file, for a damaged chunk."""
        column, begin = self.column(key), int(self._starts[episode])
        rows = read_rows(self._arrays[key], begin + start, begin + stop)
        if column.dtype == "uint8":
            rows = to_uint8(rows, f"{self.path}: data/{key}")
        return np.ascontiguousarray(rows, dtype=column.dtype)

    def files(self) -> Iterable[Path]:
        """The files of all arrays, and their descriptions."""
        for array in (*self._arrays.values(), self._ends):
            folder = self.path / array.path
            described = (folder / name for name in ("zarr.json", ".zarray"))
            yield from (file for file in (*described, *chunk_files(array)) if file.is_file())


def _column(key: str, array: ZarrArray) -> Column:
    """An array as a column. Reads its first step if it may be an image in floating point."""
    shape, dtype = array.shape[1:], array.dtype
    if dtype.kind not in "biuf":
        return Column(key, shape, f"{dtype}")
    role = ACTION if key in ACTIONS else OBSERVATION
    if dtype.kind == "f" and len(shape) == 3 and array.shape[0]:
        first = read_rows(array, 0, 1)
        if ((first >= 0) & (first <= 255) & (first == np.round(first))).all():
            return Column(key, shape, "uint8", role=role, note=f"{dtype.name}, whole numbers")
    return Column(key, shape, dtype.name, role=role)
