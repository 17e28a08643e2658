"""Control steps per second of one environment and of many worlds, in four ways, beside the limit of raw physics.

    python benchmarks/simulation.py [json=FILE]
    python benchmarks/simulation.py device=cuda [json=FILE]

The ways take turns with the same actions, so a busy machine slows all alike, and the worlds of all are in the same
states. The limit is `mujoco.batch` alone: controls are written, and nothing is read. Each way is also made and reset in
a process of its own, which says how long it takes and how much memory it needs. AsyncVectorEnv has a process for each
world, so it is measured with at most `PROCESSES`.

With device=, it measures closed-loop episodes per second in MuJoCo Warp instead, whose physics, observations and policy
(the default one, before its training) stay on that device. They run to their last step; kernels are compiled before.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from recede.benchmarks.evaluation import default_policy
from recede.benchmarks.measure import Row, interleaved_medians, output, report
from recede.envs.catalogue import load_task
from recede.envs.tasks.pick_place import PickPlace
from recede.evaluation.on_device import OnDevice
from recede.execution.receding import RecedingHorizon
from recede.policy.device import device
from recede.policy.engines.eager import EagerEngine

TASK = "pick_place"
WORLDS = (1, 16, 64, 256, 1024)
PROCESSES = 64
ON_DEVICE = {"cuda": (64, 256, 1024, 4096), "cpu": (16,)}
"""Device -> the numbers of episodes that run at once on it."""
SECONDS = 10.0
"""Seconds in which the ways take turns, for each number of worlds, and then ours and the limit alone."""
SHARE = "worlds / mujoco.batch"
"""The row of how much of the limit is reached, in the steps that only these two take in turn."""


def sync(count: int) -> Any:
    """One environment after the other."""
    return SyncVectorEnv([load_task(TASK).make] * count, autoreset_mode=AutoresetMode.DISABLED)


def asynchronous(count: int) -> Any:
    """A process for each environment, with shared memory."""
    make = load_task(TASK).make
    return AsyncVectorEnv([make] * count, context="forkserver", autoreset_mode=AutoresetMode.DISABLED)


def worlds(count: int) -> Any:
    """Ours."""
    make_batch = load_task(TASK).make_batch
    assert make_batch is not None
    return make_batch(count)


WAYS: dict[str, Callable[[int], Any]] = {"SyncVectorEnv": sync, "AsyncVectorEnv": asynchronous, "worlds": worlds}


def ways(count: int) -> dict[str, Callable[[int], Any]]:
    """Those that are measured with so many worlds."""
    return {name: make for name, make in WAYS.items() if make is not asynchronous or count <= PROCESSES}


def stepper(reset: Callable[[], object], step: Callable[[Any], object], count: int) -> Callable[[], object]:
    """Takes the next step with random actions (count, 5), the same for every way; every eighth goes somewhere else.

    It resets before an episode would be truncated; with random actions none succeeds.
    """
    random, stream = np.random.default_rng(0), load_task(TASK).specification.action
    actions, number = np.empty((count, 5), np.float32), 0

    def work() -> None:
        nonlocal number, actions
        if number % (load_task(TASK).max_steps - 1) == 0:
            reset()
        if number % 8 == 0:
            actions = random.uniform(stream.low, stream.high, (count, 5)).astype(np.float32)
        number += 1
        step(actions)

    return work


def alone() -> Callable[[], object]:
    """The steps of an environment alone."""
    env = load_task(TASK).make()
    return stepper(lambda: env.reset(seed=0), lambda actions: env.step(actions[0]), 1)


def raw(count: int) -> Callable[[], object]:
    """The steps of `mujoco.batch` alone, from the states of the same seeds."""
    env = PickPlace()
    batch = env.simulations(count)
    starts, controls = batch.state.copy(), batch.bind("ctrl")
    for index in range(count):
        env.reset(seed=index)
        env.start(starts[index])

    def reset() -> None:
        batch.state[:] = starts

    def step(actions: Any) -> None:
        controls[:] = actions
        batch.step(nstep=env.substeps)

    return stepper(reset, step, count)


def rates(count: int) -> dict[str, float]:
    """Control steps per second of each way with so many worlds, and the share of the limit in per cent."""
    envs = {name: make(count) for name, make in ways(count).items()}
    try:
        works = {name: stepper(partial(env.reset, seed=0), env.step, count) for name, env in envs.items()}
        works["mujoco.batch"] = raw(count)
        if count == 1:
            works["environment"] = alone()
        medians = interleaved_medians(list(works.values()), seconds=SECONDS)
        measured = {name: count / taken for name, taken in zip(works, medians, strict=True)}
        limit, ours = interleaved_medians([works["mujoco.batch"], works["worlds"]], seconds=SECONDS)
        return measured | {SHARE: 100 * limit / ours}
    finally:
        for env in envs.values():
            env.close()


def memory() -> float:
    """Megabytes of this process and of its children, in which shared pages count once. 0 where nobody says."""
    files = [Path(f"/proc/{pid}/smaps_rollup") for pid in (os.getpid(), *_descendants(os.getpid()))]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def _descendants(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in file.read_text().split()] if file.exists() else []
    return [*children, *(deeper for child in children for deeper in _descendants(child))]


def construction(name: str, count: int) -> tuple[float, float]:
    """Seconds to make and reset the worlds, and the megabytes that they need."""
    load_task(TASK).make().close()
    before, began = memory(), time.perf_counter()
    env = WAYS[name](count)
    env.reset(seed=0)
    results = time.perf_counter() - began, memory() - before
    env.close()
    return results


def in_new_process(work: Callable[[], Any]) -> Any:
    """The result of `work` in a process without memory of other works."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def on_device(name: str) -> list[Row]:
    """Closed-loop episodes per second on a device, from the second batch of each number of worlds."""
    task, place, rows = load_task(TASK), device(name), list[Row]()
    policy = default_policy(task).to(place)
    for count in ON_DEVICE[place.type]:
        roll = OnDevice(EagerEngine(policy), task, execution=partial(RecedingHorizon, policy.horizons))
        outcomes = roll(range(2 * count), count)
        for _ in range(count):
            next(outcomes)
        began = time.perf_counter()
        assert all(outcome.fault is None for outcome in outcomes)
        seconds = time.perf_counter() - began
        rows.append({"name": f"{count}, warp on {name}, episodes", "value": count / seconds, "unit": "1/s"})
    return rows


def main() -> None:
    """Measure every number of worlds and print the table."""
    places = [argument.removeprefix("device=") for argument in sys.argv[1:] if argument.startswith("device=")]
    path, rows = output([argument for argument in sys.argv[1:] if not argument.startswith("device=")]), list[Row]()
    if places:
        report(on_device(places[0]), path)
        return
    for count in WORLDS:
        measured = rates(count)
        for name, rate in measured.items():
            rows.append(
                {"name": f"{count}, {name}", "value": rate, "unit": "%" if name == SHARE else "control steps/s"}
            )
        for name in ways(count):
            seconds, megabytes = in_new_process(partial(construction, name, count))
            rows.append({"name": f"{count}, {name}, to make and reset", "value": seconds, "unit": "s"})
            rows.append({"name": f"{count}, {name}, memory", "value": megabytes, "unit": "MB"})
    report(rows, path)


if __name__ == "__main__":
    main()
