"""The recipe of a training: everything that decides what is learnt, but its seed, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.schema import TrainConfig, describe
from ..datasets.store import Demonstrations

LEFT_OUT = {
    *("seed", "task", "dataset", "init_from", "out", "device", "frames", "tensorboard"),
    *("log_every", "save_every", "validate_every", "evaluate_every", "evaluate_episodes"),
}
"""Settings of a run that are no part of its recipe; what lies in `dataset` and `init_from` is, not where it lies."""


def recipe(config: TrainConfig, demonstrations: Demonstrations, *, init_from: str | None) -> dict[str, Any]:
    """The recipe of `config`, as JSON. Runs of one recipe differ in their seed alone.

    demonstrations: the content of `config.dataset`. init_from: the digest of the weights that training starts with.
    Pretrained weights of an encoder go by the name of their file. The sampler is left out: no loss depends on it.
    """
    settings = {name: value for name, value in describe(config).items() if name not in LEFT_OUT}
    policy = {name: value for name, value in settings["policy"].items() if name != "sampler"}
    if weights := policy["encoder"].get("weights"):
        policy["encoder"] = policy["encoder"] | {"weights": Path(weights).name}
    contents = {
        "episodes": len(demonstrations.episode_ends),
        "steps": int(demonstrations.episode_ends[-1]),
        "digest": digest(demonstrations),
    }
    return {**settings, "policy": policy, "init_from": init_from, "demonstrations": contents}


def digest(demonstrations: Demonstrations) -> str:
    """12 hexadecimal digits of the ends of the episodes, of all vectors and of the first image of each camera.

    Reading all images would take minutes.
    """
    content = hashlib.sha256(np.asarray(demonstrations.episode_ends, dtype="<i8").tobytes())
    for stream in demonstrations.specification.streams:
        content.update(f"{stream.name} {stream.shape} {stream.dtype}".encode())
        rows = demonstrations.read(stream.name, 0, 1 if stream.is_image else None)
        content.update(np.ascontiguousarray(rows).tobytes())
    return content.hexdigest()[:12]
