"""What all sensors saw at one moment: readings come at their own rates and with their own delays.

Shapes: (...) of one step of a stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..robots.interface import Reading
from ..specification import Specification

Observed: TypeAlias = dict[str, NDArray[Any]]
"""One step: a stream's name -> its value at the moment."""

REMEMBERED_S = 2.0
"""For which readings are kept; they must reach back to the newest one of the slowest stream."""


class Alignment:
    """The latest readings of every stream, and what they say of one moment.

    Raises ValueError for a reading that is not what the specification says of its stream.
    """

    def __init__(self, specification: Specification) -> None:
        self.streams = {stream.name: stream for stream in specification.observations}
        self._readings: dict[str, deque[Reading]] = {name: deque() for name in self.streams}

    def add(self, readings: Mapping[str, Reading]) -> None:
        """Take the newest reading of each stream; one that was taken before, or is older, is left out."""
        for name, reading in readings.items():
            if name not in self.streams:
                raise ValueError(f"the robot must give the streams {sorted(self.streams)}, got {name!r} too")
            stream, value = self.streams[name], np.asarray(reading.value)
            if value.shape != stream.shape or value.dtype != stream.dtype:
                raise ValueError(
                    f"a reading of stream {name!r} must be {stream.dtype} of shape {stream.shape}, "
                    f"got {value.dtype} of shape {value.shape}"
                )
            known = self._readings[name]
            if not known or reading.time > known[-1].time:
                known.append(Reading(value.copy(), reading.time))
            while len(known) > 2 and known[1].time < known[-1].time - REMEMBERED_S:
                known.popleft()

    def reset(self) -> None:
        """Forget everything."""
        for known in self._readings.values():
            known.clear()

    @property
    def missing(self) -> list[str]:
        """Streams of which there is no reading yet."""
        return [name for name, known in self._readings.items() if not known]

    @property
    def time(self) -> float:
        """The latest moment of which every stream knows, s: the newest reading of the slowest one."""
        return min(known[-1].time for known in self._readings.values())

    def at(self, moment: float) -> Observed:
        """What every stream saw at that moment, s: vectors of floats between two readings, anything else the nearest.

        Before the first reading and after the last one these stand for it.
        """
        return {name: _value(known, moment) for name, known in self._readings.items()}


def _value(known: deque[Reading], moment: float) -> NDArray[Any]:
    after = min(bisect_left(known, moment, key=lambda reading: reading.time), len(known) - 1)
    later, earlier = known[after], known[max(after - 1, 0)]
    if moment >= later.time or earlier is later:
        return later.value
    share = (moment - earlier.time) / (later.time - earlier.time)
    if later.value.ndim == 1 and np.issubdtype(later.value.dtype, np.floating):
        return (earlier.value + share * (later.value - earlier.value)).astype(later.value.dtype)
    return later.value if share > 0.5 else earlier.value
