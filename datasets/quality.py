"""How good demonstrations are, episode by episode: idle ends, jerks, jumps, dimensions that never move, skew.

`datasets.faults` judges streams as a whole. This judges each episode against the others, so it also sees the one that
differs. What most episodes do is no finding here, unless it is bad whatever the task.

Shapes: n episodes; L steps of an episode; D dimensions of all vectors together; P points of a path.

Cost: two passes over the vectors in pieces of `STEPS_AT_ONCE` steps, 1.5 s for 25,000 steps of 42 dimensions. A few
numbers and `PATH_POINTS` steps of each episode are kept: 2 P D bytes, 13 MB for 10,000 episodes of 40 dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..progress import watched
from .demonstrations import Demonstrations

STEPS_AT_ONCE = 50_000
"""Vectors are read in pieces of whole episodes of about so many steps."""

PATH_POINTS = 16
"""Points at which the path of an episode is compared with others, evenly spread over its time."""

MOTION = 0.02
"""A dimension has moved if it has changed by this share of its range."""

IDLE_S = 1.0
"""An episode that waits so long at its start or end is idle there, s."""

FEW = 5
"""Of fewer episodes none is judged against the others."""

OUTLIER = 3.0
"""What exceeds the 90 % quantile of all episodes so many times is an outlier."""

JERK = 0.005
"""Root mean square of the second differences, as a share of the range, from which on an outlier is a jerk."""

JUMP = 0.15
"""A single step of this share of the range, or more, is a jump if it is an outlier and the steps about it are not."""

STILL, LIVELY = 0.01, 0.3
"""A dimension of the action never moves in an episode that takes less of its range than the first, if nine of ten
episodes take more than the second."""

MOST_LAG_S = 0.6
"""Streams are shifted against each other by at most so much, s, and at least by 3 steps."""

LATE = 2
"""Streams that differ by so many steps, or more, are skewed."""

CLEAR = 0.2
"""Another delay than the usual one must raise the correlation by so much."""

FOLLOWS = 0.5
"""The least correlation between the motion of the action and that of the observations."""


class Dimension(NamedTuple):
    """A dimension of a vector that moves somewhere in the demonstrations."""

    stream: str
    column: int
    label: str
    units: str


@dataclass(frozen=True)
class Measures:
    """What is measured of each episode. Ranges are those of all steps of all episodes."""

    dimensions: list[Dimension]
    """(D,): of the observations and then of the action, without those that never move."""
    low: NDArray[np.float64]
    """(D,): the least value of each dimension."""
    span: NDArray[np.float64]
    """(D,): the range of each dimension."""
    idle_start: NDArray[np.float64]
    """(n,): seconds until anything moves."""
    idle_end: NDArray[np.float64]
    """(n,): seconds after the last motion."""
    jerk: NDArray[np.float64]
    """(n, D): root mean square of the second differences, as a share of the range."""
    steps: NDArray[np.float64]
    """(n, D): the largest step, as a share of the range."""
    jump: NDArray[np.float64]
    """(n, D): the same, and 0 unless it is five times as large as the usual step about it."""
    jump_at: NDArray[np.int64]
    """(n, D): the step of the episode that it leads to."""
    reach: NDArray[np.float64]
    """(n, D): the range within the episode, as a share of that of all."""
    delays: Delays
    """Of the observations after the action."""
    paths: NDArray[np.float16]
    """(n, P, D): positions within the ranges, from 0 to 1, at `PATH_POINTS` moments from start to end."""
    is_action: NDArray[np.bool_]
    """(D,): whether a dimension is one of the action."""

    def shares(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (L, D) as shares of the ranges."""
        return (rows - self.low) / self.span


def measure(demonstrations: Demonstrations) -> Measures:
    """Measure every episode. There must be at least one."""
    dimensions, low, span = _moving(demonstrations)
    count, width = len(demonstrations), len(dimensions)
    is_action = np.array([entry.stream == demonstrations.specification.action.name for entry in dimensions], dtype=bool)
    columns: dict[str, Any] = {name: np.full(count, np.nan) for name in ("idle_start", "idle_end")}
    columns |= {name: np.zeros((count, width)) for name in ("jerk", "steps", "jump", "reach")}
    columns["jump_at"] = np.zeros((count, width), dtype=np.int64)
    paths = np.zeros((count, PATH_POINTS, width), dtype=np.float16)
    dt = demonstrations.specification.control_dt
    curves = np.full((count, 2 * lag_limit(dt) + 1), np.nan)
    measured = episodes_of(demonstrations, dimensions)
    for episode, rows in watched(measured, "measure", unit="episodes", total=count, delay_s=2):
        values = (rows - low) / span
        columns["idle_start"][episode], columns["idle_end"][episode] = (
            dt * still_steps(values),
            dt * still_steps(values[::-1]),
        )
        columns["jerk"][episode] = np.sqrt(np.square(np.diff(values, n=2, axis=0)).sum(axis=0) / len(values))
        differences = np.abs(np.diff(values, axis=0, prepend=values[:1]))
        columns["steps"][episode], columns["jump_at"][episode] = differences.max(axis=0), differences.argmax(axis=0)
        columns["jump"][episode] = _lonely(differences)
        columns["reach"][episode] = np.ptp(values, axis=0)
        leader, follower = speed(values[:, is_action]), speed(values[:, ~is_action])
        curves[episode] = correlations(leader, follower, most=lag_limit(dt))
        paths[episode] = values[np.round(np.linspace(0, len(values) - 1, PATH_POINTS)).astype(int)]
    delays = Delays(curves, FOLLOWS, demonstrations.episode_lengths)
    return Measures(dimensions, low, span, **columns, delays=delays, paths=paths, is_action=is_action)


def _lonely(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D,): the largest of the steps (L, D), and 0 unless it is five times the median of the ten steps about it."""
    places = differences.argmax(axis=0)
    largest = np.take_along_axis(differences, places[None], axis=0)[0]
    around = places[None] + np.arange(-5, 6)[:, None]
    usual = np.median(np.take_along_axis(differences, np.clip(around, 0, len(differences) - 1), axis=0), axis=0)
    return np.where(largest >= 5 * usual, largest, 0.0)


def _moving(demonstrations: Demonstrations) -> tuple[list[Dimension], NDArray[np.float64], NDArray[np.float64]]:
    """The dimensions of finite numbers that move, and their least values and ranges."""
    dimensions, lows, spans = list[Dimension](), list[float](), list[float]()
    for stream in demonstrations.specification.streams:
        if len(stream.shape) != 1:
            continue
        low, high = np.full(stream.size, np.inf), np.full(stream.size, -np.inf)
        for start, stop in pieces(demonstrations):
            rows = demonstrations.read(stream.name, start, stop).astype(np.float64)
            low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        for index in range(stream.size):
            if not (np.isfinite(low[index]) and np.isfinite(high[index])):
                continue
            span, least = high[index] - low[index], 1e-4 * max(abs(low[index]), abs(high[index]), 1e-6)
            if span > least:
                units = stream.units[index] if stream.units else ""
                dimensions.append(Dimension(stream.name, index, stream.label(index), units))
                lows.append(low[index])
                spans.append(span)
    return dimensions, np.array(lows), np.array(spans)


def pieces(demonstrations: Demonstrations) -> Iterator[tuple[int, int]]:
    """Ranges of steps of whole episodes, of about `STEPS_AT_ONCE` steps or of a single longer episode."""
    start, stop = 0, 0
    for end in demonstrations.episode_ends.tolist():
        if stop > start and end - start > STEPS_AT_ONCE:
            yield start, stop
            start = stop
        stop = end
    if stop > start:
        yield start, stop


def episodes_of(
    demonstrations: Demonstrations, dimensions: Sequence[Dimension]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The index of each episode and its dimensions, (L, D), in order."""
    names = list(dict.fromkeys(entry.stream for entry in dimensions))
    columns = {name: [entry.column for entry in dimensions if entry.stream == name] for name in names}
    episode = 0
    for start, stop in pieces(demonstrations):
        rows = [demonstrations.read(name, start, stop)[:, columns[name]].astype(np.float64) for name in names]
        values = np.concatenate(rows, axis=1) if rows else np.zeros((stop - start, 0))
        while episode < len(demonstrations) and demonstrations.bounds(episode)[1] <= stop:
            first, last = demonstrations.bounds(episode)
            yield episode, values[first - start : last - start]
            episode += 1


def idle_steps(demonstrations: Demonstrations) -> NDArray[np.int64]:
    """(n, 2): the steps before anything moves and those after the last motion, 0 where they last less than `IDLE_S`.

    Both are 0 for an episode that hardly moves at all, because no step would remain.
    """
    dimensions, low, span = _moving(demonstrations)
    still = np.zeros((len(demonstrations), 2), dtype=np.int64)
    if dimensions:
        for episode, rows in episodes_of(demonstrations, dimensions):
            values = (rows - low) / span
            still[episode] = still_steps(values), still_steps(values[::-1])
    idle = np.where(still * demonstrations.specification.control_dt >= IDLE_S - 1e-9, still, 0)
    return np.where((idle.sum(axis=1) < demonstrations.episode_lengths)[:, None], idle, 0)


def still_steps(values: NDArray[np.float64]) -> int:
    """Steps of (L, D), shares of the range, before any dimension has moved; all but one if none does.

    >>> still_steps(np.array([[0.0], [0.0], [0.001], [0.5]]))
    2
    """
    has_moved = (np.abs(values - values[:1]) > MOTION).any(axis=1)
    return max(int(has_moved.argmax()) - 1, 0) if has_moved.any() else len(values) - 1


def speed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L - 1,): how far (L, D) goes in each step."""
    return np.linalg.norm(np.diff(values, axis=0), axis=1)


def lag_limit(control_dt: float) -> int:
    """The steps by which streams are shifted against each other."""
    return max(round(MOST_LAG_S / control_dt), 3)


def correlations(leader: NDArray[np.float64], follower: NDArray[np.float64], *, most: int) -> NDArray[np.float64]:
    """(2 most + 1,): rank correlation of two signals, if one follows the other after -most .. most steps.

    It is NaN if one is flat, or if they are short.

    Ranks keep a gripper that snaps shut, or a lamp that is switched on, from drowning the rest.
    """
    count = len(leader)
    result = np.full(2 * most + 1, np.nan)
    if count < 4 * most or leader.std() < 1e-6 or follower.std() < 1e-6:
        return result
    one, other = (_ranks(values) - (count - 1) / 2 for values in (leader, follower))
    for place, shift in enumerate(range(-most, most + 1)):
        first, second = (one[: count - shift], other[shift:]) if shift >= 0 else (one[-shift:], other[:shift])
        norm = np.sqrt(np.square(first).sum() * np.square(second).sum())
        result[place] = (first * second).sum() / norm if norm else np.nan
    return result


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L,): the place of each value among all; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


@dataclass(frozen=True)
class Delays:
    """How well one signal follows another in each episode, if it is late by -M .. M steps."""

    curves: NDArray[np.float64]
    """(n, 2 M + 1): `correlations` of each episode; NaN where they were not looked at."""
    least: float
    """The correlation at which a delay counts. Short signals correlate by chance, so 3 / sqrt(L) is needed too."""
    lengths: NDArray[np.int64]
    """(n,): L."""

    @property
    def steps(self) -> NDArray[np.float64]:
        """(n,): the delay of each episode; NaN where the signals do not correlate at any."""
        curves = np.nan_to_num(self.curves, nan=-1.0)
        most, best = self.curves.shape[1] // 2, curves.argmax(axis=1)
        needed = np.maximum(self.least, 3 / np.sqrt(self.lengths))
        is_clear = (curves.max(axis=1) >= needed) & (best > 0) & (best < 2 * most)
        return np.where(is_clear, best - most, np.nan)

    @property
    def usual(self) -> float:
        """The median delay in steps; NaN unless at least `FEW` episodes show one."""
        steps = self.steps
        return float(np.nanmedian(steps)) if np.isfinite(steps).sum() >= FEW else np.nan

    @property
    def is_shifted(self) -> bool:
        """Whether the usual delay is `LATE` steps or more, and fits clearly better than none."""
        if not abs(self.usual) >= LATE:
            return False
        curves = self.curves[np.isfinite(self.steps)]
        gain = curves.max(axis=1) - curves[:, self.curves.shape[1] // 2]
        return bool(np.median(gain) >= CLEAR / 2)

    def unusual(self) -> NDArray[np.bool_]:
        """(n,): whether a delay differs from the usual one by `LATE` steps or more, and fits clearly better."""
        if np.isnan(self.usual):
            return np.zeros(len(self.curves), dtype=bool)
        curves = np.nan_to_num(self.curves, nan=-1.0)
        gain = curves.max(axis=1) - curves[:, self.curves.shape[1] // 2 + round(self.usual)]
        return (np.abs(self.steps - self.usual) >= LATE) & (gain >= CLEAR)
