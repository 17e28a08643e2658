"""`recede control`: a policy, a robot and a clock that does not wait."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.deployment import ControlConfig
from ..configs.notation import command_line, describe
from ..policy.requests import Request, batch
from ..specification import Horizons, Specification

if TYPE_CHECKING:
    from ..control.loop import Summary
    from ..control.operator import Operator
    from ..control.planner import PolicyProcess, Predict
    from ..realtime import Clock
    from ..robots.interface import Robot


def run(config: ControlConfig) -> None:
    """Control the robot in every episode; print what happened, and write it, the log and the report to `out`."""
    from ..control.log import TICKS
    from ..datasets.store import DemonstrationStore
    from ..evaluation.reports.control import summary_line, write_timeline
    from ..files import write_json

    described = _described(config)
    robot = config.robot.build(described, rate=config.rate)
    if differences := robot.specification.differences(described["specification"]):
        raise ValueError(f"the robot must be the one that the policy was trained for, but {'; '.join(differences)}")
    ((name, execution),) = config.execution.items()
    out = Path(config.out or time.strftime("runs/control/%Y%m%d-%H%M%S"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} must be a new or an empty folder: choose another one with out=")
    told: dict[str, Any] = {
        "task": described["task"],
        "policy": config.run,
        "robot": describe(config.robot),
        "execution": describe(execution),
        "command": command_line("control", config),
        "episodes": [],
    }
    try:
        control(config, robot, described["horizons"], out, told["episodes"])
    finally:  # what has happened is told, also where the robot was lost in the middle
        if told["episodes"]:
            write_json(out / "control.json", told)
            write_timeline(out / "report.html", told, DemonstrationStore.open(out / TICKS))
            print(f"{described['task'] or config.run}, {name}: {summary_line(told['episodes'])}")
            print(f"report: {out / 'report.html'}")


def control(config: ControlConfig, robot: Robot, horizons: Horizons, out: Path, told: list[dict[str, Any]]) -> None:
    """Run one episode after the other; what happened in each is printed, and added to what was `told`."""
    from ..control.log import RunLog
    from ..control.loop import Controller
    from ..control.operator import Operator
    from ..realtime import MonotonicClock
    from ..robots.simulated import SimulatedRobot

    (execution,), clock = config.execution.values(), MonotonicClock()
    safety = config.safety.build(robot.specification, robot.rate)
    execution.build(horizons)  # refuses before anything is started
    is_simulated = isinstance(robot, SimulatedRobot)
    with ExitStack() as held:
        held.enter_context(closing(robot))
        if not is_simulated:  # whether it can be reached shows before anything takes long
            robot.start()
            robot.stop()
        policy = held.enter_context(closing(_Policy(config, robot.specification, horizons)))
        policy.ready()
        log = RunLog(out, robot.specification, rate=robot.rate, actuation_delay=robot.actuation_delay)
        held.enter_context(closing(log))
        operator = held.enter_context(Operator())
        for seed in range(config.first_seed, config.first_seed + config.episodes):
            chosen = execution.build(horizons, delay=policy.ready())
            if not operator.begin(is_asked=not is_simulated):  # somebody has to prepare the scene
                break
            if isinstance(robot, SimulatedRobot):
                robot.reset(seed)
            log.begin(seed if is_simulated else -1)
            controller = Controller(robot, policy.planner, chosen, safety, clock, log=log)
            until = clock.now() + (config.seconds or math.inf)
            failures: list[Exception] = []
            try:
                controller.run(partial(_is_over, robot), brakes=partial(_brakes, operator, clock, until))
            except Exception as error:  # what has happened until then is told
                controller.summary.reason = "lost" if isinstance(error, ConnectionError) else "failed"
                failures.append(error)
            told.append(_told(seed, robot, controller.summary))
            try:
                told[-1] |= {"demonstrations": log.end(), "unlogged": log.num_dropped}
            except OSError as error:
                failures.append(error)
            print(", ".join(f"{key} {value}" for key, value in told[-1].items()))
            if failures:
                raise failures[0] if len(failures) == 1 else ExceptionGroup("the run and its log failed", failures)


class _Policy:
    """The policy in its process; one that is lost or stuck after an episode is replaced before the next."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self._start()

    def _start(self) -> None:
        self.planner = _planner(*self._parts)
        self._delay: int | None = None

    def ready(self) -> int:
        """Wait until the policy is there; the control steps that one prediction takes."""
        if not self.planner.is_idle():
            self.close()
            self._start()
        if self._delay is None:
            prediction_s = self.planner.wait()
            self._delay = math.ceil(prediction_s / self._parts[1].control_dt)
            print(f"a prediction takes {1e3 * prediction_s:.1f} ms, {self._delay} control steps")
        return self._delay

    def close(self) -> None:
        """End the process."""
        self.planner.close()


def _is_over(robot: Robot) -> bool:
    from ..robots.simulated import SimulatedRobot

    return isinstance(robot, SimulatedRobot) and robot.episode.is_over


def _brakes(operator: Operator, clock: Clock, until: float) -> str:
    """Why an episode is to end now: by the operator, or because its time is over; nothing while it is to go on."""
    if operator.interrupts():
        return "interrupted"
    return "over" if clock.now() >= until else ""


def _told(seed: int, robot: Robot, summary: Summary) -> dict[str, Any]:
    """What happened in an episode, as JSON.

    One that was not let to its end has neither succeeded nor failed, nor has one that no simulation judges.
    """
    from ..robots.simulated import SimulatedRobot

    told: dict[str, Any] = {"seed": seed, "success": None, "score": None, "steps": summary.num_steps}
    if isinstance(robot, SimulatedRobot):
        episode = robot.episode
        is_judged = episode.is_over or summary.reason == "stopped for safety"
        success = episode.success if is_judged and summary.reason in ("over", "stopped for safety") else None
        told |= {"success": success, "score": round(episode.score, 3), "steps": episode.num_steps}
    return told | {
        "reason": summary.reason,
        "commands": summary.num_ticks,
        "late": summary.num_late,
        "skipped": summary.num_skipped,
        "chunks": summary.num_chunks,
        "chunk_ms": round(1e3 * float(np.median(summary.chunk_s)), 1) if summary.chunk_s else None,
        "events": dict(summary.events),
    }


def _described(config: ControlConfig) -> dict[str, Any]:
    """What the policy was trained for, as its folder or its server says."""
    from ..checkpoints.opening import read_description
    from ..serving.client import RemotePolicy

    if not config.is_remote:
        return read_description(Path(config.run), config.checkpoint)
    with closing(RemotePolicy(config.run)) as served:
        return {"task": served.task, "specification": served.specification, "horizons": served.horizons}


def _planner(config: ControlConfig, specification: Specification, horizons: Horizons) -> PolicyProcess:
    """The process that predicts, or that asks the server to."""
    from ..control.planner import PolicyProcess
    from ..serving.client import connect

    if config.is_remote:
        return PolicyProcess(specification, horizons, connect, config.run, specification, horizons)
    return PolicyProcess(specification, horizons, _load, config)


def _load(config: ControlConfig) -> Predict:
    """What predicts, in the process of the policy, which has one thread."""
    from ..checkpoints.opening import open_policy
    from ..configs.packages import import_packages

    import_packages(config.imports)  # this process has tables of its own
    opened = open_policy(config.run, engine=config.engine, which=config.checkpoint, sampler=config.sampler)
    engine = opened.engine
    noise = np.random.default_rng(config.seed)

    def predict(request: Request) -> Any:
        observation, guidance = batch([request])
        drawn = noise.standard_normal(engine.noise_shape, dtype=np.float32)[:, None]
        return engine.predict(observation, drawn, guidance)[0]

    return predict
