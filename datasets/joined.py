"""Several demonstrations one after the other, as demonstrations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations
from .facts import EpisodeFacts


class Joined(Demonstrations):
    """The episodes of several demonstrations in turn. Their streams are matched by name, in the order of the first.

    What the dimensions of a stream are (`Stream.kinds`) is what those say that say it; older stores do not.

    remedy: what to do about streams that differ.

    Raises ValueError if there are none, or if they have other streams than the first, or other kinds than one before.
    """

    def __init__(
        self, parts: Sequence[Demonstrations], *, remedy: str = "leave one of them out, or record it anew"
    ) -> None:
        if not parts:
            raise ValueError("one demonstration or more must be joined, got none")
        self.parts = tuple(parts)
        self.path, self.specification = parts[0].path, parts[0].specification
        for part in parts:
            if differences := self.specification.differences(part.specification):
                raise ValueError(
                    f"{part.path} must have the streams of {self.path}, whose are named first: "
                    f"{'; '.join(differences)}: {remedy}"
                )
            self.specification = self.specification.with_kinds(part.specification)
        self._ends = np.cumsum([part.num_steps for part in parts], dtype=np.int64)
        starts = self._ends - [part.num_steps for part in parts]
        self.episode_ends = np.concatenate(
            [part.episode_ends + start for part, start in zip(parts, starts, strict=True)]
        )
        self.episode_seeds = np.concatenate([part.episode_seeds for part in parts])

    @property
    def episode_numbers(self) -> NDArray[np.int64]:
        """(n,): the number of each episode in the demonstrations that it comes from."""
        return np.concatenate([part.episode_numbers for part in self.parts])

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of each episode."""
        return [facts for part in self.parts for facts in part.episode_facts]

    def content(self, name: str) -> str | None:
        """A digest of the stream in all parts; None if one of them has none."""
        digests = [part.content(name) for part in self.parts]
        if None in digests:
            return None
        return "joined " + hashlib.sha256(repr(digests).encode()).hexdigest()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all parts in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        stream = self.stream(name)
        start, stop = self.step_range(start, stop)
        pieces, first = list[NDArray[Any]](), 0
        for part, end in zip(self.parts, self._ends.tolist(), strict=True):
            if max(start, first) < min(stop, end):
                pieces.append(part.read(name, max(start, first) - first, min(stop, end) - first))
            first = end
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, *stream.shape), stream.dtype)
