"""What decides the outcome of an episode beside the policy: noted with results, so that only like ones are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..configs.evaluation import EvaluateConfig
from ..datasets.facts import versions_here
from ..envs.faults import RunningEnv
from ..envs.task import Task

MUJOCO = EvaluateConfig.simulation
"""What simulates unless another simulation is named; results that name none are from it."""

PROBE_STEPS = 10
"""Control steps of the probe. They are few, so that processors which round otherwise end in the same place."""

TOLERANCE = 1e-4
"""The largest difference of two probes, in the unit of the stream, or as a share of values above 1."""

AFTER = f"after the same {PROBE_STEPS} actions from seed 0"

NOT_SIMULATED = {"python", "recede", "numpy"}
"""Packages whose versions do not change a simulation; the probe would show it if they did."""


def world(task: Task, *, simulation: str = MUJOCO) -> dict[str, Any]:
    """The content of "world" in `evaluation.json`.

    simulation: what simulates it, as `EvaluateConfig.simulation`.

    probe: stream -> what is observed after a few random actions in the episode of seed 0; the mean of an image. It is
    the content of the task, whatever file that lies in. None if the environment fails on the way.
    """
    probe = _probe(task)  # it also loads the packages whose versions count
    return {
        "max_steps": task.max_steps,
        "control_dt": task.specification.control_dt,
        "action": {name: value for name, value in asdict(task.specification.action).items() if name != "hold"},
        "versions": {name: value for name, value in versions_here().items() if name not in NOT_SIMULATED},
        "probe": probe,
        "simulation": simulation,
        "is_reproducible": simulation == MUJOCO,
    }


def _probe(task: Task) -> dict[str, list[float]] | None:
    action, env = task.specification.action, RunningEnv(task.make, task.specification)
    low, high = (np.array(bound or fallback) for bound, fallback in ((action.low, -1.0), (action.high, 1.0)))
    rng = np.random.default_rng(0)
    try:
        observation, info = env.reset(0)
        for _ in range(PROBE_STEPS):
            chosen = action.cast(rng.uniform(low, high, action.shape))
            observation, terminated, truncated, info = env.step(chosen)
            if terminated or truncated:
                break
    except Exception:  # an evaluation says which episodes break off, and why
        return None
    finally:
        env.close()
    streams = {**info["state"], **observation} if "state" in info else observation
    return {name: _numbers(np.asarray(values)) for name, values in streams.items()}


def _numbers(values: np.ndarray) -> list[float]:
    values = values.astype(np.float64)
    return (values.mean(axis=(0, 1)) if values.ndim == 3 else values).ravel().tolist()


def check_reproducible(path: str, noted: Mapping[str, Any]) -> None:
    """Raise ValueError if the results in `path` have no pairs in other results. noted: their world."""
    if (simulation := noted.get("simulation", MUJOCO)) != MUJOCO:
        raise ValueError(
            f"{path} was simulated by {simulation}, which is not reproducible bit for bit, so its episodes have no "
            f"pairs elsewhere: evaluate that policy with simulation={MUJOCO} to compare it"
        )


def world_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """A few words on each difference of two worlds; empty if results of both may be compared.

    Policies that observe other streams of the same world may be compared.
    """
    steps = [{name: world[name] for name in ("max_steps", "control_dt")} for world in (one, other)]
    differences = [
        f"{what}{name} is {here[name]} and {there[name]}"
        for what, here, there in (
            ("", *steps),
            ("action ", one["action"], other["action"]),
            ("the version of ", one["versions"], other["versions"]),
        )
        for name in sorted(here.keys() & there.keys())
        if json.dumps(here[name]) != json.dumps(there[name])
    ]
    probes = one["probe"], other["probe"]
    if None in probes:
        return [*differences, "the environment failed when it was tried"]
    shared = sorted(probes[0].keys() & probes[1].keys())
    if not shared:
        return [*differences, f"they have no stream in common: {sorted(probes[0])} and {sorted(probes[1])}"]
    for name in shared:
        values = [np.array(probe[name]) for probe in probes]
        if values[0].shape != values[1].shape:
            differences.append(f"stream {name!r} has {values[0].size} and {values[1].size} numbers")
        elif values[0].size and (off := np.abs(values[0] - values[1])).max() > 0:
            scale = np.maximum(np.abs(values).max(axis=0), 1.0)
            if (off / scale).max() > TOLERANCE:
                differences.append(f"{name!r} is {_text(values[0])} and {_text(values[1])} {AFTER}")
    return differences


def _text(values: np.ndarray) -> str:
    return np.array2string(values, precision=4, threshold=8)
