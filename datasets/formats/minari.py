"""Data sets of Minari in HDF5: `main_data.hdf5` with a group for each episode, and `metadata.json` beside it.

Nested spaces of observations and actions are nested groups. Each episode has an observation more than actions; the last
one is left out. The spaces are kept as metadata, and finite limits of a Box are proposed as limits of its stream.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .hdf5 import Hdf5
from .hdf5_arrays import Refusal, number, parsed
from .interface import Column

METADATA, EPISODES = "metadata.json", "main_data.hdf5"
"""The files."""

SPACES = {"observations": "observation_space", "actions": "action_space"}
"""Group of an episode -> entry of the metadata."""

LARGEST_LIMIT = 1e30
"""Limits beyond stand for none."""

FEW = 100
"""So many limits of a space are kept."""


class Minari(Hdf5):
    """A data set of Minari: its folder, the folder `data` in it, or the file of its episodes."""

    kind = "minari"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the files of a data set are there."""
        return _folder(path) is not None

    def __init__(self, path: str | Path) -> None:
        folder = _folder(Path(path))
        assert folder is not None
        self._file = folder / METADATA
        noted = _metadata(self._file)
        if (stored_as := noted.get("data_format", "hdf5")) != "hdf5":
            raise Refusal(
                f"{self._file}: data_format must be hdf5, got {stored_as!r}: write the data set anew with Minari, with "
                "data_format='hdf5'"
            )
        self._open(Path(path), [folder / EPISODES])
        self._check_totals(noted)
        self.version = str(noted.get("minari_version", ""))
        specification = parsed(str(noted.get("env_spec", "")))
        self.rate = self.rate or _rate(specification) or _rate(noted)
        spaces = {group: _space(noted.get(entry)) for group, entry in SPACES.items()}
        self.columns = tuple(_limited(column, spaces) for column in self.columns)
        self.metadata = (
            dict(self.metadata)
            | {name: value for name, value in noted.items() if name not in SPACES.values()}
            | ({"env_spec": specification} if specification else {})
            | {entry: _condensed(spaces[group]) for group, entry in SPACES.items()}
        )

    def files(self) -> list[Path]:
        """The episodes and the metadata."""
        return [*super().files(), self._file]

    def _check_totals(self, noted: Mapping[str, Any]) -> None:
        """Raises ValueError if episodes or steps are missing."""
        present = {"total_episodes": len(self.episode_lengths), "total_steps": int(self.episode_lengths.sum())}
        for name, count in present.items():
            if isinstance(noted.get(name), int) and noted[name] != count:
                raise Refusal(
                    f"{self.path}: {name} must be {noted[name]} as {METADATA} says, got {count}: restore {EPISODES} "
                    "from a copy"
                )


def _folder(path: Path) -> Path | None:
    """Where the files of the data set at a path are."""
    for folder in (path.parent,) if path.name == EPISODES else (path / "data", path):
        if (folder / METADATA).is_file() and ((folder / EPISODES).is_file() or _names_a_format(folder / METADATA)):
            return folder
    return None


def _names_a_format(file: Path) -> bool:
    with file.open("rb") as opened:
        return b'"data_format"' in opened.read(2**12)


def _metadata(file: Path) -> dict[str, Any]:
    """The entries of the metadata. Raises ValueError if it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{file} is no JSON ({error}): restore it from a copy") from error
    if not isinstance(content, dict):
        raise Refusal(f"{file} must hold a JSON object, got {str(content)[:40]!r}: restore it from a copy")
    return content


def _rate(noted: Any) -> float | None:
    """The frames a second of an environment, if they are noted."""
    if not isinstance(noted, Mapping):
        return None
    inner = [noted.get(name) for name in ("kwargs", "metadata")]
    rates = [number(entry, "render_fps", "fps") for entry in (noted, *inner) if isinstance(entry, Mapping)]
    return next(filter(None, rates), None)


def _space(text: Any) -> Any:
    """A space, as the JSON of its text; infinite limits are numbers."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _limited(column: Column, spaces: Mapping[str, Any]) -> Column:
    """A column with the limits of its Box, if all are finite."""
    group, *names = column.key.split("/")
    space = spaces.get(group)
    for name in names:
        space = _part(space, name)
    if not isinstance(space, Mapping) or space.get("type") != "Box" or not column.dtype.startswith("float"):
        return column
    try:
        low, high = (np.asarray(space[side], dtype=np.float64).ravel() for side in ("low", "high"))
    except (KeyError, ValueError, TypeError, OverflowError):
        return column
    are_limits = len(low) == len(high) == math.prod(column.shape) and (np.abs([low, high]) < LARGEST_LIMIT).all()
    if not are_limits or not (low < high).all():
        return column
    return replace(column, low=tuple(low.tolist()), high=tuple(high.tolist()))


def _part(space: Any, name: str) -> Any:
    """The space `name` of a Dict, or `_index_N` of a Tuple."""
    parts = space.get("subspaces") if isinstance(space, Mapping) else None
    if isinstance(parts, list):
        index = name.removeprefix("_index_")
        return parts[int(index)] if index.isdecimal() and int(index) < len(parts) else None
    return parts.get(name) if isinstance(parts, Mapping) else None


def _condensed(space: Any) -> Any:
    """A space as JSON: equal limits are one, `FEW` are a list, and more are left out; infinity is a text."""
    if isinstance(space, list):
        return [_condensed(part) for part in space]
    if not isinstance(space, Mapping):
        return space if not isinstance(space, float) or math.isfinite(space) else str(space)
    result = {}
    for name, value in space.items():
        if name in ("low", "high") and isinstance(value, list):
            flat = np.asarray(value, dtype=object).ravel().tolist()
            if len(set(map(str, flat))) == 1:
                result[name] = _condensed(flat[0])
            elif len(flat) <= FEW:
                result[name] = _condensed(value)
        else:
            result[name] = _condensed(value)
    return result
