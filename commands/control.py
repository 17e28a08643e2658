"""`recede control`: a policy, a robot and a clock that does not wait."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.deployment import ControlConfig
from ..configs.notation import command_line, describe
from ..policy.inputs import absent_streams, absent_values
from ..policy.requests import Request, batch
from ..specification import WORDS, Horizons, Specification
from .hands import build_hands, facts_of

if TYPE_CHECKING:
    from ..control.planned import Doubt
    from ..control.planner import PolicyProcess, Predict
    from ..control.session import Session
    from ..policy.engines.interface import Engine
    from ..policy.monitor import Alarm
    from ..robots.interface import Robot


def run(config: ControlConfig) -> None:
    """Control the robot in every episode; print a summary, and write it, the log and the report to `out`.

    Raises ValueError, after everything is written, if an episode was stopped for safety.
    """
    from ..control.loop import STOPPED
    from ..files import LOCK, exclusive
    from ..robots.simulated import SimulatedRobot
    from ..robots.simulation import check_controllable

    description = _policy_description(config)
    robot = config.robot.build(description, rate=config.rate)
    if isinstance(robot, SimulatedRobot):
        check_controllable(robot.task)
    _check_fits(robot.specification, description["specification"], config)
    out = Path(config.out or time.strftime("runs/control/%Y%m%d-%H%M%S"))
    if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
        raise FileExistsError(f"{out} must be a new or an empty folder: choose another one with out=")
    session = _session(config, robot, description, out)
    with exclusive(out, "being written"):
        try:
            session.run()
        finally:  # the episodes so far are reported, even if the robot was lost in the middle
            if session.records:
                _report(config, description["task"], session)
        if num := sum(record["reason"] == STOPPED for record in session.records):
            stopped = [record for record in session.records if record["reason"] == STOPPED]
            refused = next((record["refused"] for record in reversed(stopped) if "refused" in record), "")
            raise ValueError(
                f"{num} of {len(session.records)} episodes were stopped for safety: {out / 'report.html'} shows which "
                "limit or which silence stopped the robot"
                + (f"; the last reading that was not acted on was of {refused}" if refused else "")
            )


def _check_fits(robot: Specification, policy: Specification, config: ControlConfig) -> None:
    """Raise ValueError, naming every difference, if the policy was trained for another robot.

    The robot may have more streams than the policy observes, and may lack those that may be absent.
    """
    stated = {*config.context, *([] if config.words is None else [WORDS])}
    stated |= absent_values(policy, {stream.name for stream in robot.observations} | stated).keys()
    observed = {stream.name for stream in policy.observations} - stated
    others = {stream.name for stream in robot.observations} - observed
    offered = robot.without(others) if len(others) < len(robot.observations) else robot
    if differences := offered.differences(policy.without(stated)):
        missing = {stream.name for stream in policy.context} - {stream.name for stream in robot.observations} - stated
        remedy = ": say what an episode asks for with " + ", ".join(
            "words=" if name == WORDS else f"context.{name}=" for name in sorted(missing)
        )
        raise ValueError(
            f"the robot must be the one that the policy was trained for, but {'; '.join(differences)}"
            + (remedy if missing else "")
        )


def _session(config: ControlConfig, robot: Robot, description: dict[str, Any], out: Path) -> Session:
    """Build the session. Raises ValueError for impossible options, before anything is started."""
    from ..control.planner import rehearsed
    from ..control.session import Session
    from ..datasets.facts import EpisodeFacts, versions_here

    horizons: Horizons = description["horizons"]
    hands = None if config.takeover is None else build_hands(config.takeover, robot)
    driver: dict[str, Any] = {"operator": "policy"} if config.takeover is None else facts_of(config.takeover)
    (execution,) = config.execution.values()
    rehearsal = rehearsed(execution.build(horizons), robot.specification)
    return Session(
        robot=robot,
        start_policy=lambda: _start_policy(config, robot.specification, description, rehearsal),
        make_execution=lambda delay: execution.build(horizons, delay=delay),
        safety=config.safety.build(robot.specification, robot.rate),
        out=out,
        episodes=config.episodes,
        first_seed=config.first_seed,
        seconds=config.seconds or math.inf,
        on_lost=config.on_lost,
        still_s=config.end_when_still or math.inf,
        hands=hands,
        facts=EpisodeFacts(task=description["task"] or "", versions=versions_here(), **driver),
    )


def _report(config: ControlConfig, task: str | None, session: Session) -> None:
    """Write the records and the page of a session to its folder, and print a line about both."""
    from ..control.log import TICKS
    from ..datasets.store import DemonstrationStore
    from ..evaluation.reports.control import summary_line, write_timeline
    from ..files import write_json_with_digest

    ((name, execution),) = config.execution.items()
    content = {
        "task": task,
        "policy": config.run,
        "robot": describe(config.robot),
        "execution": describe(execution),
        "command": command_line("control", config),
        "episodes": session.records,
    }
    page = session.out / "report.html"
    write_json_with_digest(session.out / "control.json", content)
    write_timeline(page, content, DemonstrationStore.open(session.out / TICKS))
    print(f"{task or config.run}, {name}: {summary_line(session.records)}")
    print(f"report: {page}")


def _policy_description(config: ControlConfig) -> dict[str, Any]:
    """The task, specification and horizons of the policy, from its folder or its server."""
    from ..checkpoints.opening import read_description
    from ..serving.client import RemotePolicy

    if not config.is_remote:
        return read_description(Path(config.run), config.checkpoint)
    with closing(RemotePolicy(config.run)) as policy:
        return {"task": policy.task, "specification": policy.specification, "horizons": policy.horizons}


def _start_policy(
    config: ControlConfig, robot: Specification, description: dict[str, Any], rehearsal: list[Request]
) -> PolicyProcess:
    """Start the process that predicts from what the robot observes, or that asks the server to."""
    from ..control.planner import PolicyProcess
    from ..serving.client import connect

    start = partial(PolicyProcess, robot, description["horizons"], rehearsal=rehearsal)
    if config.is_remote:
        return start(connect, config.run, description["specification"], description["horizons"])
    needs_gradient = any(guide.needs_gradient for request in rehearsal for guide in request.guidance)
    return start(_load, config, needs_gradient, frozenset(stream.name for stream in robot.observations))


class _Predicting:
    """Predicts with an engine, and judges its chunks if there is an alarm."""

    def __init__(self, engine: Engine, *, seed: int, alarm: Alarm | None) -> None:
        self._engine, self._alarm, self._rng = engine, alarm, np.random.default_rng(seed)

    def __call__(self, request: Request) -> Any:
        history, guidance = batch([self._observed(request)])
        noise = self._rng.standard_normal(self._engine.noise_shape, dtype=np.float32)[:, None]
        return self._engine.predict(history, noise, guidance)[0]

    def doubt(self, request: Request, chunk: Any) -> Doubt:
        from ..control.planned import SURE, Doubt

        return SURE if self._alarm is None else Doubt(*self._alarm(self._observed(request), chunk))

    def _observed(self, request: Request) -> Request:
        """The request without what the policy does not observe."""
        names = [stream.name for stream in self._engine.specification.observations]
        return replace(request, history={name: request.history[name] for name in names})


def _load(config: ControlConfig, needs_gradient: bool, offered: frozenset[str]) -> Predict:
    """Load the engine, in the process of the policy, which has one thread.

    needs_gradient: whether guidance needs one, which only eager has. offered: the names of what the robot observes.
    """
    from ..checkpoints.opening import open_chosen
    from ..configs.packages import import_packages
    from ..policy.engines.wrapping import without_absent

    import_packages(config.imports)  # this process has its own tables of choices
    opened = open_chosen(config, is_for_robots=not needs_gradient).engine
    if absent := absent_streams(opened.specification, offered):
        print(f"absent, which the policy knows: {', '.join(stream.name for stream in absent)}", flush=True)
    engine = without_absent(opened, offered)
    return _Predicting(engine, seed=config.seed, alarm=None if config.on_lost is None else _alarm(config, engine))


def _alarm(config: ControlConfig, engine: Engine) -> Alarm:
    """The alarm that `config` names. Prints when it is raised.

    Raises FileNotFoundError if there are no monitors, and ValueError if they are of another policy or too few episodes.
    """
    from ..checkpoints.opening import load_policy
    from ..policy.engines.pieces import check_diffusion
    from ..policy.monitor import Alarm, Calibration, Monitor

    policy = check_diffusion(load_policy(config.run, which=config.checkpoint)[0])
    calibration = Calibration.load(Path(config.monitors or Path(config.run) / "monitors"), policy)
    monitor = Monitor(policy, engine, features=calibration.features, names=[config.monitor])
    alarm = Alarm(monitor, calibration.largest[config.monitor], false_alarms=config.false_alarms)
    how = ", ".join(f"{name} {value}" for name, value in calibration.notes.items())
    print(f"lost: {config.monitor} above {alarm.above:.4g}, calibrated by {how}", flush=True)
    return alarm
