"""Demonstrations as a policy observes them: some of their streams, those of others, and their sentences as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import ABSENT, WORDS, Specification, Stream, nearest
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


class Masked(Observed):
    """The episodes with every stream of `streams`, which may be absent, and with the stream `ABSENT` behind them.

    A stream that they lack has rows of zeros, from which a policy learns nothing, because `ABSENT` says so.

    Raises ValueError if there is a stream of the name `ABSENT` already.
    """

    def __init__(self, demonstrations: Demonstrations, streams: Sequence[Stream]) -> None:
        super().__init__(demonstrations)
        whole = demonstrations.specification
        own = {stream.name for stream in whole.observations}
        if ABSENT in own:
            raise ValueError(f"{self.path}: there is a stream {ABSENT!r} already: leave it out with observe=")
        lacking = [stream for stream in streams if stream.name not in own]
        self._lacking = {stream.name for stream in lacking}
        self._flags = np.array([stream.name in self._lacking for stream in streams], np.float32)
        flags = Stream(ABSENT, self._flags.shape, labels=tuple(stream.name for stream in streams))
        self.specification = replace(whole, observations=(*whole.observations, *lacking, flags))

    def content(self, name: str) -> str | None:
        """A digest of the stream; None if there is none."""
        if self.stream(name).name in (*self._lacking, ABSENT):
            return f"absent {self._flags.tolist()} in {self.num_steps} steps"
        return super().content(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        stream = self.stream(name)
        if name not in (*self._lacking, ABSENT):
            return super().read(name, start, stop)
        start, stop = self.step_range(start, stop)
        if name == ABSENT:
            return np.tile(self._flags, (stop - start, 1))
        return np.zeros((stop - start, *stream.shape), stream.dtype)


def masked(parts: Sequence[Demonstrations]) -> list[Masked]:
    """Each of several demonstrations with the observations of all of them.

    Raises ValueError if none of them lacks a stream of another one.
    """
    streams = dict[str, Stream]()
    for part in parts:
        for stream in part.specification.observations:
            streams.setdefault(stream.name, stream)
    own = [{stream.name for stream in part.specification.observations} for part in parts]
    lacking = [stream for name, stream in streams.items() if any(name not in names for names in own)]
    if not lacking:
        paths = " and ".join(str(part.path) for part in parts)
        raise ValueError(f"missing=mask needs a dataset that lacks a stream, but {paths} have the same: leave it out")
    return [Masked(part, lacking) for part in parts]


def holding(demonstrations: Demonstrations, name: str, episodes: Sequence[int]) -> Sequence[int]:
    """Those of the episodes in which a stream is not absent."""
    names = [stream.name for stream in demonstrations.specification.may_be_absent]
    if name not in names:
        return episodes
    starts = [demonstrations.bounds(episode)[0] for episode in episodes]
    return [
        episode
        for episode, start in zip(episodes, starts, strict=True)
        if not demonstrations.read(ABSENT, start, start + 1)[0, names.index(name)]
    ]


def as_recorded(demonstrations: Demonstrations) -> Demonstrations:
    """The episodes without `ABSENT`, and without the streams that are absent in all of them."""
    specification, everything = demonstrations.specification, range(len(demonstrations))
    absent = {s.name for s in specification.may_be_absent if not holding(demonstrations, s.name, everything)} | {ABSENT}
    names = [stream.name for stream in specification.observations]
    kept = [name for name in names if name not in absent]
    return demonstrations if kept == names else Observing(demonstrations, kept)


def to_observe(demonstrations: Demonstrations, specification: Specification) -> list[str]:
    """The observations of a policy that demonstrations must have: all but sentences, and what is absent and may be."""
    own = {stream.name for stream in demonstrations.specification.observations}
    others = {WORDS, ABSENT, *(stream.name for stream in specification.may_be_absent if stream.name not in own)}
    return [stream.name for stream in specification.observations if stream.name not in others]


def as_observed(demonstrations: Demonstrations, specification: Specification) -> Demonstrations:
    """The episodes with those of their observations that a policy observes; as they are if it observes all or none.

    What may be absent for the policy, and is absent here, is masked, unless it is already.
    """
    names = {stream.name for stream in specification.observations}
    own = [stream.name for stream in demonstrations.specification.observations]
    kept = [name for name in own if name in names]
    observed = demonstrations if len(kept) in (0, len(own)) else Observing(demonstrations, kept)
    streams = specification.may_be_absent
    return Masked(observed, streams) if streams and ABSENT not in own else observed


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
