"""Episodes on a robot, one after the other, each logged.

A session is handed built parts and knows no configuration: whatever runs episodes on a robot can share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.facts import UNKNOWN, EpisodeFacts
from ..execution.interface import Execution
from ..realtime import Clock, Interrupted, MonotonicClock
from ..robots.interface import Robot, call_robot
from ..robots.simulated import SimulatedRobot
from ..teleoperation.interface import Status
from .led import Led
from .log import RunLog
from .loop import STOPPED, Controller, Summary
from .operator import Operator
from .planned import Planned
from .planner import PolicyProcess
from .safety import Safety
from .takeover import Takeover

ENTER = b"\r\n"

LOST, STILL = "the policy is lost", "the policy stands still"
"""Why the chunks of a policy may end an episode."""


@dataclass(kw_only=True)
class Session:
    """Runs the episodes of one robot; the session closes the robot at its end."""

    robot: Robot
    """The robot, which is not started yet. Only a `SimulatedRobot` is reset to a seed, and judges an episode."""
    start_policy: Callable[[], PolicyProcess]
    """Starts the process that predicts. It is called again if the process is lost or stuck after an episode."""
    make_execution: Callable[[int], Execution]
    """Makes the execution of an episode from the control steps that one prediction takes."""
    safety: Safety
    """The limits that every command passes."""
    out: Path
    """Folder of the log."""
    episodes: int
    """Number of episodes to run."""
    first_seed: int = 0
    """Seed of the first episode; episode i uses first_seed + i."""
    seconds: float = math.inf
    """Longest time that an episode may take."""
    on_lost: str | None = None
    """What the robot does while the policy is lost; see `Planned`. "stop" ends the episode."""
    still_s: float = math.inf
    """How long the chunks must stand still, s, until the task counts as over and the episode ends."""
    hands: Led | None = None
    """The person who may take over from the policy, whose input is not started yet."""
    facts: EpisodeFacts = UNKNOWN
    """What is noted of every episode, beside its outcome and the steps that a person led."""
    clock: Clock = field(default_factory=MonotonicClock)
    """The clock of the loop, of the robot and of the input."""
    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], init=False)
    """What happened in each episode, as JSON: also in one that failed."""

    def run(self) -> None:
        """Run the episodes in turn. Prints a summary of each and appends it to `records`.

        The operator may end an episode or the session. Raises the error of an episode that failed, once it is recorded,
        and Interrupted if a signal ended the session.
        """
        with ExitStack() as stack:
            stack.enter_context(closing(self.robot))
            if self._simulation is None:  # a robot that cannot be reached fails here, before the policy is loaded
                call_robot(self.robot.start)
                call_robot(self.robot.stop)
            policy = stack.enter_context(closing(_Policy(self.start_policy, self.robot.specification.control_dt)))
            policy.ready()
            robot = self.robot
            log = RunLog(
                self.out,
                robot.specification,
                rate=robot.rate,
                actuation_delay=robot.actuation_delay,
                facts=self.facts,
            )
            stack.enter_context(closing(log))
            if self.hands is None:
                operator = stack.enter_context(Operator())
            else:
                stack.enter_context(closing(self.hands.teleoperator))
                hint = "Enter ends an episode and stops the robot, Ctrl-C ends them all"
                operator = stack.enter_context(Operator(hint, ends=ENTER))
                self.hands.teleoperator.start()
            for seed in range(self.first_seed, self.first_seed + self.episodes):
                execution = self.make_execution(policy.ready())
                if not operator.begin(is_asked=self._simulation is None):  # somebody has to prepare the scene
                    break
                planned = Planned(policy.planner, execution, on_lost=self.on_lost)
                lead = planned if self.hands is None else Takeover(planned, self.hands)
                controller = Controller(robot, lead, self.safety, self.clock, log=log)
                self._run_episode(seed, controller, planned, log, operator)
                if self._has_quit:
                    break
            if operator.signal:
                raise Interrupted(operator.signal)

    @property
    def _simulation(self) -> SimulatedRobot | None:
        return self.robot if isinstance(self.robot, SimulatedRobot) else None

    def _run_episode(
        self, seed: int, controller: Controller, planned: Planned, log: RunLog, operator: Operator
    ) -> None:
        """Run one episode, and record it even if it fails."""
        if self._simulation is not None:
            self._simulation.reset(seed)
        log.begin(-1 if self._simulation is None else seed)
        self._began_s, self._outcome, self._has_quit, self._was_led = self.clock.now(), None, False, False
        failures = list[Exception]()
        try:
            controller.run(self._is_over, brakes=lambda: self._brake_reason(planned, operator, log))
            if self.hands is not None and self.hands.fault is not None:
                raise ConnectionError(f"the input failed: {self.hands.fault}") from self.hands.fault
        except Exception as error:
            kind = "lost" if isinstance(error, ConnectionError) else "failed"
            controller.summary.reason = f"{kind}: {' '.join(str(error).split()) or type(error).__name__}"
            failures.append(error)
        record = episode_record(seed, self._simulation, controller.summary)
        self.records.append(record)
        try:
            judged = {True: "success", False: "failure"}.get(record["success"], "unknown")
            record.update(demonstrations=log.end(self._outcome or judged), unlogged=log.num_dropped)
        except OSError as error:
            failures.append(error)
        print(", ".join(f"{key} {value}" for key, value in record.items() if value is not None))
        if failures:
            raise failures[0] if len(failures) == 1 else ExceptionGroup("the run and its log failed", failures)

    def _is_over(self) -> bool:
        return self._simulation is not None and self._simulation.episode.is_over

    def _brake_reason(self, planned: Planned, operator: Operator, log: RunLog) -> str:
        """Why the robot must brake and the episode end now; empty while it goes on."""
        if operator.interrupts():
            return "interrupted"
        if log.failure:
            return "not logged"
        seconds = self.clock.now() - self._began_s
        if self.hands is not None and (reason := self._obey(self.hands, operator, seconds)):
            return reason
        if self.on_lost == "stop" and planned.doubt.is_alarm:
            return LOST
        if planned.still_s(self.clock.now()) >= self.still_s:
            return STILL
        return "over" if seconds >= self.seconds else ""

    def _obey(self, hands: Led, operator: Operator, seconds: float) -> str:
        """Show the hands how the episode goes, and do what they ask; why it must end now, empty while it goes on.

        Prints who leads when that changes.
        """
        if hands.is_led != self._was_led:
            self._was_led = hands.is_led
            print(f"{seconds:.1f} s: {'the hands lead' if hands.is_led else 'the policy leads'}", flush=True)
        status = Status(
            phase="controlled",
            num_episodes=len(self.records),
            seconds=seconds,
            is_led=hands.is_led,
            outcome=self._outcome,
            message=hands.clutch.why,
            task=self.facts.task,
            keys=operator.rest,
        )
        try:
            kinds = [] if hands.fault is not None else [order.kind for order in hands.teleoperator.orders(status)]
        except Exception as error:  # the robot must come to rest first
            hands.fault, kinds = error, []
        if hands.fault is not None:
            return "the input failed"
        self._outcome = next((kind for kind in reversed(kinds) if kind in ("success", "failure")), self._outcome)
        self._has_quit = "quit" in kinds
        return "ended by the hands" if {"end", "quit"} & {*kinds} else ""


class _Policy:
    """The process of the policy. One that is lost or stuck after an episode is replaced before the next."""

    def __init__(self, start: Callable[[], PolicyProcess], control_dt: float) -> None:
        self._start, self._control_dt = start, control_dt
        self.planner, self._delay = start(), None

    def ready(self) -> int:
        """Wait until the policy is ready; return the control steps that one prediction takes."""
        if not self.planner.is_idle():
            self.close()
            self.planner, self._delay = self._start(), None
        if self._delay is None:
            prediction_s = self.planner.wait()
            self._delay = math.ceil(prediction_s / self._control_dt)
            print(f"a prediction takes {1e3 * prediction_s:.1f} ms, {self._delay} control steps")
        return self._delay

    def close(self) -> None:
        """End the process."""
        self.planner.close()


def episode_record(seed: int, simulation: SimulatedRobot | None, summary: Summary) -> dict[str, Any]:
    """What happened in an episode, as JSON.

    Success is null if no simulation judges the episode, or if it was interrupted.
    """
    record: dict[str, Any] = {"seed": seed, "success": None, "score": None, "steps": summary.num_steps}
    if simulation is not None:
        episode = simulation.episode
        is_judged = summary.reason in (STOPPED, LOST, STILL) or (summary.reason == "over" and episode.is_over)
        record["success"] = episode.success if is_judged else None
        record |= {"score": round(episode.score, 3), "steps": episode.num_steps}
    return record | {
        "reason": summary.reason,
        "commands": summary.num_ticks,
        "late": summary.num_late,
        "skipped": summary.num_skipped,
        "led": summary.num_led,
        "chunks": summary.num_chunks,
        "chunk_ms": round(1e3 * float(np.median(summary.chunk_s)), 1) if summary.chunk_s else None,
        "events": dict(summary.events),
        **({"refused": summary.refused} if summary.refused else {}),
    }
