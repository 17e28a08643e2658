"""Monitors of the policy that is evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.opening import load_policy, text_encoder_of
from ..configs.evaluation import EvaluateConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.observing import Worded, as_observed
from ..datasets.opening import open_demonstrations
from ..envs.task import Task
from ..files import whole_folder
from ..policy.device import device as device_of
from ..policy.diffusion import DiffusionPolicy
from ..policy.engines.interface import Engine
from ..policy.engines.pieces import check_diffusion
from ..policy.interface import Observation
from ..policy.monitor import MOST_WINDOWS, Calibration, Features, Monitor, lacking
from ..policy.requests import Request, batch
from ..progress import watched
from ..specification import WORDS
from .surprise import histories_of

FOLDER = "monitors"
"""The folder of the monitors, in that of the results."""

REPEATS = 20
"""Chunks that are timed."""

ROWS = 64
"""Windows that are encoded at once."""


def make_monitor(config: EvaluateConfig, engine: Engine, task: Task) -> Monitor:
    """The monitors of the policy that `config` evaluates. Prints which ones it lacks, and why.

    engine: runs the policy. Raises ValueError if the policy does not denoise or the demonstrations have other streams,
    and what `load_policy` and `open_demonstrations` raise.
    """
    loaded, manifest = load_policy(config.run, which=config.checkpoint, device=device_of(config.device))
    policy, features = check_diffusion(loaded), None
    if config.dataset is not None:
        can_lack = bool(policy.specification.may_be_absent)
        demonstrations = open_demonstrations(config.dataset, task, can_lack=can_lack)
        demonstrations = as_observed(demonstrations, policy.specification)
        if WORDS in (stream.name for stream in policy.specification.observations):
            text = text_encoder_of(manifest, config.text_encoder)
            assert text is not None
            demonstrations = Worded(demonstrations, text, digest=text.digest)
        features = features_of(policy, demonstrations)
    for name, why in lacking(policy, has_features=features is not None).items():
        print(f"no monitor {name}: {why}")
    return Monitor(policy, engine, features=features)


def features_of(policy: DiffusionPolicy, demonstrations: Demonstrations) -> Features:
    """The features of windows at even intervals over all steps, at most `MOST_WINDOWS` of them."""
    steps = np.unique(np.linspace(0, demonstrations.num_steps - 1, MOST_WINDOWS).astype(int)).tolist()
    episodes = np.searchsorted(demonstrations.episode_ends, steps, side="right").tolist()
    return Features.of(policy, _observations(policy, demonstrations, list(zip(episodes, steps, strict=True))), episodes)


def _observations(
    policy: DiffusionPolicy, demonstrations: Demonstrations, moments: Sequence[tuple[int, int]]
) -> Iterator[Observation]:
    """Batches of the windows up to each (episode, step)."""
    for first in watched(range(0, len(moments), ROWS), "encode", unit="batches", delay_s=1):
        some = moments[first : first + ROWS]
        observation, _ = batch([Request(history) for history in histories_of(demonstrations, policy, some)])
        yield {name: torch.from_numpy(values) for name, values in observation.items()}


def milliseconds(monitor: Monitor) -> dict[str, float]:
    """Monitor -> the median time of one chunk for one robot, ms. Of observations that are zero."""
    specification, horizons = monitor.engine.specification, monitor.engine.horizons
    history = {
        stream.name: np.zeros((horizons.observation, *stream.shape), stream.dtype)
        for stream in specification.observations
    }
    chunk, taken = np.zeros((1, horizons.prediction, specification.action.size), np.float32), dict[str, float]()
    for name in monitor.names:
        times = list[float]()
        for _ in range(REPEATS):
            began = time.perf_counter()
            monitor.compute(name, [Request(history)], chunk)
            times.append(1e3 * (time.perf_counter() - began))
        taken[name] = float(np.median(times))
    return taken


def save_monitor(monitor: Monitor, content: dict[str, Any], out: Path, notes: dict[str, Any]) -> None:
    """Write what `recede control on_lost=` needs to `out / FOLDER`. content: of `foretelling`."""
    largest = {name: row["largest"] for name, row in content["monitors"].items() if name in monitor.names}
    with whole_folder(out / FOLDER) as folder:
        Calibration(largest, monitor.features, notes).save(folder, monitor.policy)
