"""The control loop: where a lead wants the robot to go, within the limits of safety, commanded at a fixed rate.

The loop never waits for a lead, a sensor or a disk. It ticks at the rate of the robot. A policy leads by its plan
(`planned.py`), a person by a clutch (`led.py`), or both in turn (`takeover.py`); the loop, its safety and its log are
the same.
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

from ..realtime import Clock
from ..robots.interface import Answer, Queueing, Robot, call_robot
from .alignment import Alignment
from .safety import Event, Safety

STOPPED = "stopped for safety"
"""The reason of a run that safety ended."""

LARGEST_GAP_S = 1.0
"""Longest time between two ticks; if the clock moves by more, it jumped or the process was suspended."""


class Target(NamedTuple):
    """Where a lead wants the robot to go now."""

    position: NDArray[Any] | None
    """An action (Da,); None if there is no plan, so that the robot brakes."""
    chunk_s: float = 0.0
    """Seconds from request to arrival of the chunk that came now; 0 if none came."""
    seam: float = 0.0
    """Jump of the target when that chunk came, see `Tick.seam`."""
    is_led: bool = False
    """Whether a person leads."""
    doubt: float = 0.0
    """How doubtful the chunk is, see `planned.Doubt.share`."""
    is_lost: bool = False
    """Whether the policy is lost, and the robot reacts to it."""


class Lead(Protocol):
    """Whoever says where the robot should go: a policy, or a person. No call ever blocks."""

    def begin(self, situation: Situation) -> None:
        """Begin a run: the robot is at rest at the last command of `situation.safety`."""
        ...

    def target(self, now: float) -> Target:
        """Where to go at `now`, s."""
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
    is_led: bool = False
    """Whether a person led."""
    doubt: float = 0.0
    """How doubtful the chunk was, see `Target.doubt`."""


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
    num_led: int = 0
    """Commands that followed a person."""
    num_chunks: int = 0
    """Chunks that came."""
    chunk_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=1000))
    """Seconds from request to arrival of the last chunks."""
    events: Counter[str] = field(default_factory=lambda: Counter[str]())
    """Name of an `Event` -> ticks in which it occurred."""
    reason: str = ""
    """Why the run ended."""
    refused: str = ""
    """The last reading that was not acted on, and why."""

    def count(self, tick: Tick, *, is_late: bool) -> None:
        """Count a tick."""
        self.num_ticks += 1
        self.num_late += is_late
        self.num_led += tick.is_led
        self.events.update(event.name for event in Event(tick.events) if event.name)
        if tick.chunk_s:
            self.num_chunks += 1
            self.chunk_s.append(tick.chunk_s)


class Commanded:
    """The commands of a run, at the times when they take effect."""

    def __init__(self) -> None:
        self._commands: deque[tuple[float, NDArray[Any]]] = deque()

    def add(self, moment: float, command: NDArray[Any]) -> None:
        """Add a command (Da,), which takes effect at `moment`, s."""
        self._commands.append((moment, command))

    def at(self, moment: float) -> NDArray[Any] | None:
        """The command in effect at a moment, interpolated between two commands; None before the first one.

        Earlier commands are forgotten.
        """
        while len(self._commands) > 1 and self._commands[1][0] <= moment:
            self._commands.popleft()
        if not self._commands:
            return None
        (first, before), (second, after) = self._commands[0], self._commands[min(1, len(self._commands) - 1)]
        share = min(max((moment - first) / (second - first), 0.0), 1.0) if second > first else 0.0
        return before + share * (after - before)


@dataclass(frozen=True)
class Situation:
    """What a lead may look at: the robot, as the loop knows it."""

    alignment: Alignment
    """The readings of all streams."""
    safety: Safety
    """The limits and the last command."""
    commanded: Commanded
    """The commands so far."""
    summary: Summary
    """The counts so far."""
    control_dt: float
    """Seconds of a control period."""
    actuation_delay: float
    """Seconds from a command to its effect."""


class Controller:
    """Controls one robot for one run.

    log: records every tick. start_s: seconds within which the first reading of every stream must come.
    """

    def __init__(
        self,
        robot: Robot,
        lead: Lead,
        safety: Safety,
        clock: Clock,
        *,
        log: Log | None = None,
        start_s: float = 5.0,
    ) -> None:
        self.robot, self.lead, self.safety, self.clock = robot, lead, safety, clock
        self.log = log
        self.start_s, self.period = start_s, 1 / robot.rate
        self.alignment = Alignment(robot.specification)
        self.summary = Summary()
        self._commanded = Commanded()
        self._rest_at = math.inf
        self._slowest = 0.0, ""

    def run(self, is_over: Callable[[], bool], *, brakes: Callable[[], str] = lambda: "") -> Summary:
        """Control the robot until `is_over`, or until it has braked to rest; then stop it.

        brakes: called every tick; the reason to brake the robot and end the run, which becomes the summary's `reason`,
        or an empty string to go on. Safety may brake the robot, too.

        Raises TimeoutError if a stream never comes, ValueError if the robot is outside its limits or the clock jumps,
        and ConnectionError if the robot is lost or its driver fails. Nothing more is commanded then.
        """
        try:
            self._call(self.robot.start)
            self._wait_for_streams()
            self.lead.begin(
                Situation(
                    self.alignment,
                    self.safety,
                    self._commanded,
                    self.summary,
                    self.robot.specification.control_dt,
                    self.robot.actuation_delay,
                )
            )
            scheduled = last = self.clock.now()
            while not is_over() and not self._is_at_rest():
                self.clock.sleep_until(scheduled)
                now = self.clock.now()
                if not 0 <= now - last <= LARGEST_GAP_S:
                    raise ValueError(self._gap(now - last))
                self._slowest = 0.0, ""
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
                self.summary.reason = STOPPED if self.safety.is_stopped else "over"
        except BaseException:
            with suppress(Exception):  # the error that came first is raised
                self.robot.stop()
            raise
        self._call(self.robot.stop)
        return self.summary

    def _call(self, method: Callable[..., Answer], *arguments: Any) -> Answer:
        """`call_robot`; the slowest call since the last tick is kept."""
        begin = self.clock.now()
        answer = call_robot(method, *arguments)
        self._slowest = max(self._slowest, (self.clock.now() - begin, getattr(method, "__name__", "call")))
        return answer

    def _gap(self, seconds: float) -> str:
        """What is wrong if so much time lies between two ticks."""
        taken, name = self._slowest
        if taken > LARGEST_GAP_S / 2:
            return (
                f"the robot's {name}() must return at once, but took {taken:.3g} s: let a thread of the driver wait "
                "for the hardware (recede check measures each call)"
            )
        return f"the clock must go on evenly, but moved by {seconds:.3g} s between two ticks"

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
            refused |= self._read()
            position = self._call(self.robot.position)
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

    def _read(self) -> dict[str, str]:
        """Read all streams; the name of a stream whose reading is refused -> why."""
        refused = dict[str, str]()
        if isinstance(self.robot, Queueing):  # what a late tick has missed
            for name, readings in self._call(self.robot.unread).items():
                for reading in readings:
                    refused |= self.alignment.add({name: reading}, self.clock.now())
        readings = self._call(self.robot.read)
        return refused | self.alignment.add(readings, self.clock.now())

    def _tick(self, now: float, scheduled: float) -> None:
        if refused := self._read():
            self.summary.refused = "; ".join(f"{name!r}: {why}" for name, why in refused.items())
        age = self.clock.now() - self.alignment.time  # a reading may be newer than the begin of the tick
        with np.errstate(all="ignore"):  # a target may hold any numbers, which safety checks
            target = self.lead.target(now)
            command, events = self.safety(target.position, age_s=age, is_slow=target.is_lost)
        if refused:
            events |= Event.BAD_READING
        if target.is_lost:
            events |= Event.LOST
        self._call(self.robot.command, command, now)
        self._commanded.add(now + self.robot.actuation_delay, command)
        late, (_, chunk_s, seam, is_led, doubt, _) = self.clock.now() - scheduled, target
        tick = Tick(now, late, age, command, int(events), chunk_s, seam, is_led, doubt)
        self.summary.count(tick, is_late=tick.late_s > self.period / 2)
        if self.log is not None:
            self.log.tick(tick, self.alignment)
