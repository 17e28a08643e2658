"""What is measured of an episode: the rate, the delay and the skew of every stream."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

LEAST_RATE = 0.9
"""The share of the control rate that a stream must have; a lower one repeats readings."""


LEAST_STEPS = 8
"""Control steps within which no rate can be measured."""


class Series:
    """The readings of one stream, as they arrive."""

    def __init__(self) -> None:
        self._times, self._ages, self._skews = list[float](), list[float](), list[float]()

    def note(self, time: float, now: float, newest: float) -> None:
        """Note the time of the newest reading, s, at `now`. newest: that of the newest reading of any stream, s."""
        self._skews.append(newest - time)
        if not self._times or time > self._times[-1]:
            self._times.append(time)
            self._ages.append(now - time)

    @property
    def rate(self) -> float:
        """Readings a second; 0 for less than two. One that is missed now and then does not count."""
        if len(self._times) < 2:
            return 0.0
        gap = float(np.median(np.diff(self._times)))
        # A source that is slower than its own clock, such as a slow simulation, falls behind.
        arrival = self._times[-1] + self._ages[-1] - self._times[0] - self._ages[0]
        return min(1 / gap, 1 / gap * (self._times[-1] - self._times[0]) / max(arrival, 1e-9))

    @property
    def delay(self) -> float:
        """Median age of a reading when it arrives, s."""
        return float(np.median(self._ages)) if self._ages else 0.0

    @property
    def skew(self) -> float:
        """Median time by which its newest reading is older than that of the newest stream, s."""
        return float(np.median(self._skews)) if self._skews else 0.0

    @property
    def longest_gap(self) -> float:
        """Longest time between two readings, s."""
        return float(np.diff(self._times).max()) if len(self._times) > 1 else 0.0


class Measures:
    """The series of all streams of an episode."""

    def __init__(self) -> None:
        self.streams: dict[str, Series] = {}
        self._begin_s, self._now = math.inf, -math.inf

    def note(self, times: Mapping[str, float], now: float) -> None:
        """Note the time of the newest reading of every stream, s, at `now`."""
        self._begin_s, self._now = min(self._begin_s, now), now
        if times:
            newest = max(times.values())
            for name, time in times.items():
                self.streams.setdefault(name, Series()).note(time, now, newest)

    def fault(self, control_dt: float) -> str:
        """Why the streams are too slow to be recorded, with both rates; empty if they are not, or in `LEAST_STEPS`."""
        if self._now - self._begin_s < LEAST_STEPS * control_dt:
            return ""
        for name, series in self.streams.items():
            if series.rate < LEAST_RATE / control_dt:
                return (
                    f"stream {name!r} comes {series.rate:.1f} times a second, and the specification has "
                    f"{1 / control_dt:.1f} steps a second: make its source faster, or give the specification a "
                    f"control_dt of {1 / series.rate if series.rate else 2 * control_dt:.3g}"
                )
        return ""
