"""A person as a lead, through a clutch; and a slow approach to a pose.

Shapes: Da size of the action.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..teleoperation.clutch import Clutch
from ..teleoperation.interface import Teleoperator
from .loop import Situation, Target
from .safety import Safety


class Led:
    """The lead of a person, for one run. While the clutch is open, the robot brakes and stays.

    teleoperator: must be started.
    """

    _situation: Situation

    def __init__(self, teleoperator: Teleoperator, clutch: Clutch) -> None:
        self.teleoperator, self.clutch = teleoperator, clutch
        self.fault: Exception | None = None
        """The error of the input, after which the robot is not led any more."""
        self.newest_s: float | None = None
        """The time of the newest reading, s; None if nobody holds the input."""
        self.goal: NDArray[np.float64] | None = None
        """Where the hands want the robot (Da,), before safety; None while the clutch is open."""

    @property
    def is_led(self) -> bool:
        """Whether the robot follows the hands."""
        return self.clutch.is_closed

    def begin(self, situation: Situation) -> None:
        """Begin a run with an open clutch."""
        self._situation = situation
        self.position = situation.safety.last.copy()
        """Where the robot was then (Da,)."""
        self.clutch.open()

    def target(self, now: float) -> Target:
        """Where the hands are, or the last command."""
        last, self.goal = self._situation.safety.last, None
        if self.fault is None:
            try:
                reading = self.teleoperator.read(now)
                self.newest_s = None if reading is None else reading.time
                self.goal = self.clutch.target(reading, last, now)
            except Exception as error:  # whatever it is, the robot must come to rest
                self.fault = error
                self.clutch.open(f"the input failed: {error}")
        return Target(last.copy() if self.goal is None else self.goal, is_led=self.is_led)


class Approach:
    """A straight way to a pose (Da,), for one run. speed: at most so many ranges of the action a second."""

    def __init__(self, pose: ArrayLike, speed: float) -> None:
        self.pose, self.speed = np.asarray(pose, np.float64), speed
        self._safety: Safety | None = None

    def begin(self, situation: Situation) -> None:
        """Begin where the robot is."""
        self._safety = situation.safety

    def target(self, now: float) -> Target:
        """The next place on the way."""
        del now
        assert self._safety is not None
        limits, gap = self._safety.limits, self._gap(self._safety)
        # Slowly enough at the end to brake there.
        slowest = float((limits.acceleration / (limits.high - limits.low)).min())
        speed = min(self.speed, math.sqrt(slowest * gap))
        share = min(speed * self._safety.dt / gap, 1.0) if gap > 0 else 1.0
        return Target(self._safety.last + share * (self.pose - self._safety.last))

    @property
    def is_there(self) -> bool:
        """Whether the robot is commanded to rest at the pose."""
        return self._safety is not None and self._gap(self._safety) < 1e-6 and self._safety.is_at_rest

    def _gap(self, safety: Safety) -> float:
        """The longest way that is left, in ranges."""
        return float((np.abs(safety.last - self.pose) / (safety.limits.high - safety.limits.low)).max())
