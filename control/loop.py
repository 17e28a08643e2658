"""The control loop: observations in, chunks of actions from a planner beside it, commands out, at a fixed rate.

The loop never waits for a planner, a sensor or a disk. It ticks at the rate of the robot; every control period one tick
is also a control step, in which the execution observes and may request a chunk. Between control steps, commands are
interpolated between planned actions.

Time: the action planned for an observation belongs to the moment when the observation was captured. Every action is
commanded so that it takes effect at its moment: ahead by the delays of the sensors and the actuators. The first actions
of a chunk, whose moments have passed, are dropped (Chi et al. 2024, section V.B, "inference delay matching").

Shapes: n planned actions of size Da.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..execution.interface import Execution
from ..policy.requests import Request
from ..realtime import Clock
from ..robots.interface import Robot, call_robot
from .alignment import Alignment
from .safety import Event, Safety

LARGEST_GAP_S = 1.0
"""Longest time between two ticks; if the clock moves by more, it jumped or the process was suspended."""


class Planner(Protocol):
    """Predicts chunks beside the loop, one at a time. No call ever blocks."""

    def ask(self, request: Request) -> None:
        """Request a chunk. Raises ConnectionError if the planner is lost."""
        ...

    def poll(self) -> NDArray[Any] | None:
        """The requested chunk (Tp, Da), once it has come. Raises ConnectionError if the planner is lost."""
        ...


class Tick(NamedTuple):
    """One command, and how it came about."""

    time: float
    """When it was commanded, s."""
    late_s: float
    """How late it was, s."""
    age_s: float
    """Age of the observations behind it, s."""
    command: NDArray[Any]
    """The command (Da,)."""
    events: int
    """The `Event`s of safety."""
    chunk_s: float
    """Seconds from request to arrival of the chunk that came in this tick; 0 if none came."""
    seam: float
    """Jump of the target when that chunk came: the largest share of the range of any dimension; 1 if not finite."""


class Log(Protocol):
    """Records every tick. It never blocks."""

    def tick(self, tick: Tick, alignment: Alignment) -> None:
        """Record a tick, and the readings of the sensors."""
        ...


@dataclass
class Summary:
    """Counts of a run."""

    num_ticks: int = 0
    """Commands."""
    num_late: int = 0
    """Commands that were sent more than half a period late."""
    num_skipped: int = 0
    """Periods without a command."""
    num_steps: int = 0
    """Control steps."""
    num_chunks: int = 0
    """Chunks that came."""
    chunk_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=1000))
    """Seconds from request to arrival of the last chunks."""
    events: Counter[str] = field(default_factory=lambda: Counter[str]())
    """Name of an `Event` -> ticks in which it occurred."""
    reason: str = ""
    """Why the run ended."""

    def count(self, tick: Tick, *, is_late: bool) -> None:
        """Count a tick."""
        self.num_ticks += 1
        self.num_late += is_late
        self.events.update(event.name for event in Event(tick.events) if event.name)
        if tick.chunk_s:
            self.num_chunks += 1
            self.chunk_s.append(tick.chunk_s)


def interpolate(planned: NDArray[Any], place: float) -> NDArray[Any]:
    """The action at a fractional index of planned actions (n, Da), by linear interpolation; past the end, the last one.

    >>> interpolate(np.array([[0.0], [1.0], [3.0]]), 1.25), interpolate(np.array([[0.0], [1.0]]), 7)
    (array([1.5]), array([1.]))
    """
    place = max(place, 0.0)
    first = min(math.floor(place), len(planned) - 1)
    second = min(first + 1, len(planned) - 1)
    return planned[first] + (place - first if second > first else 0.0) * (planned[second] - planned[first])


class Controller:
    """Controls one robot for one run.

    log: records every tick. start_s: seconds within which the first reading of every stream must come.
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
        self._step_at = self._observed_at = self._requested_at = 0.0
        self._requested_lead = self._lead = 0.0
        self._is_planned, self._is_waiting, self._starved_at = False, False, math.inf
        self._held: NDArray[Any] | None = None
        self._commanded: deque[tuple[float, NDArray[Any]]] = deque()
        self._rest_at = math.inf

    def run(self, is_over: Callable[[], bool], *, brakes: Callable[[], str] = lambda: "") -> Summary:
        """Control the robot until `is_over`, or until it has braked to rest; then stop it.

        brakes: called every tick; the reason to brake the robot and end the run, which becomes the summary's `reason`,
        or an empty string to go on. Safety may brake the robot, too.

        Raises TimeoutError if a stream never comes, ValueError if the robot is outside its limits or the clock jumps,
        and ConnectionError if the robot is lost or its driver fails. Nothing more is commanded then.
        """
        try:
            call_robot(self.robot.start)
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
                # Missed periods are skipped: commands that follow one another at once would exceed the limits.
                behind = math.ceil((now - scheduled) / self.period + 0.5)
                behind = max(behind, math.floor((self.clock.now() - scheduled) / self.period), 0)
                self.summary.num_skipped += behind
                scheduled += behind * self.period
            if not self.summary.reason:
                self.summary.reason = "stopped for safety" if self.safety.is_stopped else "over"
        except BaseException:
            with suppress(Exception):  # the error that came first is raised
                self.robot.stop()
            raise
        call_robot(self.robot.stop)
        return self.summary

    def _is_at_rest(self) -> bool:
        """Whether the robot is stopped, and its last commands have taken effect."""
        now = self.clock.now()
        is_commanded = self.safety.is_stopped and self.safety.is_at_rest
        self._rest_at = min(self._rest_at, now) if is_commanded else math.inf
        return now - self._rest_at >= self.robot.actuation_delay

    def _wait_for_streams(self) -> None:
        """Wait until every stream and the position are known, and begin safety there. Commands nothing."""
        until, refused = self.clock.now() + self.start_s, dict[str, str]()
        while True:
            readings = call_robot(self.robot.read)
            refused |= self.alignment.add(readings, self.clock.now())
            position = call_robot(self.robot.position)
            if not self.alignment.missing and position is not None:
                self.safety.begin(position)
                return
            if self.clock.now() >= until:
                missing = self.alignment.missing or ["its position"]
                whys = [f"; {name!r} had a reading, but {refused[name]}" for name in missing if name in refused]
                raise TimeoutError(
                    f"the robot must give every stream within {self.start_s:g} s, but gave no {missing}{''.join(whys)}"
                )
            self.clock.sleep_until(self.clock.now() + self.period)

    def _tick(self, now: float, scheduled: float) -> None:
        readings = call_robot(self.robot.read)
        read_at = self.clock.now()  # a reading may be newer than the begin of the tick
        is_bad = bool(self.alignment.add(readings, read_at))
        age, chunk_s, seam = read_at - self.alignment.time, 0.0, 0.0
        with np.errstate(all="ignore"):  # a chunk may hold any numbers, which safety checks
            try:
                if self._is_waiting and (chunk := self.planner.poll()) is not None:
                    chunk_s, seam = now - self._requested_at, self._join(chunk, now)
                self._plan(now)
            except ConnectionError:  # the plan goes on, and runs out unless the planner comes back
                self._is_waiting = False
                self.execution.withdraw()
            command, events = self.safety(self._target(now), age_s=age)
        if is_bad:
            events |= Event.BAD_READING
        call_robot(self.robot.command, command, now)
        self._commanded.append((now + self.robot.actuation_delay, command))
        tick = Tick(now, self.clock.now() - scheduled, age, command, int(events), chunk_s, seam)
        self.summary.count(tick, is_late=tick.late_s > self.period / 2)
        if self.log is not None:
            self.log.tick(tick, self.alignment)

    def _join(self, chunk: NDArray[Any], now: float) -> float:
        """Accept a chunk; return by how much it moves the target of this moment, see `Tick.seam`."""
        before = self._target(now)
        self._is_waiting, self._lead = False, self._requested_lead
        if not self._is_planned:  # the first step begins when the first chunk comes
            self._is_planned, self._step_at = True, now
        self.execution.accept(chunk)
        after = self._target(now)
        if before is None or after is None:
            return 0.0
        seam = float(np.max(np.abs(after - before) / (self.safety.limits.high - self.safety.limits.low)))
        return seam if math.isfinite(seam) else 1.0

    def _plan(self, now: float) -> None:
        """If a control step begins, observe and request the next chunk."""
        # Before the first chunk there are no steps, and a lost request is repeated.
        is_step = now >= self._step_at + self.control_dt if self._is_planned else not self._is_waiting
        if not is_step:
            return
        # Missed steps count as well: the plan is as old as the clock says.
        for _ in range(max(1, math.floor((now - self._step_at) / self.control_dt)) if self._is_planned else 1):
            self._observed_at = self.alignment.time
            commanded = self._command_at(self._observed_at - self.control_dt)
            self.execution.observe(self.alignment.at(self._observed_at), commanded=commanded)
            self._step_at = self._step_at + self.control_dt if self._is_planned else now
            self.summary.num_steps += 1
        request = self.execution.request()
        if request is not None:
            self._is_waiting, self._requested_at = True, now
            self._requested_lead = self._step_at - self._observed_at + self.robot.actuation_delay
            self.planner.ask(request)

    def _command_at(self, moment: float) -> NDArray[Any] | None:
        """The command in effect at a moment, interpolated between two commands; None before the first one.

        Earlier commands are forgotten.
        """
        while len(self._commanded) > 1 and self._commanded[1][0] <= moment:
            self._commanded.popleft()
        if not self._commanded:
            return None
        (first, before), (second, after) = self._commanded[0], self._commanded[min(1, len(self._commanded) - 1)]
        share = min(max((moment - first) / (second - first), 0.0), 1.0) if second > first else 0.0
        return before + share * (after - before)

    def _target(self, now: float) -> NDArray[Any] | None:
        """The planned action of this moment; None without a plan, or if it ran out more than `stale_s` ago."""
        if not self._is_planned:
            return None
        place = (now - self._step_at + self._lead) / self.control_dt
        planned = self.execution.planned
        if len(planned):
            self._starved_at = math.inf
            self._held = planned[-1]
            return interpolate(planned, place)
        self._starved_at = min(self._starved_at, now)
        return None if now - self._starved_at > self.safety.stale_s else self._held
