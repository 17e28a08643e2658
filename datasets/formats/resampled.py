"""Even steps for data sets whose columns have times of their own.

The steps of an episode begin when every column that the mapping uses has begun, and end when the first of them ends.
What a step holds is what a policy would have had at that moment:

- An observation follows the rule of `control.alignment`. Floats are interpolated between the reading before and the
  reading after the step. All else (images, integers, booleans) is the nearer of these two readings, the earlier one if
  both are as near. No other reading counts, so an observation looks at most one reading ahead, as far as a deployed
  policy does, which acts on a moment that all its sensors have reached.
- An action is the newest command at or before the step. Later commands were not known then, and values between two
  commands were never commanded. A column of commands is held also where it is observed.
- Angles and quaternions are interpolated linearly along the shorter way, and quaternions are normalised, so that two
  close readings have a rotation between them. A reading that is used alone stays as it is. The mapping's `kinds` say
  what is an angle or a quaternion. Without them, four dimensions whose labels end in qx, qy, qz, qw are a quaternion.

Where a column is silent for longer than `longest_hole`, the episode ends, and goes on behind the hole as another part.

Memory: the times of the columns that are used, 8 bytes a reading, and the rows of one read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...interpolation import Interpolation
from ..facts import EpisodeFacts
from ..mapping import DatasetMapping
from .interface import ForeignDataset

INTERPOLATED, NEAREST, HELD = "interpolated", "the nearest reading", "the newest command"
"""How the steps of a column come from its readings."""

FEWEST_STEPS = 2
"""Shorter parts of an episode are left out."""

GAP_BYTES = 2**14
"""Rows between two that are needed are read along if they are no larger together."""

SLACK_STEPS = 1e-6
"""A step that ends by less after the last reading belongs to the episode, because periods are not exact."""

EQUAL_S = 1e-9
"""A command that comes later by less belongs to the step."""

SAME_RATE = 0.05
"""Differences are taken over as they are if their rate differs from that of the steps by at most this share."""

_QUATERNION = ("qx", "qy", "qz", "qw")


class Use(NamedTuple):
    """How an episode uses the readings of a column."""

    rule: str
    rate: float
    """Mean rate of the readings, Hz."""
    readings: int
    """Readings from the first to the last step."""
    unused: float
    """Share of them that no step uses."""
    repeated: float
    """Share of the steps that use what the step before them uses."""
    farthest: float
    """Largest distance of a step from the nearest reading that it uses, s."""


@dataclass(frozen=True)
class _Part:
    """Steps between two holes. episode: there; begin: the time of its first step, s; number: of all parts."""

    episode: int
    begin: float
    steps: int
    number: int
    parts: int


def evened(dataset: ForeignDataset, mapping: DatasetMapping) -> ForeignDataset:
    """The data set with the even steps of a mapping: itself if it has them already, or if its columns have no times.

    Raises ValueError if a column does not exist or cannot become its stream, and the errors of `Resampled`.
    """
    keys = [dataset.column(key).key for key in _keys(mapping)]
    if mapping.kind != dataset.kind or dataset.rate == mapping.rate:
        return dataset
    mapping.specification(dataset)  # names columns that are not read, and have no times
    return dataset if all(dataset.times(key, 0) is None for key in keys) else Resampled(dataset, mapping)


def _keys(mapping: DatasetMapping) -> list[str]:
    """The columns that a mapping uses."""
    return list(dict.fromkeys(key for mapped in mapping.streams.values() for key in mapped.keys))


class Resampled(ForeignDataset):
    """The columns of a data set with times that a mapping uses, in steps at the mapping's rate.

    Raises ValueError, naming the episode and the column, if times are missing, not finite or do not ascend, if an
    episode has no moment that all columns cover, and if differences would have to be resampled.
    """

    def __init__(self, dataset: ForeignDataset, mapping: DatasetMapping) -> None:
        self.kind, self.path, self.version = dataset.kind, dataset.path, dataset.version
        self.columns, self.metadata, self.rate = dataset.columns, dataset.metadata, float(mapping.rate)
        self.action_meaning, self._dataset, self._mapping = dataset.action_meaning, dataset, mapping
        self._held = set() if mapping.action.is_next else set(mapping.action.keys)
        episodes, keys = range(len(dataset.episode_lengths)), _keys(mapping)
        self._interpolation = {key: _interpolation(key, mapping, dataset) for key in keys}
        self._times = {(key, episode): self._checked_times(key, episode) for episode in episodes for key in keys}
        self._holes, self._num_short = dict[int, list[tuple[float, float, str]]](), 0
        self._parts = [part for episode in episodes for part in self._split(episode, keys)]
        self.uses = [{key: self._use(key, part) for key in keys} for part in self._parts]
        self.episode_lengths = np.array([part.steps for part in self._parts], dtype=np.int64)
        self._check_differences()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """False: it stands before other formats."""
        del path
        return False

    def _place(self, key: str, episode: int) -> str:
        return f"{self.path}: {self._dataset.episode_name(episode)}, column {key!r}"

    def _checked_times(self, key: str, episode: int) -> NDArray[np.float64]:
        """When each row of a column was taken, s. Raises ValueError if nobody can say which row comes when."""
        place, times = self._place(key, episode), self._dataset.times(key, episode)
        if times is None:
            raise ValueError(f"{place} has no times, and others have: leave it out of the mapping")
        if len(times) < 2:
            raise ValueError(
                f"{place} must have two readings or more, got {len(times)}: leave it out of the mapping, or the "
                "episode out of the data set"
            )
        if not np.isfinite(times).all():
            index = int(np.flatnonzero(~np.isfinite(times))[0])
            raise ValueError(f"{place}: times must be finite, got {times[index]} for reading {index}: delete that row")
        if (np.diff(times) <= 0).any():
            index = int(np.flatnonzero(np.diff(times) <= 0)[0]) + 1
            raise ValueError(
                f"{place}: times must ascend, got {times[index]:.9g} s for reading {index} after "
                f"{times[index - 1]:.9g} s: sort the rows, and delete those of equal times"
            )
        return times

    def _split(self, episode: int, keys: Sequence[str]) -> list[_Part]:
        """The parts of an episode between its holes. Raises ValueError if there are none."""
        times = {key: self._times[key, episode] for key in keys}
        slowest, shortest = max(keys, key=lambda key: times[key][0]), min(keys, key=lambda key: times[key][-1])
        begin, end = float(times[slowest][0]), float(times[shortest][-1])
        if begin >= end:
            raise ValueError(
                f"{self._place(slowest, episode)} begins at {begin:.6g} s, and {shortest!r} has ended at {end:.6g} s: "
                "no moment has both; leave one of them out, or take their times from one clock"
            )
        holes = [hole for key in keys for hole in _holes(times[key], key, self._mapping.longest_hole)]
        self._holes[episode] = sorted(hole for hole in holes if hole[1] > begin and hole[0] < end)
        parts = [(first, self._steps(first, last)) for first, last in _between(self._holes[episode], begin, end)]
        kept = [(first, steps) for first, steps in parts if steps >= FEWEST_STEPS]
        self._num_short += len(parts) - len(kept)
        if not kept:
            raise ValueError(
                f"{self.path}: {self._dataset.episode_name(episode)} has less than {FEWEST_STEPS} steps at "
                f"{self.rate:g} Hz between holes longer than longest_hole={self._mapping.longest_hole:g} s: raise "
                "longest_hole or the rate, or leave out the columns that are silent"
            )
        return [_Part(episode, first, steps, number, len(kept)) for number, (first, steps) in enumerate(kept)]

    def _steps(self, begin: float, end: float) -> int:
        return math.floor((end - begin) * float(self._mapping.rate) + SLACK_STEPS) + 1

    def _check_differences(self) -> None:
        """Raises ValueError if actions are differences at another rate: they hold for their own steps alone."""
        action, rate = self._mapping.action, float(self._mapping.rate)
        meanings = [action.meaning] if isinstance(action.meaning, str) else action.meaning
        for index, uses in enumerate(self.uses if "difference" in meanings else []):
            for key in action.keys:
                if abs(uses[key].rate / rate - 1) > SAME_RATE:
                    raise ValueError(
                        f"{self._place(key, self._parts[index].episode)}: differences must come at the rate of the "
                        f"steps, {rate:g} Hz, got {uses[key].rate:.4g} Hz: write that rate, or take a column of targets"
                    )

    def _rule(self, key: str) -> str:
        """How the steps of a column come from its readings."""
        if key in self._held:
            return HELD
        return INTERPOLATED if np.issubdtype(np.dtype(self.column(key).dtype), np.floating) else NEAREST

    def _moments(self, part: _Part, start: int, stop: int) -> NDArray[np.float64]:
        """The times of the steps start .. stop of a part, s."""
        return part.begin + np.arange(start, stop) / float(self._mapping.rate)

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Steps start .. stop of a column: (stop - start, *shape). Raises the errors of the data set."""
        part = self._parts[episode]
        times, moments = self._times[key, part.episode], self._moments(part, start, stop)
        rule, (earlier, later, share) = self._rule(key), _neighbours(times, moments)
        if rule != INTERPOLATED:
            return self._rows_at(key, part.episode, _readings_of(rule, times, moments))
        rows = self._rows_at(key, part.episode, np.concatenate([earlier, later]))
        shape, (before, after) = (len(moments), *rows.shape[1:]), rows.reshape(2, len(moments), -1)
        values = self._interpolation[key].between(before, after, share.astype(rows.dtype)[:, None])
        return values.reshape(shape)

    def _rows_at(self, key: str, episode: int, index: NDArray[np.int64]) -> NDArray[Any]:
        """These rows of a column of the data set, of which neighbours are read at once."""
        column = self.column(key)
        if not len(index):
            return np.empty((0, *column.shape), column.dtype)
        needed, places = np.unique(index, return_inverse=True)
        along = GAP_BYTES // max(math.prod(column.shape) * np.dtype(column.dtype).itemsize, 1)
        runs = np.split(needed, np.flatnonzero(np.diff(needed) > 1 + along) + 1)
        pieces = [self._dataset.read(key, episode, int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs]
        return np.concatenate(pieces)[places]

    def _use(self, key: str, part: _Part) -> Use:
        """How a part uses the readings of a column."""
        times, moments, rule = self._times[key, part.episode], self._moments(part, 0, part.steps), self._rule(key)
        earlier, later, _ = _neighbours(times, moments)
        if rule != INTERPOLATED:
            earlier = later = _readings_of(rule, times, moments)
        distance = np.minimum(np.abs(moments - times[earlier]), np.abs(moments - times[later]))
        first, last = int(earlier[0]), int(later[-1])
        used = np.unique(np.concatenate([earlier, later]))
        return Use(
            rule=rule,
            rate=(last - first) / float(times[last] - times[first]) if last > first else 0.0,
            readings=last - first + 1,
            unused=1 - len(used) / (last - first + 1),
            repeated=float(np.mean((np.diff(earlier) == 0) & (np.diff(later) == 0))),
            farthest=float(distance.max()),
        )

    def files(self) -> Iterable[Path]:
        """The files of the data set."""
        return self._dataset.files()

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of the data set, the outcome with the last part of an episode, and what was measured here.

        rates and delays are those of the slowest column of a stream; notes.resampled has the `Use` of each column.
        """
        facts = self._dataset.episode_facts
        return [self._facts(facts[part.episode], part, uses) for part, uses in zip(self._parts, self.uses, strict=True)]

    def _facts(self, facts: EpisodeFacts, part: _Part, uses: Mapping[str, Use]) -> EpisodeFacts:
        streams = {name: mapped.keys for name, mapped in self._mapping.streams.items()}
        delays = {
            name: max(facts.delays[key] for key in keys)
            for name, keys in streams.items()
            if all(key in facts.delays for key in keys)
        }
        resampled = {key: {name: _rounded(value) for name, value in use._asdict().items()} for key, use in uses.items()}
        notes = {**facts.notes, "resampled": resampled}
        if part.parts > 1:
            notes |= {"part": part.number + 1, "parts": part.parts}
        return replace(
            facts,
            outcome=facts.outcome if part.number == part.parts - 1 else "unknown",
            rates={name: _rounded(min(uses[key].rate for key in keys)) for name, keys in streams.items()},
            delays=delays,
            notes=notes,
        )

    @property
    def episode_seeds(self) -> NDArray[np.int64]:
        """(n,): the seed of the first part of an episode, -1 for the others, which do not begin with a reset."""
        seeds = self._dataset.episode_seeds
        return np.array([-1 if part.number else seeds[part.episode] for part in self._parts], dtype=np.int64)

    def episode_name(self, episode: int) -> str:
        """Its name there, with the number of the part if holes split the episode."""
        part = self._parts[episode]
        return self._dataset.episode_name(part.episode) + (f" part {part.number + 1}" if part.parts > 1 else "")

    @property
    def summary(self) -> list[str]:
        """What was done to each column in all episodes, and where holes split them, in lines."""
        lines = [f"resampled to {self.rate:g} Hz:"]
        for key in self.uses[0]:
            uses = [uses[key] for uses in self.uses]
            repeated = np.average([use.repeated for use in uses], weights=self.episode_lengths)
            unused = np.average([use.unused for use in uses], weights=[use.readings for use in uses])
            lines.append(
                f"  {key}: {uses[0].rule}, {min(use.rate for use in uses):.4g} Hz, at most "
                f"{1000 * max(use.farthest for use in uses):.3g} ms from a step; {repeated:.0%} of the steps repeat "
                f"the one before, {unused:.0%} of the readings are unused"
            )
        holes = [(episode, *hole) for episode, holes in self._holes.items() for hole in holes]
        if holes:
            episode, begin, end, key = holes[0]
            name = self._dataset.episode_name(episode)
            lines.append(
                f"  {len(holes)} holes longer than {self._mapping.longest_hole:g} s make {len(self._parts)} episodes "
                f"of {len(self._holes)}; the first: {name}, {key} is silent from {begin:.6g} s to {end:.6g} s"
            )
        if self._num_short:
            lines.append(f"  {self._num_short} parts between them are left out, of less than {FEWEST_STEPS} steps")
        return lines


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _holes(times: NDArray[np.float64], key: str, longest: float) -> list[tuple[float, float, str]]:
    """Begin and end of each hole of a column, s, and its key."""
    before = np.flatnonzero(np.diff(times) > longest)
    return [(float(times[index]), float(times[index + 1]), key) for index in before]


def _between(holes: Iterable[tuple[float, float, str]], begin: float, end: float) -> list[tuple[float, float]]:
    """The times from begin to end outside all holes, which are sorted and may overlap."""
    free, at = list[tuple[float, float]](), begin
    for first, last, _ in holes:
        if first >= at:
            free.append((at, first))
        at = max(at, last)
    return [*free, (at, end)] if at < end else free


def _neighbours(
    times: NDArray[np.float64], moments: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The readings before and after each moment, which are one if a reading serves alone, and the share of the way."""
    later = np.minimum(np.searchsorted(times, moments), len(times) - 1)
    earlier = np.where(moments >= times[later], later, np.maximum(later - 1, 0))
    span = times[later] - times[earlier]
    share = (moments - times[earlier]) / np.where(span > 0, span, 1.0)
    return earlier, later, np.where(span > 0, share, 1.0)


def _readings_of(rule: str, times: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.int64]:
    """The reading of each moment, if it is not interpolated."""
    if rule == HELD:
        return np.maximum(np.searchsorted(times, moments + EQUAL_S, side="right") - 1, 0)
    earlier, later, share = _neighbours(times, moments)
    return np.where(share > 0.5, later, earlier)


def _interpolation(key: str, mapping: DatasetMapping, dataset: ForeignDataset) -> Interpolation:
    """That of a column, by the kinds of the mapping or by the names of its dimensions."""
    column = dataset.column(key)
    for stream, mapped in zip(mapping.specification(dataset).streams, mapping.streams.values(), strict=True):
        if key in mapped.keys and stream.kinds:
            begin = sum(math.prod(dataset.column(other).shape) for other in mapped.keys[: mapped.keys.index(key)])
            return Interpolation.of(stream.kinds[begin : begin + math.prod(column.shape)])
    return Interpolation(quaternions=tuple(_quaternions(column.labels)))


def _quaternions(labels: Sequence[str]) -> list[int]:
    """The first dimensions of the quaternions in a vector, by the names of its dimensions.

    >>> _quaternions(["x", "tool.qx", "tool.qy", "tool.qz", "tool.qw"])
    [1]
    """
    return [
        first
        for first in range(len(labels) - 3)
        if all(label.endswith(end) for label, end in zip(labels[first : first + 4], _QUATERNION, strict=True))
    ]
