"""Demonstrations as a policy observes them: some of their streams, and their sentences as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import WORDS, Specification, Stream, nearest
from .demonstrations import Demonstrations
from .facts import EpisodeFacts


class Observed(Demonstrations):
    """The same episodes with other observation streams. A subclass sets `specification`."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        self.path, self._demonstrations = demonstrations.path, demonstrations
        self.episode_ends, self.episode_seeds = demonstrations.episode_ends, demonstrations.episode_seeds

    @property
    def episode_numbers(self) -> NDArray[np.int64]:
        """(n,): the number of each episode in its file or folder."""
        return self._demonstrations.episode_numbers

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of each episode."""
        return self._demonstrations.episode_facts

    def content(self, name: str) -> str | None:
        """A digest of the stream; None if there is none."""
        return self._demonstrations.content(self.stream(name).name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        return self._demonstrations.read(self.stream(name).name, start, stop)


class Observing(Observed):
    """The episodes with some of their observation streams, in the order of the demonstrations.

    Raises ValueError for a stream that does not exist.
    """

    def __init__(self, demonstrations: Demonstrations, names: Sequence[str]) -> None:
        super().__init__(demonstrations)
        whole = demonstrations.specification
        streams = {stream.name: stream for stream in whole.observations}
        for name in names:
            if name not in streams:
                raise ValueError(f"{self.path}: there is no observation {name!r} to observe: {nearest(name, streams)}")
        self.specification = whole.without(streams.keys() - set(names))


def as_observed(demonstrations: Demonstrations, specification: Specification) -> Demonstrations:
    """The episodes with those of their observations that a policy observes; as they are if it observes all or none."""
    names = {stream.name for stream in specification.observations}
    own = [stream.name for stream in demonstrations.specification.observations]
    kept = [name for name in own if name in names]
    return demonstrations if len(kept) in (0, len(own)) else Observing(demonstrations, kept)


class Worded(Observed):
    """The episodes with their sentences: the context stream `words` (E,) comes behind their observations.

    embed: sentence -> (E,). digest: of whatever decides what a sentence becomes.

    Raises ValueError if there is such a stream already, or if an episode has no sentence.
    """

    def __init__(
        self, demonstrations: Demonstrations, embed: Callable[[str], NDArray[np.float32]], *, digest: str
    ) -> None:
        super().__init__(demonstrations)
        whole = demonstrations.specification
        if WORDS in (stream.name for stream in whole.observations):
            raise ValueError(f"{self.path}: there is a stream {WORDS!r} already: leave it out with observe=")
        sentences = [facts.sentence for facts in demonstrations.episode_facts]
        if "" in sentences:
            raise ValueError(
                f"{self.path}: episode {self.episode_numbers[sentences.index('')]} has no sentence: record it with "
                "one, or choose others with episodes=\"sentence!=''\""
            )
        rows = [embed(sentence) for sentence in sentences]
        self._rows = np.stack(rows) if rows else np.zeros((0, len(embed(""))), np.float32)
        words = Stream(WORDS, self._rows.shape[1:], context=True)
        self.specification = replace(whole, observations=(*whole.observations, words))
        decisive = (sentences, self.episode_ends.tolist(), digest)
        self._content = hashlib.sha256(repr(decisive).encode()).hexdigest()

    def content(self, name: str) -> str | None:
        """A digest of the stream; None if there is none."""
        return self._content if self.stream(name).name == WORDS else super().content(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        if self.stream(name).name != WORDS:
            return super().read(name, start, stop)
        return self._rows[self.episode_of(np.arange(*self.step_range(start, stop)))]
