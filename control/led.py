"""A person as a lead, through a clutch; and a slow approach to a pose.

Shapes: Da size of the action.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..teleoperation.clutch import Clutch
from ..teleoperation.interface import Teleoperator
from .loop import Situation, Target


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

    @property
    def is_led(self) -> bool:
        """Whether the robot follows the hands."""
        return self.clutch.is_closed

    def begin(self, situation: Situation) -> None:
        """Begin a run with an open clutch."""
        self._situation = situation
        self.clutch.open()

    def target(self, now: float) -> Target:
        """Where the hands are, or the last command."""
        last, position = self._situation.safety.last, None
        if self.fault is None:
            try:
                reading = self.teleoperator.read(now)
                self.newest_s = None if reading is None else reading.time
                position = self.clutch.target(reading, last, now)
            except Exception as error:  # whatever it is, the robot must come to rest
                self.fault = error
                self.clutch.open(f"the input failed: {error}")
        return Target(last.copy() if position is None else position)


class Approach:
    """A straight way to a pose (Da,) that takes at least `seconds`, and longer if safety allows only less speed."""

    _situation: Situation

    def __init__(self, pose: ArrayLike, seconds: float) -> None:
        self.pose, self.seconds = np.asarray(pose, np.float64), seconds
        self._from: NDArray[np.float64] | None = None
        self._begin_s = 0.0

    def begin(self, situation: Situation) -> None:
        """Begin where the robot is."""
        self._situation = situation
        self._from = None

    def target(self, now: float) -> Target:
        """The place on the way at `now`, s."""
        if self._from is None:
            self._from, self._begin_s = self._situation.safety.last.copy(), now
        share = min((now - self._begin_s) / self.seconds, 1.0) if self.seconds > 0 else 1.0
        return Target(self._from + share * (self.pose - self._from))

    @property
    def is_there(self) -> bool:
        """Whether the robot is commanded to rest at the pose."""
        if self._from is None:
            return False
        safety = self._situation.safety
        gap = np.abs(safety.last - self.pose) / (safety.limits.high - safety.limits.low)
        return bool((gap < 1e-6).all()) and safety.is_at_rest
