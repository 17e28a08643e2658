"""A policy that a person may take over from, and give back to, at any time.

| who leads | when | what changes |
|---|---|---|
| the policy | while the clutch is open | nothing |
| the person | as soon as the clutch closes, by its rules | the plan of the policy is dropped |
| the policy | once the clutch opens | the robot brakes until a chunk comes that was asked for after that |

At each change the target begins at the last command, and fades into that of the new lead within `FADE_S`: the robot
never jumps, whatever the two leads want.

Shapes: Da size of the action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robots.interface import TOLERANCE_S
from .led import Led
from .loop import Situation, Target
from .planned import Planned

FADE_S = 0.3
"""Time in which the target fades into that of the new lead, s."""


class Takeover:
    """The lead of a policy and of a person, for one run. The person leads while the clutch is closed."""

    _situation: Situation

    def __init__(self, policy: Planned, hands: Led) -> None:
        self.policy, self.hands = policy, hands
        self._is_led, self._is_new = False, False
        self._offset: NDArray[Any] = np.zeros(0)
        self._since = self._step_at = 0.0

    def begin(self, situation: Situation) -> None:
        """Begin a run with an open clutch."""
        self._situation = situation
        self.policy.begin(situation)
        self.hands.begin(situation)

    def target(self, now: float) -> Target:
        """Where the person is, or the policy if nobody has taken over."""
        target = self.hands.target(now)
        if self.hands.is_led != self._is_led:
            self._is_led, self._is_new, self._step_at = self.hands.is_led, True, now
            if self._is_led:
                self.policy.restart()
        if self._is_led:
            self._count_steps(now)
        else:
            target = self.policy.target(now)
        return target._replace(position=self._faded(target.position, now))

    def _faded(self, position: NDArray[Any] | None, now: float) -> NDArray[Any] | None:
        """The target (Da,), which begins at the last command after a change of leads."""
        if position is None or not np.isfinite(position).all():  # safety brakes
            return position
        if self._is_new:
            self._is_new, self._since = False, now
            self._offset = self._situation.safety.last - position
        share = 1 - (now - self._since) / FADE_S
        return position + share * self._offset if self._offset.size and share > 0 else position

    def _count_steps(self, now: float) -> None:
        """Count the control steps that the person leads; the policy counts its own."""
        while now >= self._step_at + self._situation.control_dt - TOLERANCE_S:
            self._step_at += self._situation.control_dt
            self._situation.summary.num_steps += 1
