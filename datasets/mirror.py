"""Demonstrations and their mirror images: twice the data, for a task that looks the same in a mirror."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import ABSENT, WORDS
from .code_digest import code_digest
from .demonstrations import Demonstrations, cast_unclipped
from .facts import EpisodeFacts


class Mirrored(Demonstrations):
    """The demonstrations, followed by their mirror images in the same order: episode n + i mirrors episode i.

    mirror: for each stream, a function from its rows (T, ...) to their mirror images. Without one for `WORDS`, the
    sentence of an episode is that of its mirror image too, and so it is with what is absent.

    Raises ValueError if a stream has no mirror.
    """

    def __init__(
        self, demonstrations: Demonstrations, mirror: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]]
    ) -> None:
        self.path, self.specification = demonstrations.path, demonstrations.specification
        mirror = {WORDS: np.positive, ABSENT: np.positive, **mirror}
        if missing := [stream.name for stream in self.specification.streams if stream.name not in mirror]:
            raise ValueError(f"{self.path}: a mirror must have an entry for every stream, {missing} are missing")
        ends = demonstrations.episode_ends
        self._demonstrations, self._mirror = demonstrations, mirror
        self._middle = demonstrations.num_steps
        self.episode_ends = np.concatenate([ends, ends + self._middle])
        self.episode_seeds = np.concatenate([demonstrations.episode_seeds, np.full(len(ends), -1)])

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(2 n,): the facts of each episode, which its mirror image shares."""
        return 2 * list(self._demonstrations.episode_facts)

    def content(self, name: str) -> str | None:
        """A digest of the rows and of the code of their mirror; None if either has none."""
        digests = self._demonstrations.content(name), code_digest(self._mirror[self.stream(name).name])
        return None if None in digests else f"mirrored {digests}"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, first of all episodes and then of all mirror images: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        stream, middle = self.stream(name), self._middle
        start, stop = self.step_range(start, stop)
        originals = self._demonstrations.read(name, min(start, middle), min(stop, middle))
        if stop <= middle:
            return originals
        images = self._mirror[name](self._demonstrations.read(name, max(start - middle, 0), stop - middle))
        return np.concatenate([originals, cast_unclipped(images, stream, f"{self.path}: the mirror")])
