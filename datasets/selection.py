"""Some of the episodes of demonstrations, as demonstrations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations
from .facts import EpisodeFacts
from .filters import parse, rows, select


class Selected(Demonstrations):
    """Some episodes of demonstrations, in their order there. A read costs what it costs there, in as many pieces.

    episodes: ascending indices.
    """

    def __init__(self, demonstrations: Demonstrations, episodes: Sequence[int]) -> None:
        self.path, self.specification = demonstrations.path, demonstrations.specification
        self._demonstrations, self._indices = demonstrations, np.asarray(episodes, dtype=np.int64)
        self._starts = np.array([demonstrations.bounds(int(index))[0] for index in self._indices], dtype=np.int64)
        self.episode_ends = np.cumsum(demonstrations.episode_lengths[self._indices], dtype=np.int64)
        self.episode_seeds = demonstrations.episode_seeds[self._indices]

    @property
    def episode_numbers(self) -> NDArray[np.int64]:
        """(n,): the number of each selected episode there."""
        return self._demonstrations.episode_numbers[self._indices]

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of each selected episode."""
        facts = self._demonstrations.episode_facts
        return [facts[index] for index in self._indices]

    def content(self, name: str) -> str | None:
        """A digest of the stream there and of the selected steps; None if it has none there."""
        digest = self._demonstrations.content(name)
        selected = hashlib.sha256(self._starts.tobytes() + self.episode_ends.tobytes()).hexdigest()
        return None if digest is None else f"{digest} of {selected}"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over the selected episodes in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        stream = self.stream(name)
        start, stop = self.step_range(start, stop)
        pieces = [self._demonstrations.read(name, first, last) for first, last in self._ranges(start, stop)]
        return np.concatenate(pieces) if pieces else np.empty((0, *stream.shape), stream.dtype)

    def _ranges(self, start: int, stop: int) -> list[list[int]]:
        """Steps start .. stop as ranges of steps there; neighbouring episodes are one range."""
        ranges = list[list[int]]()
        if start == stop:
            return ranges
        for index in range(int(self.episode_of(start)), int(self.episode_of(stop - 1)) + 1):
            begin, end = self.bounds(index)
            offset = int(self._starts[index]) - begin
            first, last = max(start, begin) + offset, min(stop, end) + offset
            if ranges and ranges[-1][1] == first:
                ranges[-1][1] = last
            else:
                ranges.append([first, last])
        return ranges


def divided(demonstrations: Demonstrations, split: Sequence[float] | str, *, seed: int) -> list[Demonstrations]:
    """The episodes in several parts, each in their order there.

    split: the share of each part, which sum to 1, drawn by the seed and rounded to whole episodes; or a condition of
    `datasets.filters`, which the episodes of the first of two parts fulfil.

    Raises ValueError if it is no condition, or if a part would have no episode.
    """
    count = len(demonstrations)
    if isinstance(split, str):
        chosen = select(parse(split, "split"), facts_of_episodes(demonstrations), str(demonstrations.path))
        parts = [chosen, sorted({*range(count)}.difference(chosen))]
    else:
        ends = np.rint(np.cumsum([0, *split]) * count).astype(int).tolist()
        order = np.random.default_rng(seed).permutation(count).tolist()
        parts = [sorted(order[start:end]) for start, end in pairwise(ends)]
    if [] in parts:
        raise ValueError(
            f"split={split} leaves part {parts.index([]) + 1} of {count} episodes without any: give another split, or "
            "leave it out"
        )
    return [Selected(demonstrations, part) for part in parts]


def facts_of_episodes(demonstrations: Demonstrations) -> list[dict[str, Any]]:
    """What conditions compare, name -> value, of each episode; see `filters.rows`."""
    lengths, seeds = demonstrations.episode_lengths.tolist(), demonstrations.episode_seeds.tolist()
    return list(rows(demonstrations.episode_facts, lengths, seeds, demonstrations.specification.control_dt))


def selected(demonstrations: Demonstrations, condition: str | None) -> Demonstrations:
    """The episodes that fulfil a condition of `datasets.filters`; all of them if it is None.

    Raises ValueError if it is no condition, or if no episode fulfils it.
    """
    if condition is None:
        return demonstrations
    indices = select(parse(condition), facts_of_episodes(demonstrations), str(demonstrations.path))
    return demonstrations if len(indices) == len(demonstrations) else Selected(demonstrations, indices)
