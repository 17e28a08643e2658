"""A recording: episodes that a person drives, one after the other, into one store.

It runs the control loop once for each episode, and once for each slow approach to the start pose. A session is handed
built parts and knows no configuration.

| phase | the robot | ends by |
|---|---|---|
| preparing | a simulation is reset to the next seed; a robot goes slowly to its start pose | itself |
| ready | holds | `begin` |
| recording | follows the hands | `end`, `keep`, `discard`, the end of a simulated episode, or the longest duration |
| ended | holds | `keep` or `discard` |
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ..control.alignment import Alignment
from ..control.led import Approach, Led
from ..control.loop import Controller, Summary, Tick
from ..control.operator import Operator
from ..control.safety import Safety
from ..datasets.facts import COMMANDED, INPUT, EpisodeFacts, versions_here
from ..datasets.store import DemonstrationStore
from ..files import exclusive, write_json
from ..realtime import Clock, Interrupted, MonotonicClock
from ..robots.interface import Robot, call_robot
from ..robots.simulated import SimulatedRobot
from ..teleoperation.clutch import Clutch
from ..teleoperation.interface import ORDERS, Order, Status, Teleoperator
from .console import HINTS, Console
from .measures import Measures, Series
from .stores import check_actions
from .writing import Recorder

MEASURED_S = 1.0
"""How long the streams of a robot are measured before the first episode, s."""

START_S = 5.0
"""Seconds within which the first reading of every stream must come."""

POLL_S = 0.02
"""Time between two looks at the hands while no loop runs, s."""

LOST = "the episode under way is lost, all earlier ones are whole"
"""What is printed of an episode that an error ends."""

UNDER_WAY = ".under-way.json"
"""Name of the file in a store that names the episode under way."""


@dataclass(kw_only=True)
class RecordingSession:
    """Records episodes into a store; the session closes the robot and the input at its end."""

    robot: Robot
    """The robot, which is not started yet. Only a `SimulatedRobot` is reset to a seed, and judges an episode."""
    teleoperator: Teleoperator
    """The input, which is not started yet."""
    clutch: Clutch
    """Between the input and the robot."""
    safety: Safety
    """The limits that every command passes."""
    store: DemonstrationStore
    """Where the episodes are kept, with the specification of the robot."""
    facts: EpisodeFacts
    """What is noted of every episode: its task, sentence, operator and input. The session adds what it measures."""
    episodes: int | None = None
    """Number of episodes that the store shall hold; None for as many as the hands want."""
    first_seed: int = 0
    """Lowest seed of a simulated episode; every episode has the seed after the highest one so far."""
    seconds: float = math.inf
    """Longest duration of an episode."""
    action: str = COMMANDED
    """What the actions are, one of `datasets.facts.ACTIONS`."""
    start: Sequence[float] | None = None
    """The pose (Da,) of the robot before each episode; None for where it is at first. A simulation is reset instead."""
    approach: float = 0.1
    """Speed of the way to the start pose, in ranges of the action a second."""
    clock: Clock = field(default_factory=MonotonicClock)
    """The clock of the loop, of the robot and of the input."""
    num_kept: int = field(default=0, init=False)
    """Episodes that this session has kept, and not removed."""
    num_discarded: int = field(default=0, init=False)
    """Episodes that were discarded or lost."""
    lead: Led = field(init=False)
    """The hands as the lead of the loop."""
    recorder: Recorder = field(init=False)
    """What writes the episodes."""

    def run(self) -> None:
        """Record until the store holds enough episodes, or until somebody ends it. Prints a line for each episode.

        Raises ValueError if another process records into the store, its actions are of another kind or a stream is too
        slow, and the error of the robot, the input or the disk, which loses the episode under way alone; and
        Interrupted if a signal ended the session.
        """
        with ExitStack() as stack:
            stack.enter_context(closing(self.robot))
            stack.enter_context(exclusive(self.store.path, "being recorded"))
            check_actions(self.store, self.action)
            self.store.remove_leftovers()
            self._report_lost_episode()
            stack.enter_context(closing(self.teleoperator))
            self._operator = stack.enter_context(Operator("Ctrl-C ends the recording"))
            self._console, self._is_over, self._phase = Console(), False, "preparing"
            self._message, self._outcome, self._decision, self._episode_s = "", None, "", 0.0
            self._num_episodes = len(self.store)
            self._seed = max([self.first_seed - 1, *self.store.episode_seeds.tolist()])
            self.lead = Led(self.teleoperator, self.clutch)
            self.teleoperator.start()
            self._measure()
            self.recorder = stack.enter_context(closing(Recorder(self.store, self.robot.actuation_delay)))
            while not self._is_over and (self.episodes is None or self._num_episodes < self.episodes):
                self._seed += 1
                self._prepare()
                if self._wait("ready", {"begin"}):
                    self._record()
            if self._operator.signal:
                raise Interrupted(self._operator.signal)

    # --- phases

    def _measure(self) -> None:
        """Start the robot, and measure its streams. Raises ValueError if one is too slow for the specification."""
        call_robot(self.robot.start)
        alignment, measures = Alignment(self.robot.specification), Measures()
        until, period = self.clock.now() + START_S, 1 / self.robot.rate
        while alignment.missing and self.clock.now() < until:  # the loop names what is missing
            alignment.add(call_robot(self.robot.read), self.clock.now())
            self.clock.sleep_until(self.clock.now() + period)
        self._has_moved = self.start is not None
        if self.start is None and (position := call_robot(self.robot.position)) is not None:
            self.start = [float(value) for value in position]
        until = self.clock.now() + MEASURED_S
        while not alignment.missing and self.clock.now() < until:
            alignment.add(call_robot(self.robot.read), self.clock.now())
            measures.note(alignment.times, self.clock.now())
            self.clock.sleep_until(self.clock.now() + period)
        call_robot(self.robot.stop)
        if fault := measures.fault(self.robot.specification.control_dt):
            raise ValueError(fault)

    def _prepare(self) -> None:
        """Bring the scene to the beginning of an episode: by a reset, or by a slow approach."""
        self._episode_s = 0.0
        self._enter("preparing")
        if self._simulation is not None:
            self._simulation.reset(self._seed)
        elif self.start is not None and self._has_moved:
            lead = Approach(self.start, self.approach)
            controller = Controller(self.robot, lead, self.safety, self.clock)
            controller.run(lambda: lead.is_there, brakes=lambda: "ended" if self._poll({"quit"}) else "")

    def _wait(self, phase: str, orders: set[str]) -> str:
        """Wait in a phase for one of some orders, and return it; empty if the recording is over first."""
        self._enter(phase)
        while not self._is_over:
            for kind in self._poll({*orders, "undo"} if phase == "ready" else orders):
                if kind != "undo":
                    return kind
                self._undo()
            self.clock.sleep_until(self.clock.now() + POLL_S)
        return ""

    def _record(self) -> None:
        """Record one episode, and keep or discard it."""
        self._outcome, self._decision, self._message, measures = None, "", "", Measures()
        self._has_moved = True
        hands, begun = Series(), datetime.now(UTC)
        write_json(self.store.path / UNDER_WAY, {"episode": self._num_episodes, "begun": begun.isoformat()})
        self.recorder.begin()
        if self._simulation is not None:  # the reset that the hands have watched may be long ago
            self._simulation.reset(self._seed)
        self._began_s = self.clock.now()
        self._enter("recording")
        log = _EpisodeLog(self, measures, hands)
        controller = Controller(self.robot, self.lead, self.safety, self.clock, log=log)
        try:
            summary = controller.run(self._is_simulated_end, brakes=self._brake_reason)
            if self.lead.fault is not None:
                raise ConnectionError(f"the input failed: {self.lead.fault}") from self.lead.fault
            self.clutch.open()
            num_steps = self.recorder.end()
        except Exception:
            self._discard(LOST)
            raise
        if self._outcome is None and self._simulation is not None and summary.reason == "over":
            self._outcome = "success" if self._simulation.episode.success else "failure"
        fault = self.recorder.fault or measures.fault(self.robot.specification.control_dt)
        if fault or not num_steps:
            self._message = f"it cannot be kept: {fault or 'it has no steps'}"
        chosen = str(self._decision)  # by an order that came while it was recorded
        decision = chosen or ("discard" if self._message else self._wait("ended", {"keep", "discard"}))
        if decision == "keep" and not self._message:
            self._keep(summary, measures, hands, begun)
        else:
            self._discard("discarded" if chosen == "discard" or not self._message else self._message)

    def _keep(self, summary: Summary, measures: Measures, hands: Series, begun: datetime) -> None:
        streams = measures.streams
        facts = EpisodeFacts(
            outcome=self._outcome or "unknown",
            task=self.facts.task,
            sentence=self.facts.sentence,
            operator=self.facts.operator,
            input=self.facts.input,
            versions=versions_here(),
            rates={name: round(series.rate, 3) for name, series in streams.items()},
            delays={name: round(series.delay, 6) for name, series in streams.items()},
            notes={
                "begun": begun.isoformat(),
                "ended": summary.reason,
                "action": self.action,
                "led": self.recorder.led,
                "skews": {name: round(series.skew, 6) for name, series in streams.items()},
                "longest_gaps": {name: round(series.longest_gap, 6) for name, series in streams.items()},
                "input_rate": round(hands.rate, 3),
                "input_delay": round(hands.delay, 6),
                "commands": summary.num_ticks,
                "late": summary.num_late,
                "skipped": summary.num_skipped,
                "events": dict(summary.events),
            },
        )
        # Only an episode that begins where the environment did can be repeated from its seed.
        is_exact = self._simulation is not None and self.recorder.first_s == self._simulation.began
        try:
            index = self.recorder.keep(facts, seed=self._seed if is_exact else -1)
        except Exception:
            self._discard(LOST)
            raise
        (self.store.path / UNDER_WAY).unlink()
        self._num_episodes, self.num_kept = index + 1, self.num_kept + 1
        print(f"episode {index}: kept, {self.recorder.num_steps} steps, {facts.outcome}")

    def _discard(self, message: str) -> None:
        with suppress(OSError):  # the process that writes has ended, or ends now
            self.recorder.discard()
            (self.store.path / UNDER_WAY).unlink()
        self.num_discarded += 1
        print(f"episode {self._num_episodes}: {message}")

    def _undo(self) -> None:
        """Remove the last episode, if this session kept it."""
        if not self.num_kept:
            self._message = "this recording has kept no episode that could be removed"
            return
        self._num_episodes, self.num_kept = self.recorder.undo(), self.num_kept - 1
        self._message = f"episode {self._num_episodes} is removed"
        print(self._message)

    # --- hands

    def _enter(self, phase: str) -> None:
        self._phase = phase
        if self._operator.has_terminal:
            print(f"[{phase}] {HINTS[phase]}", flush=True)

    def status(self, keys: bytes = b"") -> Status:
        """What the hands are shown."""
        return Status(
            phase=self._phase,
            num_episodes=self._num_episodes,
            seconds=self._episode_s,
            is_led=self.lead.is_led,
            outcome=self._outcome,
            message=self._message or self.clutch.why,
            task=self.facts.task,
            sentence=self.facts.sentence,
            keys=keys,
        )

    def _poll(self, counting: set[str]) -> list[str]:
        """The orders that came, of those that count now. Marks, words and `quit` count at any time."""
        typed, rest = self._console.orders(self._operator.typed(), self._phase)
        orders = [*typed, *self.teleoperator.orders(self.status(rest))]
        if self._operator.signal:
            orders.append(Order("quit"))
        kinds = list[str]()
        for kind, text in orders:
            if kind not in ORDERS:
                raise ValueError(f"an order must be one of {', '.join(ORDERS)}, got {kind!r}")
            if kind in ("success", "failure"):
                self._outcome = kind
            elif kind in ("task", "sentence"):
                self.facts = replace(self.facts, **{kind: text})
            elif kind == "quit":
                self._is_over = True
            if kind in counting:
                kinds.append(kind)
        return kinds

    def _brake_reason(self) -> str:
        """Why the robot must brake and the episode end now; empty while it goes on."""
        self._episode_s = self.clock.now() - self._began_s
        try:
            kinds = self._poll({"end", "keep", "discard"})
        except Exception as error:  # the robot must come to rest first
            self.lead.fault = self.lead.fault or error
            kinds = list[str]()
        self._decision = next((kind for kind in kinds if kind != "end"), self._decision)
        if self.lead.fault is not None:
            return "the input failed"
        if self.recorder.is_lost or self.recorder.fault:
            return "the recording failed"
        if kinds or self._is_over:
            return "ended"
        return "over" if self._episode_s >= self.seconds else ""

    @property
    def _simulation(self) -> SimulatedRobot | None:
        return self.robot if isinstance(self.robot, SimulatedRobot) else None

    def most_steps(self) -> float:
        """Number of steps that the episode can have: none after the end of a simulated one."""
        simulation, first = self._simulation, self.recorder.first_s
        if simulation is None or first is None or not simulation.episode.is_over:
            return math.inf
        late = round((first - simulation.began) / simulation.specification.control_dt)
        return simulation.episode.num_steps - late

    def _is_simulated_end(self) -> bool:
        return self._simulation is not None and self._simulation.episode.is_over

    def _report_lost_episode(self) -> None:
        """Say which episode the last recording into this store has lost, if it was killed in the middle of one."""
        path = self.store.path / UNDER_WAY
        if not path.exists():
            return
        with suppress(ValueError, KeyError, TypeError):  # it was killed while it wrote this file
            episode = int(json.loads(path.read_text())["episode"])
            if episode >= len(self.store):
                print(
                    f"{self.store.path}: the last recording was killed in the middle of episode {episode}, which is "
                    f"lost; the {len(self.store)} episodes before it are whole"
                )
        path.unlink()


class _EpisodeLog:
    """The `Log` of one episode: its steps for the recorder, and the times of its readings."""

    def __init__(self, session: RecordingSession, measures: Measures, hands: Series) -> None:
        self._session, self._measures, self._hands = session, measures, hands

    def tick(self, tick: Tick, alignment: Alignment) -> None:
        """Record a tick."""
        session = self._session
        self._measures.note(alignment.times, session.clock.now())
        if (moment := session.lead.newest_s) is not None:
            self._hands.note(moment, tick.time, moment)
        goal = session.lead.goal if session.action == INPUT else None
        session.recorder.tick(
            tick,
            alignment,
            action=tick.command if goal is None else goal,
            position=session.lead.position,
            most=session.most_steps(),
        )
