"""`recede control`: a policy, a robot and a clock that does not wait."""

from __future__ import annotations

import math
import signal
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.deployment import ControlConfig
from ..configs.schema import TASKS, command_line, describe, load_task
from ..specification import Horizons, Specification

if TYPE_CHECKING:
    from ..control.loop import Summary
    from ..control.planner import PolicyProcess, Predict
    from ..envs.task import Task


def run(config: ControlConfig) -> None:
    """Control the robot for every episode, print what happened, and write it to `out`."""
    from ..policy.checkpoint import write_json

    described = _described(config)
    task = load_task(config.task or described["task"])
    if differences := task.specification.differences(described["specification"]):
        raise ValueError(f"the robot must be the one that the policy was trained for, but {'; '.join(differences)}")
    told = control(config, task, described["horizons"])
    ((name, execution),) = config.execution.items()
    print(f"{task.name}, {name}: {summarised(told['episodes'])}")
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        content = {"task": task.name, "execution": describe(execution), "command": command_line("control", config)}
        write_json(out / "control.json", content | told)
        print(f"written: {out / 'control.json'}")


def control(config: ControlConfig, task: Task, horizons: Horizons) -> dict[str, Any]:
    """Run every episode: the seconds of one prediction, and what happened in each episode, which is printed too."""
    from ..control.clock import MonotonicClock
    from ..control.loop import Controller
    from ..control.simulated import SimulatedRobot

    (execution,), specification = config.execution.values(), task.specification
    safety = config.safety.build(specification, config.rate)
    robot = SimulatedRobot(
        task,
        first_seed=config.first_seed,
        rate=config.rate,
        sensor_delay=config.sensor_delay_ms / 1e3,
        actuation_delay=config.actuation_delay_ms / 1e3,
        jitter=config.jitter_ms / 1e3,
        dropped=config.dropped,
        seed=config.seed,
    )
    planner = _planner(config, specification, horizons)
    episodes: list[dict[str, Any]] = []
    with closing(planner), closing(robot), interruption() as interrupted:
        prediction_s = planner.wait()
        delay = math.ceil(prediction_s / specification.control_dt)
        print(f"a prediction takes {1e3 * prediction_s:.1f} ms, {delay} control steps")
        for seed in range(config.first_seed, config.first_seed + config.episodes):
            robot.reset(seed)
            chosen = execution.build(horizons, delay=delay)
            controller = Controller(robot, planner, chosen, safety, MonotonicClock())
            summary = controller.run(lambda: robot.episode.is_over or interrupted.is_set())
            episodes.append(_told(robot.episode, summary))
            print(", ".join(f"{key} {value}" for key, value in episodes[-1].items()))
            if interrupted.is_set():
                break
    return {"prediction_s": prediction_s, "episodes": episodes}


def summarised(episodes: list[dict[str, Any]]) -> str:
    """Lateness, and success in the episodes that nobody interrupted; one that was stopped for safety has failed."""
    from ..evaluation.evaluate import wilson

    commands, late = (sum(episode[key] for episode in episodes) for key in ("commands", "late"))
    said = f"{late} of {commands} commands more than half a period late"
    over = [episode["success"] for episode in episodes if episode["reason"] != "interrupted"]
    if over:
        low, high = wilson(sum(over), len(over))
        said += f"; success in {sum(over)} of {len(over)} episodes [{100 * low:.0f}, {100 * high:.0f}] %"
    return said


@contextmanager
def interruption() -> Generator[Event]:
    """An event that is set by the signals that would end the process."""
    event = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(episode: Any, summary: Summary) -> dict[str, Any]:
    """What happened in an episode, as JSON."""
    is_cut = summary.reason == "over" and not episode.is_over
    return {
        "seed": episode.seed,
        "success": episode.success,
        "score": round(episode.score, 3),
        "steps": episode.num_steps,
        "reason": "interrupted" if is_cut else summary.reason,
        "commands": summary.num_ticks,
        "late": summary.num_late,
        "skipped": summary.num_skipped,
        "chunks": summary.num_chunks,
        "chunk_ms": round(1e3 * float(np.median(summary.chunk_s)), 1) if summary.chunk_s else None,
        "events": dict(summary.events),
    }


def _described(config: ControlConfig) -> dict[str, Any]:
    """What the policy was trained for, as its folder or its server says."""
    from ..configs.engines import read_description
    from ..control.remote import RemotePolicy

    if not config.is_remote:
        return read_description(Path(config.run), config.checkpoint)
    with closing(RemotePolicy(config.run)) as served:
        if config.task is None and served.task not in TASKS:  # no server decides what is imported
            raise ValueError(f"{config.run} serves a policy for a task that is not of recede: say with task= for which")
        return {"task": served.task, "specification": served.specification, "horizons": served.horizons}


def _planner(config: ControlConfig, specification: Specification, horizons: Horizons) -> PolicyProcess:
    """The process that predicts, or that asks the server to."""
    from ..control.planner import PolicyProcess
    from ..control.remote import connect

    if config.is_remote:
        return PolicyProcess(specification, horizons, connect, config.run, specification, horizons)
    return PolicyProcess(specification, horizons, _load, config)


def _load(config: ControlConfig) -> Predict:
    """What predicts, in the process of the policy, which has one thread."""
    from ..configs.engines import open_engine

    engine = open_engine(Path(config.run), config.engine, which=config.checkpoint, sampler=config.sampler)
    draws, *shape = engine.noise_shape
    noise = np.random.default_rng(config.seed)

    def predict(request: Any) -> Any:
        prefix = request.prefix
        if prefix is not None:
            prefix = replace(prefix, actions=prefix.actions[None], weights=prefix.weights[None])
        history = {name: values[None] for name, values in request.history.items()}
        return engine.predict(history, noise.standard_normal((draws, 1, *shape), dtype=np.float32), prefix)[0]

    return predict
