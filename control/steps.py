"""The steps of a demonstration: even moments, and the command that was in force at each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from ..robots.interface import TOLERANCE_S

SILENCE_S = 0.5
"""Readings further apart than this say nothing about the time between them."""

Command = TypeVar("Command")


class EvenSteps:
    """Moments a control period apart, from the first one that all sensors have reached. The steps of a silence lack."""

    def __init__(self, control_dt: float) -> None:
        self._dt, self._step, self._latest = control_dt, 0, 0.0
        self.begin: float | None = None
        """The moment of step 0, s; None before the first call."""

    def due(self, latest: float) -> Iterator[tuple[int, float]]:
        """The number and the moment, s, of each step that has become due. latest: the moment of all sensors, s."""
        if self.begin is None:
            self.begin = self._latest = latest
        if latest - self._latest > SILENCE_S:
            self._step = math.ceil((latest - self.begin - TOLERANCE_S) / self._dt)
        self._latest = latest
        while (moment := self.begin + self._step * self._dt) <= latest + TOLERANCE_S:
            yield self._step, moment
            self._step += 1


class InForce(Generic[Command]):
    """The newest commands, of which one is in force at each moment. delay: from a command to its effect, s."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._commands: deque[tuple[float, Command]] = deque()

    def add(self, time: float, command: Command) -> None:
        """Add a command, which was commanded at `time`, s."""
        self._commands.append((time, command))

    def clear(self) -> None:
        """Forget all commands."""
        self._commands.clear()

    def at(self, moment: float) -> Command | None:
        """The newest command that had taken effect by then, if there is one; the older ones are forgotten."""
        latest = moment - self._delay + TOLERANCE_S
        while len(self._commands) > 1 and self._commands[1][0] <= latest:
            self._commands.popleft()
        return self._commands[0][1] if self._commands and self._commands[0][0] <= latest else None


def include(intervals: list[list[int]], step: int) -> None:
    """Add a step to intervals of steps, [first, first after], which it follows.

    >>> intervals = [[0, 2]]
    >>> include(intervals, 2), include(intervals, 5), intervals
    (None, None, [[0, 3], [5, 6]])
    """
    if intervals and intervals[-1][1] == step:
        intervals[-1][1] += 1
    else:
        intervals.append([step, step + 1])
