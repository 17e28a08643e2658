"""The control loop: observations in, chunks of actions from a planner beside it, commands out, at a fixed rate.

The loop never waits for a planner, a sensor or a disk. It ticks at the rate of the robot; every control period one tick
is also a control step, in which the execution observes and may ask for a chunk. Between control steps the robot is led
along the line from one planned action to the next.

Time: the action that was planned for an observation belongs to the moment of its capture. It is commanded so that it
takes effect then, as far as that is still to come: ahead by what the sensors and the actuators take, so that the first
actions of a chunk, which are over, are dropped (Chi et al. 2024, section V.B, "inference delay matching").

Shapes: n planned actions of size Da.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..execution.interface import Execution
from ..policy.requests import Request
from ..realtime import Clock
from ..robots.interface import Robot
from .alignment import Alignment
from .safety import Event, Safety

LARGEST_GAP_S = 1.0
"""Between two ticks; a clock that moves by more has jumped, or the process was suspended."""


class Planner(Protocol):
    """Predicts chunks beside the loop, one at a time. Nothing of it ever blocks."""

    def ask(self, request: Request) -> None:
        """Begin with a chunk. Raises ConnectionError where the planner is lost."""
        ...

    def poll(self) -> NDArray[Any] | None:
        """The chunk (Tp, Da) that was asked for, once it is there. Raises ConnectionError where the planner is lost."""
        ...


class Tick(NamedTuple):
    """One command, and how it came about.

    time: of the command, s. late_s: after it was due. age_s: of the observations behind it. command (Da,). events: the
    `Event`s of safety. chunk_s: what the chunk took that came in this tick, 0 where none came. seam: how far that chunk
    is from what was planned for this moment, the largest share of what the limits allow in any dimension; 1 where it is
    not finite.
    """

    time: float
    late_s: float
    age_s: float
    command: NDArray[Any]
    events: int
    chunk_s: float
    seam: float


class Log(Protocol):
    """What is told of every tick. It never blocks."""

    def tick(self, tick: Tick, alignment: Alignment) -> None:
        """Keep what happened, and what the sensors saw."""
        ...


@dataclass
class Summary:
    """What happened in a run.

    num_ticks, num_late: commands, and those sent more than half a period late. num_skipped: periods without any.
    num_steps, num_chunks: control steps, and chunks that came. chunk_s: seconds that each of the last ones took.
    events: how often each `Event` was met. reason: why the run ended.
    """

    num_ticks: int = 0
    num_late: int = 0
    num_skipped: int = 0
    num_steps: int = 0
    num_chunks: int = 0
    chunk_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=1000))
    events: Counter[str] = field(default_factory=lambda: Counter[str]())
    reason: str = ""

    def count(self, tick: Tick, *, is_late: bool) -> None:
        """Add what happened in a tick."""
        self.num_ticks += 1
        self.num_late += is_late
        self.events.update(event.name for event in Event(tick.events) if event.name)
        if tick.chunk_s:
            self.num_chunks += 1
            self.chunk_s.append(tick.chunk_s)


def between(planned: NDArray[Any], place: float) -> NDArray[Any]:
    """The action at a place among planned ones (n, Da): on the line between its neighbours; the last one at the end.

    >>> between(np.array([[0.0], [1.0], [3.0]]), 1.25), between(np.array([[0.0], [1.0]]), 7)
    (array([1.5]), array([1.]))
    """
    place = max(place, 0.0)
    first = min(math.floor(place), len(planned) - 1)
    second = min(first + 1, len(planned) - 1)
    return planned[first] + (place - first if second > first else 0.0) * (planned[second] - planned[first])


class Controller:
    """One robot and what controls it.

    log: what every tick is told to. start_s: seconds within which every stream of the robot must come.
    """

    def __init__(
        self,
        robot: Robot,
        planner: Planner,
        execution: Execution,
        safety: Safety,
        clock: Clock,
        *,
        log: Log | None = None,
        start_s: float = 5.0,
    ) -> None:
        self.robot, self.planner, self.execution, self.safety, self.clock = robot, planner, execution, safety, clock
        self.log = log
        self.start_s, self.control_dt, self.period = start_s, robot.specification.control_dt, 1 / robot.rate
        self.alignment = Alignment(robot.specification)
        self.summary = Summary()
        self._step_at = self._observed_at = self._asked_at = 0.0
        self._asked_lead = self._lead = 0.0
        self._is_planned, self._is_asking, self._starved_at = False, False, math.inf
        self._held: NDArray[Any] | None = None
        self._commanded: deque[tuple[float, NDArray[Any]]] = deque()
        self._rest_at = math.inf

    def run(self, is_over: Callable[[], bool], *, brakes: Callable[[], str] = lambda: "") -> Summary:
        """Control the robot until `is_over`, or until it was to brake and came to rest; in the end it is stopped.

        brakes: why the robot is to brake now, and the run to end: the `reason` of the summary. Nothing to go on; but
        its safety may brake the robot, too.

        Raises TimeoutError where a stream never comes, ValueError where the robot is not within its limits or the clock
        jumps, and ConnectionError where the robot is lost. Nothing is commanded then.
        """
        try:
            self.robot.start()
            self._wait_for_streams()
            scheduled = last = self.clock.now()
            while not is_over() and not self._is_at_rest():
                self.clock.sleep_until(scheduled)
                now = self.clock.now()
                if not 0 <= now - last <= LARGEST_GAP_S:
                    raise ValueError(f"the clock must go on evenly, but moved by {now - last:.3g} s between two ticks")
                if not self.safety.is_stopped and (reason := brakes()):
                    self.summary.reason = reason
                    self.safety.stop()
                self._tick(now, scheduled)
                last, scheduled = now, scheduled + self.period
                # Commands must not follow each other at once, because each may move by as much as a period allows.
                behind = math.ceil((now - scheduled) / self.period + 0.5)
                behind = max(behind, math.floor((self.clock.now() - scheduled) / self.period), 0)
                self.summary.num_skipped += behind
                scheduled += behind * self.period
            if not self.summary.reason:
                self.summary.reason = "stopped for safety" if self.safety.is_stopped else "over"
        finally:
            self.robot.stop()
        return self.summary

    def _is_at_rest(self) -> bool:
        """Whether the robot is stopped, and its last commands have had their effect."""
        now = self.clock.now()
        is_commanded = self.safety.is_stopped and self.safety.is_at_rest
        self._rest_at = min(self._rest_at, now) if is_commanded else math.inf
        return now - self._rest_at >= self.robot.actuation_delay

    def _wait_for_streams(self) -> None:
        """Until every stream and the position are known; nothing is commanded before."""
        until = self.clock.now() + self.start_s
        while True:
            self.alignment.add(self.robot.read())
            position = self.robot.position()
            if not self.alignment.missing and position is not None:
                self.safety.begin(position)
                return
            if self.clock.now() >= until:
                missing = self.alignment.missing or ["its position"]
                raise TimeoutError(f"the robot must give every stream within {self.start_s:g} s, but gave no {missing}")
            self.clock.sleep_until(self.clock.now() + self.period)

    def _tick(self, now: float, scheduled: float) -> None:
        self.alignment.add(self.robot.read())
        age, chunk_s, seam = now - self.alignment.time, 0.0, 0.0
        with np.errstate(all="ignore"):  # what a policy says may be anything; safety looks at it
            try:
                if self._is_asking and (chunk := self.planner.poll()) is not None:
                    chunk_s, seam = now - self._asked_at, self._join(chunk, now)
                self._plan(now)
            except ConnectionError:  # what is planned goes on; it will run out unless the planner comes back
                self._is_asking = False
                self.execution.withdraw()
            command, events = self.safety(self._target(now), age_s=age)
        self.robot.command(command, now)
        self._commanded.append((now + self.robot.actuation_delay, command))
        tick = Tick(now, self.clock.now() - scheduled, age, command, int(events), chunk_s, seam)
        self.summary.count(tick, is_late=tick.late_s > self.period / 2)
        if self.log is not None:
            self.log.tick(tick, self.alignment)

    def _join(self, chunk: NDArray[Any], now: float) -> float:
        """Take a chunk that has come; by how much it changes what is wanted at this moment, see `Tick`."""
        before = self._target(now)
        self._is_asking, self._lead = False, self._asked_lead
        if not self._is_planned:  # the episode begins when its first chunk is there
            self._is_planned, self._step_at = True, now
        self.execution.accept(chunk)
        after = self._target(now)
        if before is None or after is None:
            return 0.0
        seam = float(np.max(np.abs(after - before) / (self.safety.limits.high - self.safety.limits.low)))
        return seam if math.isfinite(seam) else 1.0

    def _plan(self, now: float) -> None:
        """Where a control step begins, observe and ask for the next chunk."""
        # Before the first chunk there are no steps, and a request that was lost is made again.
        is_step = now >= self._step_at + self.control_dt if self._is_planned else not self._is_asking
        if not is_step:
            return
        # Steps that were slept through are steps too: the plan is as old as the clock says.
        for _ in range(max(1, math.floor((now - self._step_at) / self.control_dt)) if self._is_planned else 1):
            self._observed_at = self.alignment.time
            commanded = self._command_at(self._observed_at - self.control_dt)
            self.execution.observe(self.alignment.at(self._observed_at), commanded=commanded)
            self._step_at = self._step_at + self.control_dt if self._is_planned else now
            self.summary.num_steps += 1
        request = self.execution.request()
        if request is not None:
            self._is_asking, self._asked_at = True, now
            self._asked_lead = self._step_at - self._observed_at + self.robot.actuation_delay
            self.planner.ask(request)

    def _command_at(self, moment: float) -> NDArray[Any] | None:
        """The command that took effect at a moment, on the line between two of them; None if there was none yet.

        What took effect before is forgotten.
        """
        while len(self._commanded) > 1 and self._commanded[1][0] <= moment:
            self._commanded.popleft()
        if not self._commanded:
            return None
        (first, before), (second, after) = self._commanded[0], self._commanded[min(1, len(self._commanded) - 1)]
        share = min(max((moment - first) / (second - first), 0.0), 1.0) if second > first else 0.0
        return before + share * (after - before)

    def _target(self, now: float) -> NDArray[Any] | None:
        """The planned action of this moment, or None where there has been none for longer than `stale_s`."""
        if not self._is_planned:
            return None
        place = (now - self._step_at + self._lead) / self.control_dt
        planned = self.execution.planned
        if len(planned):
            self._starved_at = math.inf
            self._held = planned[-1]
            return between(planned, place)
        self._starved_at = min(self._starved_at, now)
        return None if now - self._starved_at > self.safety.stale_s else self._held
