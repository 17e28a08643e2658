"""Closed-loop episodes of an evaluation, in the worlds of the task and in an environment for each, in turn.

    python benchmarks/evaluation.py [json=FILE]

The policy is the default U-Net with DDIM of 10 steps, without training, so its episodes run to their last step. Each
way is divided into physics, prediction and the rest: readings, executions, histories and checks. Both have the same
outcomes.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from recede.benchmarks.measure import Row, output, report
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.envs.catalogue import load_task
from recede.envs.physics import mujoco
from recede.envs.task import Task
from recede.evaluation.rollout import rollout
from recede.execution.receding import RecedingHorizon
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons

TASK = "pick_place"
EPISODES, TURNS = 500, 5
"""All episodes of each way, and the turns that they take."""
CHANNELS = (64, 128, 256)


@contextmanager
def timed(owner: Any, name: str, times: dict[str, float], part: str) -> Generator[None]:
    """Add the seconds of a method to those of a part, as long as the context lasts."""
    original = getattr(owner, name)

    def method(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            times[part] += time.perf_counter() - began

    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, original)


def default_policy(task: Task) -> Any:
    """The default policy of a task before its training."""
    torch.manual_seed(0)
    ranges = {stream.name: (np.array(stream.low), np.array(stream.high)) for stream in task.specification.streams}
    config = DiffusionConfig(network=UNet1dConfig(channels=list(CHANNELS)))
    return config.build(task.specification, Horizons(), Normalizer(task.specification, ranges)).eval()


def measure(run: Callable[[], Any], policy: Any, times: dict[str, float]) -> Any:
    """Run episodes, and add to the seconds of each part and of all."""
    began = time.perf_counter()
    with (
        timed(import_module("mujoco.batch").Batch, "step", times, "physics"),
        timed(mujoco, "mj_step", times, "physics"),
        timed(policy, "predict", times, "prediction"),
    ):
        outcomes = run()
    times["all"] += time.perf_counter() - began
    return outcomes


def main() -> None:
    """Let both ways take turns, and print the table."""
    path, task = output(sys.argv[1:]), load_task(TASK)
    policy = default_policy(task)
    ways = {"environments": replace(task, make_batch=None), "worlds": task}
    times: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in ways}
    execution = partial(RecedingHorizon, policy.horizons)
    size = EPISODES // TURNS
    for first in range(0, size * TURNS, size):
        seeds, outcomes = range(first, first + size), list[Any]()
        for name, way in ways.items():
            run = partial(rollout, policy, way, seeds, execution=execution, progress=False)
            outcomes.append(measure(run, policy, times[name]))
        assert outcomes[0] == outcomes[1], "both ways have the same outcomes"
    rows = list[Row]()
    for name, parts in times.items():
        parts["the rest"] = parts["all"] - parts["physics"] - parts["prediction"]
        for part in ("physics", "prediction", "the rest"):
            rows.append({"name": f"{name}, {part}", "value": parts[part], "unit": "s"})
        rows.append({"name": f"{name}, episodes", "value": size * TURNS / parts["all"], "unit": "1/s"})
    ours, before = times["worlds"], times["environments"]
    rest = {name: parts["all"] - parts["prediction"] for name, parts in times.items()}
    rows.append({"name": "environments / worlds, all", "value": before["all"] / ours["all"], "unit": "x"})
    without = rest["environments"] / rest["worlds"]
    rows.append({"name": "environments / worlds, without prediction", "value": without, "unit": "x"})
    least = ours["physics"] + ours["prediction"]
    rows.append({"name": "worlds / physics and prediction", "value": ours["all"] / least, "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
