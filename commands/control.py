"""`recede control`: a policy, a robot and a clock that does not wait."""

from __future__ import annotations

import math
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.deployment import ControlConfig
from ..configs.schema import EvaluateConfig, command_line, describe, load_task

if TYPE_CHECKING:
    from ..control.loop import Summary
    from ..control.planner import Predict


def run(config: ControlConfig) -> None:
    """Control the robot for every episode, print what happened, and write it to `out`."""
    from ..control.clock import MonotonicClock
    from ..control.loop import Controller
    from ..control.planner import PolicyProcess
    from ..control.simulated import SimulatedRobot
    from ..evaluation.evaluate import wilson
    from ..policy import checkpoint

    manifest = checkpoint.read_manifest(checkpoint.find(Path(config.run), config.checkpoint))
    specification, horizons = manifest["specification"], manifest["horizons"]
    task = load_task(config.task or manifest["task"])
    if differences := task.specification.differences(specification):
        raise ValueError(f"the robot must be the one that the policy was trained for, but {'; '.join(differences)}")
    ((name, execution),) = config.execution.items()
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
    interrupted = Event()
    before = {number: signal.signal(number, _setting(interrupted)) for number in (signal.SIGINT, signal.SIGTERM)}
    planner = PolicyProcess(specification, horizons, _load, _policy(config))
    episodes: list[dict[str, Any]] = []
    try:
        with closing(planner), closing(robot):
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
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    over = [episode for episode in episodes if episode["reason"] == "over"]
    successes = sum(episode["success"] for episode in over)
    ticks, late = (sum(episode[key] for episode in episodes) for key in ("commands", "late"))
    print(f"{task.name}, {name}: {late} of {ticks} commands more than half a period late")
    if over:
        low, high = wilson(successes, len(over))
        print(f"success {successes} of {len(over)} episodes [{100 * low:.0f}, {100 * high:.0f}] %")
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        content = {"task": task.name, "execution": describe(execution), "prediction_s": prediction_s}
        content |= {"command": command_line("control", config), "episodes": episodes}
        checkpoint.write_json(out / "control.json", content)
        print(f"written: {out / 'control.json'}")


def _setting(flag: Event) -> Any:
    def handler(number: int, frame: FrameType | None) -> None:
        flag.set()

    return handler


def _told(episode: Any, summary: Summary) -> dict[str, Any]:
    """What happened in an episode, as JSON."""
    taken = list(summary.chunk_s) or [math.nan]
    return {
        "seed": episode.seed,
        "success": episode.success,
        "score": round(episode.score, 3),
        "steps": episode.num_steps,
        "reason": summary.reason,
        "commands": summary.num_ticks,
        "late": summary.num_late,
        "skipped": summary.num_skipped,
        "chunks": summary.num_chunks,
        "chunk_ms": round(1e3 * float(np.median(taken)), 1) if summary.chunk_s else None,
        "events": dict(summary.events),
    }


def _policy(config: ControlConfig) -> EvaluateConfig:
    """What names the policy."""
    return EvaluateConfig(
        run=config.run, checkpoint=config.checkpoint, sampler=config.sampler, engine=config.engine, seed=config.seed
    )


def _load(config: EvaluateConfig) -> Predict:
    """What predicts, in the process of the policy."""
    import torch

    from ..configs.engines import make_engine
    from ..configs.policies import load_policy

    torch.set_num_threads(1)
    policy, _ = load_policy(config.run, which=config.checkpoint, sampler=config.sampler)
    engine, _ = make_engine(policy, config.engine or "eager")
    draws, *shape = engine.noise_shape
    noise = np.random.default_rng(config.seed)

    def predict(request: Any) -> Any:
        prefix = request.prefix
        if prefix is not None:
            prefix = replace(prefix, actions=prefix.actions[None], weights=prefix.weights[None])
        history = {name: values[None] for name, values in request.history.items()}
        return engine.predict(history, noise.standard_normal((draws, 1, *shape), dtype=np.float32), prefix)[0]

    return predict
