"""Recorded episodes, whatever format they lie in: all that the rest of the package knows of them.

Shapes: N steps of all episodes in turn; n episodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import Specification, Stream, nearest


class Demonstrations(ABC):
    """Episodes of several streams. A format of yours sets four attributes and implements `read`.

    path: where they lie. specification: the streams, as they are read. episode_ends: (n,) int64, the first step after
    each episode, ascending. episode_seeds: (n,) int64, the seed of each episode, -1 if it is unknown.

    `datasets.check.check_demonstrations` says whether a format keeps every promise.
    """

    path: Path
    specification: Specification
    episode_ends: NDArray[np.int64]
    episode_seeds: NDArray[np.int64]

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape), in the stream's dtype.

        The array is the caller's, who may write to it. stop: None stands for N.

        Raises ValueError for a stream or a step that does not exist; `stream` and `steps` do so.
        """

    def __len__(self) -> int:
        """n, the number of episodes."""
        return len(self.episode_ends)

    @property
    def num_steps(self) -> int:
        """N, the steps of all episodes together."""
        return int(self.episode_ends[-1]) if len(self.episode_ends) else 0

    def bounds(self, episode: int) -> tuple[int, int]:
        """The first step of an episode, and the first one after it. Raises ValueError if there is no such episode."""
        if not 0 <= episode < len(self):
            raise ValueError(f"{self.path}: the episode must be one of 0 .. {len(self) - 1}, got {episode}")
        return int(self.episode_ends[episode - 1]) if episode else 0, int(self.episode_ends[episode])

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """Every stream of one episode of L steps, the action among them: name -> (L, *shape).

        Raises ValueError if there is no such episode.
        """
        start, stop = self.bounds(index)
        return {stream.name: self.read(stream.name, start, stop) for stream in self.specification.streams}

    def stream(self, name: str) -> Stream:
        """The stream of that name; ValueError with the nearest one if there is none."""
        streams = {stream.name: stream for stream in self.specification.streams}
        if name not in streams:
            raise ValueError(f"{self.path}: there is no stream {name!r}: {nearest(name, streams)}")
        return streams[name]

    def steps(self, start: int, stop: int | None) -> tuple[int, int]:
        """A range of steps, checked; None stands for the last step's end."""
        stop = self.num_steps if stop is None else stop
        if not 0 <= start <= stop <= self.num_steps:
            raise ValueError(f"{self.path}: steps must lie in 0 .. {self.num_steps}, got {start} .. {stop}")
        return start, stop


def check_episode_ends(ends: NDArray[np.int64], place: str) -> None:
    """Raise ValueError unless episodes end one after the other, each with a step at least. place: where they lie."""
    lengths = np.diff(ends, prepend=0)
    if len(wrong := np.flatnonzero(lengths < 1)):
        index = int(wrong[0])
        before = f"{ends[index - 1]} for episode {index - 1}" if index else "a start at 0"
        raise ValueError(
            f"{place} must ascend, got {ends[index]} for episode {index} after {before}: restore it from a copy"
        )


def check_finite(rows: NDArray[Any], stream: Stream, place: str, first: int = 0) -> None:
    """Raise ValueError naming the first NaN or infinity in rows (L, *shape) of a stream; the first is step `first`."""
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return
    row, *dimension = (int(index) for index in np.argwhere(~np.isfinite(rows))[0])
    name = stream.label(dimension[0]) if len(dimension) == 1 else f"{stream.name}{dimension}"
    raise ValueError(
        f"{place}: stream {stream.name!r}, step {first + row}, dimension {name}: values must be finite, "
        f"got {rows[(row, *dimension)]}: repair or leave out the episode"
    )
