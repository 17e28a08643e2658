"""Observations of one moment, from sensors with their own rates and delays.

Shapes: (...) of one step of a stream.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..interpolation import Interpolation
from ..robots.interface import TOLERANCE_S, Reading
from ..specification import Specification, Stream

Observed: TypeAlias = dict[str, NDArray[Any]]
"""One step: a stream's name -> its value at that moment."""

KEPT_S = 2.0
"""Seconds that readings are kept; they must reach back to the newest reading of the slowest stream."""

SLACK = 0.01
"""How far a reading may lie outside the limits of its stream, in ranges: sensors are not exact."""


class Alignment:
    """The latest readings of every stream, and their values at one moment.

    A reading is refused if its time is not finite or lies in the future, and if its value is not finite or lies outside
    the limits of its stream. A stream that has only such readings grows stale.
    """

    def __init__(self, specification: Specification) -> None:
        self.streams = {stream.name: stream for stream in specification.observations}
        self._interpolation = {name: Interpolation.of(stream.kinds) for name, stream in self.streams.items()}
        self._limits = {stream.name: _limits(stream) for stream in specification.observations if stream.low}
        self._readings: dict[str, deque[Reading]] = {name: deque() for name in self.streams}

    def add(self, newest: Mapping[str, Reading], now: float) -> dict[str, str]:
        """Add the newest reading of each stream; the name of a stream whose reading is refused -> why.

        now: the time after the readings came, s. A reading no newer than the last one of its stream is ignored.

        Raises ValueError for an unknown stream, and for a value whose shape or dtype is not that of its stream.
        """
        refused: dict[str, str] = {}
        for name, reading in newest.items():
            if name not in self.streams:
                raise ValueError(f"the robot must give the streams {sorted(self.streams)} alone, got {name!r}")
            stream, value = self.streams[name], np.asarray(reading.value)
            if value.shape != stream.shape or value.dtype != stream.dtype:
                raise ValueError(
                    f"a reading of stream {name!r} must be {stream.dtype} of shape {stream.shape}, "
                    f"got {value.dtype} of shape {value.shape}"
                )
            readings = self._readings[name]
            if fault := self._fault(name, value, reading.time, now):
                refused[name] = fault
            elif not readings or reading.time > readings[-1].time:
                readings.append(Reading(value.copy(), reading.time))
            while len(readings) > 2 and readings[1].time < readings[-1].time - KEPT_S:
                readings.popleft()
        return refused

    def _fault(self, name: str, value: NDArray[Any], time: float, now: float) -> str:
        """Why a reading cannot be acted on; empty if it can."""
        if not -math.inf < time <= now + TOLERANCE_S:  # true for NaN
            return f"its time is {time} s and the clock is at {now:.6f} s: use one clock"
        if np.issubdtype(value.dtype, np.inexact) and not np.isfinite(value).all():
            return f"it must be finite, and is {value.tolist()}"
        low, high = self._limits.get(name, (None, None))
        if low is not None and not ((low <= value) & (value <= high)).all():
            return f"it must lie within the limits of its stream, and is {value.tolist()}: convert its units"
        return ""

    def reset(self) -> None:
        """Forget all readings."""
        for readings in self._readings.values():
            readings.clear()

    @property
    def missing(self) -> list[str]:
        """Names of the streams without a reading."""
        return [name for name, readings in self._readings.items() if not readings]

    @property
    def time(self) -> float:
        """The latest moment that every stream has reached, s: the newest reading of the slowest stream."""
        return min(readings[-1].time for readings in self._readings.values())

    @property
    def begin(self) -> float:
        """The earliest moment that every stream covers, s: the first kept reading of the stream that came last."""
        return max(readings[0].time for readings in self._readings.values())

    @property
    def times(self) -> dict[str, float]:
        """The time of the newest reading of every stream that has one, s."""
        return {name: readings[-1].time for name, readings in self._readings.items() if readings}

    def at(self, moment: float) -> Observed:
        """The value of every stream at that moment, s: vectors of floats are interpolated, all else is the nearest.

        Angles and quaternions, by the kinds of the stream, take the shorter way. Before its first and after its last
        reading, a stream has the value of that reading.
        """
        return {name: _value(readings, moment, self._interpolation[name]) for name, readings in self._readings.items()}

    def num_readings(self, name: str) -> int:
        """Number of readings that are kept of a stream."""
        return len(self._readings[name])


def _limits(stream: Stream) -> tuple[NDArray[Any], NDArray[Any]]:
    low, high = np.array(stream.low), np.array(stream.high)
    return low - SLACK * (high - low), high + SLACK * (high - low)


def _value(readings: deque[Reading], moment: float, interpolation: Interpolation) -> NDArray[Any]:
    after = min(bisect_left(readings, moment, key=lambda reading: reading.time), len(readings) - 1)
    later, earlier = readings[after], readings[max(after - 1, 0)]
    if moment >= later.time or earlier is later:
        return later.value
    share = (moment - earlier.time) / (later.time - earlier.time)
    if later.value.ndim == 1 and np.issubdtype(later.value.dtype, np.floating):
        shares = np.full((1, 1), share, later.value.dtype)
        return interpolation.between(earlier.value[None], later.value[None], shares)[0]
    return later.value if share > 0.5 else earlier.value
