"""A policy as a lead: chunks of actions from a planner beside the loop.

Every control period one tick is also a control step, in which the execution observes and may request a chunk. Between
control steps, targets are interpolated between planned actions.

Time: the action planned for an observation belongs to the moment when the observation was captured. Every action is
commanded so that it takes effect at its moment: ahead by the delays of the sensors and the actuators. The first actions
of a chunk, whose moments have passed, are dropped (Chi et al. 2024, section V.B, "inference delay matching").

Shapes: n planned actions of size Da.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..execution.interface import Execution
from ..policy.requests import Request
from ..policy.stillness import travel
from .loop import Situation, Target


class Doubt(NamedTuple):
    """What a monitor says of a chunk."""

    share: float
    """The share of successful episodes in which the monitor's number never was as large, from 0 to 1."""
    is_alarm: bool
    """Whether it is so large that the policy counts as lost."""


SURE = Doubt(0.0, is_alarm=False)
"""The doubt about a chunk that nobody monitors."""

STILL = 0.02
"""A chunk that moves no dimension by more than this share of its limits stands still."""

ON_LOST = ("slow", "hold", "stop")
"""What a robot may do while its policy is lost."""


class Planner(Protocol):
    """Predicts chunks beside the loop, one at a time. No call ever blocks."""

    doubt: Doubt
    """How doubtful the last chunk was that came."""

    def ask(self, request: Request) -> None:
        """Request a chunk. Raises ConnectionError if the planner is lost."""
        ...

    def poll(self) -> NDArray[Any] | None:
        """The requested chunk (Tp, Da), once it has come. Raises ConnectionError if the planner is lost."""
        ...


def interpolate(planned: NDArray[Any], place: float) -> NDArray[Any]:
    """The action at a fractional index of planned actions (n, Da), by linear interpolation; past the end, the last one.

    >>> interpolate(np.array([[0.0], [1.0], [3.0]]), 1.25), interpolate(np.array([[0.0], [1.0]]), 7)
    (array([1.5]), array([1.]))
    """
    place = max(place, 0.0)
    first = min(math.floor(place), len(planned) - 1)
    second = min(first + 1, len(planned) - 1)
    return planned[first] + (place - first if second > first else 0.0) * (planned[second] - planned[first])


class Planned:
    """The lead of a policy, for one run.

    planner: predicts. execution: how chunks follow one another. on_lost: one of `ON_LOST`: "slow" asks for the lower
    speed, and "hold" has no target, from an alarm until a chunk comes that raises none. None goes on, and "stop" is up
    to the session.
    """

    _situation: Situation

    def __init__(self, planner: Planner, execution: Execution, *, on_lost: str | None = None) -> None:
        self.planner, self.execution, self.on_lost = planner, execution, on_lost
        self.doubt = SURE
        """How doubtful the chunk is that is executed."""
        self._has_moved, self._still_at = False, math.inf
        self._step_at = self._observed_at = self._requested_at = 0.0
        self._requested_ahead = self._ahead = 0.0
        self._is_planned, self._is_waiting, self._starved_at = False, False, math.inf
        self._is_outdated = False
        self._held: NDArray[Any] | None = None

    def begin(self, situation: Situation) -> None:
        """Begin a run."""
        self._situation = situation

    def restart(self) -> None:
        """Drop the plan, and the chunk that is under way: the next target begins with a new observation."""
        self.execution.reset()
        self._is_planned, self._starved_at, self._held = False, math.inf, None
        self._is_outdated = self._is_waiting
        self.doubt, self._still_at = SURE, math.inf

    def still_s(self, now: float) -> float:
        """For how long all chunks have stood still, s; 0 before one has moved the robot."""
        return max(now - self._still_at, 0.0) if self._has_moved else 0.0

    def target(self, now: float) -> Target:
        """The planned action of this moment, once the chunk that has come is accepted and the next one requested."""
        chunk_s = seam = 0.0
        try:
            if self._is_waiting and (chunk := self.planner.poll()) is not None:
                if self._is_outdated:
                    self._is_waiting = self._is_outdated = False
                else:
                    chunk_s, seam = now - self._requested_at, self._join(chunk, now)
            self._observe(now)
        except ConnectionError:  # the plan goes on, and runs out unless the planner comes back
            self._is_waiting = self._is_outdated = False
            self.execution.withdraw()
        is_lost = self.on_lost is not None and self.doubt.is_alarm
        position = None if is_lost and self.on_lost == "hold" else self._planned(now)
        return Target(position, chunk_s, seam, doubt=self.doubt.share, is_lost=is_lost)

    def _join(self, chunk: NDArray[Any], now: float) -> float:
        """Accept a chunk; return by how much it moves the target of this moment, see `Tick.seam`."""
        before = self._planned(now)
        self._is_waiting, self._ahead = False, self._requested_ahead
        if not self._is_planned:  # the first step begins when the first chunk comes
            self._is_planned, self._step_at = True, now
        self.execution.accept(chunk)
        self.doubt, limits = self.planner.doubt, self._situation.safety.limits
        way = travel(chunk[self.execution.horizons.observation - 1 :], limits.high - limits.low, ())
        self._has_moved |= bool(way >= STILL)
        self._still_at = min(self._still_at, now) if way < STILL else math.inf
        after = self._planned(now)
        if before is None or after is None:
            return 0.0
        seam = float(np.max(np.abs(after - before) / (limits.high - limits.low)))
        return seam if math.isfinite(seam) else 1.0

    def _observe(self, now: float) -> None:
        """If a control step begins, observe and request the next chunk."""
        control_dt = self._situation.control_dt
        # Before the first chunk there are no steps, and a lost request is repeated.
        is_step = now >= self._step_at + control_dt if self._is_planned else not self._is_waiting
        if not is_step:
            return
        # Missed steps count as well: the plan is as old as the clock says.
        for _ in range(max(1, math.floor((now - self._step_at) / control_dt)) if self._is_planned else 1):
            self._observed_at = self._situation.alignment.time
            commanded = self._situation.commanded.at(self._observed_at - control_dt)
            self.execution.observe(self._situation.alignment.at(self._observed_at), commanded=commanded)
            self._step_at = self._step_at + control_dt if self._is_planned else now
            self._situation.summary.num_steps += 1
        request = self.execution.request()
        if request is not None:
            self._is_waiting, self._requested_at = True, now
            self._requested_ahead = self._step_at - self._observed_at + self._situation.actuation_delay
            self.planner.ask(request)

    def _planned(self, now: float) -> NDArray[Any] | None:
        """The planned action of this moment; None without a plan, or if it ran out more than `stale_s` ago."""
        if not self._is_planned:
            return None
        place = (now - self._step_at + self._ahead) / self._situation.control_dt
        planned = self.execution.planned
        if len(planned):
            self._starved_at = math.inf
            self._held = planned[-1]
            return interpolate(planned, place)
        self._starved_at = min(self._starved_at, now)
        return None if now - self._starved_at > self._situation.safety.stale_s else self._held
