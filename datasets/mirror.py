"""Demonstrations and what a mirror shows of them: twice the data, where a task looks the same in a mirror."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations


class Mirrored(Demonstrations):
    """Some demonstrations, and behind them each of them once more, in the same order, as a mirror shows it.

    mirror: for every stream, how its rows (T, ...) become those in the mirror. Episode n + i is the image of episode i.

    Raises ValueError where a stream has no image.
    """

    def __init__(
        self, demonstrations: Demonstrations, mirror: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]]
    ) -> None:
        self.path, self.specification = demonstrations.path, demonstrations.specification
        if missing := [stream.name for stream in self.specification.streams if stream.name not in mirror]:
            raise ValueError(f"{self.path}: a mirror must show every stream, it does not show {missing}")
        ends = demonstrations.episode_ends
        self._demonstrations, self._mirror = demonstrations, mirror
        self._middle = demonstrations.num_steps
        self.episode_ends = np.concatenate([ends, ends + self._middle])
        self.episode_seeds = np.concatenate([demonstrations.episode_seeds, np.full(len(ends), -1)])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes and then all their images: (stop - start, *shape)."""
        stream, middle = self.stream(name), self._middle
        start, stop = self.steps(start, stop)
        plain = self._demonstrations.read(name, min(start, middle), min(stop, middle))
        if stop <= middle:
            return plain
        shown = self._mirror[name](self._demonstrations.read(name, max(start - middle, 0), stop - middle))
        return np.concatenate([plain, shown.astype(stream.dtype)])
