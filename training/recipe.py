"""The recipe of a training: everything that decides what is learnt, but its seed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..configs.notation import describe
from ..configs.training import TrainConfig
from .split import Split

LEFT_OUT = {
    *("seed", "task", "dataset", "init_from", "teacher", "out", "device", "frames", "imports", "tensorboard"),
    *("log_every", "save_every", "validate_every", "evaluate_every", "evaluate_episodes"),
}
"""Settings of a run that are no part of its recipe.

What lies in `dataset`, `init_from` and `teacher` is part of it, but not where it lies.
"""


def recipe(config: TrainConfig, split: Split, *, init_from: str | None, teacher: str | None) -> dict[str, Any]:
    """The recipe of `config`, as JSON. Runs of one recipe differ in their seed alone.

    split: of the demonstrations in `config.dataset`, which it knows by their content. init_from, teacher: the digests
    of the weights that training starts with and of those that it learns from. Pretrained weights of an encoder go by
    the name of their file. The sampler is left out: no loss depends on it.
    """
    settings = {name: value for name, value in describe(config).items() if name not in LEFT_OUT}
    policy = {name: value for name, value in settings["policy"].items() if name != "sampler"}
    if weights := policy["encoder"].get("weights"):
        policy["encoder"] = policy["encoder"] | {"weights": Path(weights).name}
    drawn = {"held_out": split.origin["held_out"], "split_seed": split.origin["seed"]}
    contents = {"episodes": split.origin["episodes"], "digest": split.origin["sha256"][:12]}
    return {
        **settings,
        **drawn,
        "policy": policy,
        "init_from": init_from,
        "teacher": teacher,
        "demonstrations": contents,
    }
