"""The contract of demonstrations in any format: everything that the rest of the package knows about them.

Shapes: N steps of all episodes in turn; n episodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification, Stream, nearest
from .facts import UNKNOWN, EpisodeFacts


class Demonstrations(ABC):
    """Recorded episodes of several streams. A new format sets the four attributes and implements `read`.

    `datasets.check.check_demonstrations` tests whether a format keeps every promise.
    """

    path: Path
    """The file or folder that holds them."""
    specification: Specification
    """The streams that `read` returns."""
    episode_ends: NDArray[np.int64]
    """(n,), ascending: the first step after each episode."""
    episode_seeds: NDArray[np.int64]
    """(n,): the seed of each episode, or -1 if it is unknown."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape), in the stream's dtype.

        The caller owns the array and may write to it. stop: None stands for N.

        Raises ValueError if the stream or a step does not exist; `stream` and `step_range` check that.
        """

    def content(self, name: str) -> str | None:
        """A digest of everything that `read(name)` depends on, without decoding it; None if there is none.

        Decoded images are kept for later runs under it, so equal digests must mean equal rows.
        """
        del name

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): what is noted of each episode. A format that notes nothing leaves all of them unknown."""
        return [UNKNOWN] * len(self)

    @property
    def episode_numbers(self) -> NDArray[np.int64]:
        """(n,): the number of each episode in its file or folder, by which messages name it."""
        return np.arange(len(self))

    def __len__(self) -> int:
        """n, the number of episodes."""
        return len(self.episode_ends)

    @property
    def num_steps(self) -> int:
        """N, the number of steps of all episodes."""
        return int(self.episode_ends[-1]) if len(self.episode_ends) else 0

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """(n,), the number of steps of each episode."""
        return np.diff(self.episode_ends, prepend=0)

    def bounds(self, episode: int) -> tuple[int, int]:
        """The first step of an episode, and the first step after it. Raises ValueError if it does not exist."""
        if not 0 <= episode < len(self):
            raise ValueError(f"{self.path}: the episode must be one of 0 .. {len(self) - 1}, got {episode}")
        return int(self.episode_ends[episode - 1]) if episode else 0, int(self.episode_ends[episode])

    def episode_of(self, steps: ArrayLike) -> NDArray[np.int64]:
        """The episode of each step, in the shape of `steps`."""
        return np.searchsorted(self.episode_ends, steps, side="right")

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """All streams of an episode of L steps, including the action: name -> (L, *shape).

        Raises ValueError if the episode does not exist.
        """
        start, stop = self.bounds(index)
        return {stream.name: self.read(stream.name, start, stop) for stream in self.specification.streams}

    def stream(self, name: str) -> Stream:
        """The stream `name`. Raises ValueError, suggesting the nearest name, if it does not exist."""
        streams = {stream.name: stream for stream in self.specification.streams}
        if name not in streams:
            raise ValueError(f"{self.path}: there is no stream {name!r}: {nearest(name, streams)}")
        return streams[name]

    def step_range(self, start: int, stop: int | None) -> tuple[int, int]:
        """Check a range of steps; a stop of None becomes N. Raises ValueError if a step does not exist."""
        stop = self.num_steps if stop is None else stop
        if not 0 <= start <= stop <= self.num_steps:
            raise ValueError(f"{self.path}: steps must lie in 0 .. {self.num_steps}, got {start} .. {stop}")
        return start, stop


def check_episode_ends(ends: NDArray[np.int64], place: str) -> None:
    """Raise ValueError unless the ends ascend from 1 or more. place: of the array, for the message."""
    lengths = np.diff(ends, prepend=0)
    if len(wrong := np.flatnonzero(lengths < 1)):
        index = int(wrong[0])
        previous = f"{ends[index - 1]} for episode {index - 1}" if index else "a start at 0"
        raise ValueError(
            f"{place} must ascend, got {ends[index]} for episode {index} after {previous}: restore it from a copy"
        )


def cast_rows(values: NDArray[Any], stream: Stream, path: Path) -> NDArray[Any]:
    """Rows in the dtype of the stream. Raises ValueError if their shape or values do not fit."""
    rows = np.asarray(values)
    place = f"{path}: stream {stream.name!r}"
    if rows.shape[1:] != stream.shape or rows.ndim == 0:
        raise ValueError(f"{place}: an episode of L steps must have shape {('L', *stream.shape)}, got {rows.shape}")
    is_rounding = np.issubdtype(rows.dtype, np.floating) and np.issubdtype(np.dtype(stream.dtype), np.floating)
    if not (is_rounding or np.can_cast(rows.dtype, stream.dtype, "safe")):
        raise ValueError(f"{place}: values must fit {stream.dtype} as they are, got {rows.dtype}: convert them first")
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused below
        rows = rows.astype(stream.dtype, copy=False)
    check_finite(rows, stream, str(path))
    return rows


def check_finite(rows: NDArray[Any], stream: Stream, place: str, first: int = 0) -> None:
    """Raise ValueError if rows (L, *shape) of a stream hold NaN or infinity. first: the step of the first row."""
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return
    row, *dimension = (int(index) for index in np.argwhere(~np.isfinite(rows))[0])
    name = stream.label(dimension[0]) if len(dimension) == 1 else f"{stream.name}{dimension}"
    raise ValueError(
        f"{place}: stream {stream.name!r}, step {first + row}, dimension {name}: values must be finite, "
        f"got {rows[(row, *dimension)]}: repair or leave out the episode"
    )


def check_context(rows: NDArray[Any], stream: Stream, place: str) -> None:
    """Raise ValueError unless the rows (L, *shape) of a context stream in an episode are all the same."""
    is_other = (rows != rows[:1]).reshape(len(rows), -1).any(-1)
    if is_other.any():
        raise ValueError(
            f"{place}: context {stream.name!r} must be the same in all steps of an episode, but step "
            f"{int(is_other.argmax())} differs from the first: record it without context=True, or split the episode"
        )


def cast_unclipped(rows: NDArray[Any], stream: Stream, place: str) -> NDArray[Any]:
    """Rows in the dtype of their stream, C-contiguous. Floats may be rounded to floats; nothing else may change.

    Raises ValueError for a value that the dtype does not have. place: of the rows, for the message.
    """
    if rows.dtype == stream.dtype:
        return np.ascontiguousarray(rows)
    converted = stream.cast(rows)
    is_float = converted.dtype.kind == "f"
    is_kept = np.abs(rows) <= float(np.finfo(converted.dtype).max) if is_float else converted == rows
    if not is_kept.all():
        raise ValueError(
            f"{place}: a value of stream {stream.name!r} must be one of {stream.dtype}, got {rows[~is_kept].flat[0]}: "
            "convert it in the data, or give the stream another dtype"
        )
    return converted
