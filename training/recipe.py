"""The recipe of a training: everything that decides what is learnt, except the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..configs.notation import describe
from ..configs.training import TrainConfig
from .split import Split

LEFT_OUT = {
    *("seed", "task", "dataset", "init_from", "teacher", "out", "device", "image_cache", "imports", "tensorboard"),
    *("log_every", "save_every", "validate_every", "evaluate_every", "evaluate_episodes"),
}
"""Settings that are not part of the recipe.

Of `dataset`, `init_from` and `teacher` the content is part of it, and the path is not.
"""


def recipe(config: TrainConfig, split: Split, *, init_from: str | None, teacher: str | None) -> dict[str, Any]:
    """The recipe of `config`, as JSON. Runs of one recipe differ only in their seed.

    split: of the demonstrations in `config.dataset`, with the digest of their content. init_from, teacher: digests of
    the initial weights and of the teacher's weights. Pretrained weights of an encoder are identified by their file
    name. The sampler is left out, because no loss depends on it.
    """
    settings = {name: value for name, value in describe(config).items() if name not in LEFT_OUT}
    policy = {name: value for name, value in settings["policy"].items() if name != "sampler"}
    if weights := policy["encoder"].get("weights"):
        policy["encoder"] = policy["encoder"] | {"weights": Path(weights).name}
    drawn_by = {"held_out": split.origin["held_out"], "split_seed": split.origin["seed"]}
    contents = {"episodes": split.origin["episodes"], "digest": split.origin["sha256"][:12]}
    return {
        **settings,
        **drawn_by,
        "policy": policy,
        "init_from": init_from,
        "teacher": teacher,
        "demonstrations": contents,
    }
