"""The recipe of a training: everything that decides what is learnt, except the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..configs.notation import describe
from ..configs.training import BY_CONTENT, FREE, TrainConfig
from .resuming import with_file_names
from .schedule import Stage
from .split import Split

LEFT_OUT = {"seed", "task", *BY_CONTENT, *FREE}
"""Settings that are not part of the recipe.

Of `dataset`, `init_from` and `teacher` the content is part of it, and the path is not.
"""


def recipe(
    config: TrainConfig,
    split: Split,
    *,
    init_from: str | None,
    teacher: str | None,
    stages: Sequence[Stage] = (),
    led: Sequence[str] = (),
    counts: Sequence[int] = (),
) -> dict[str, Any]:
    """The recipe of `config`, as JSON. Runs of one recipe differ only in their seed.

    split: of the demonstrations in `config.dataset`, with the digest of their content. init_from, teacher: digests of
    the initial weights and of the teacher's weights. stages: several make another recipe than one that had all its
    steps and demonstrations from the beginning. led: digests of the steps that a person led in each episode, if only
    these are learnt. counts: the episodes of each dataset, if there are several. Pretrained weights of an encoder are
    identified by their file name. The sampler is left out, because no loss depends on it.
    """
    settings = {name: value for name, value in describe(config).items() if name not in LEFT_OUT}
    policy = with_file_names({name: value for name, value in settings["policy"].items() if name != "sampler"})
    drawn_by = {"held_out": split.origin["held_out"], "split_seed": split.origin["seed"]}
    digest = hashlib.sha256("".join(split.origin["sha256"]).encode()).hexdigest()
    contents: dict[str, Any] = {"episodes": split.origin["episodes"], "digest": digest[:12]}
    contents |= {"datasets": list(counts)} if counts else {}
    return {
        **settings,
        **drawn_by,
        "policy": policy,
        "init_from": init_from,
        "teacher": teacher,
        "demonstrations": contents,
        **({"stages": [list(stage) for stage in stages]} if len(stages) > 1 else {}),
        **({"led": hashlib.sha256("".join(led).encode()).hexdigest()[:12]} if led else {}),
    }
