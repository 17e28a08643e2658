"""Which episodes are trained on and which are held out.

The split has a seed of its own, so that trainings with different seeds learn from the same episodes and are measured on
the same others; and a training that goes on from another one keeps its split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..datasets.demonstrations import Demonstrations
from ..datasets.fingerprint import fingerprint
from ..datasets.windows import split

HELD_OUT, SEED = 0.02, 0
"""Share and seed of a split, unless they are given."""


class Split(NamedTuple):
    """Episodes to train on and episodes held out, ascending.

    origin: seed and share that drew them, and how to know the dataset again. is_kept: whether another run had it.
    """

    training: list[int]
    held_out: list[int]
    origin: dict[str, Any]
    is_kept: bool

    def manifest(self) -> dict[str, Any]:
        """The entries of a checkpoint's manifest that `choose` reads."""
        return {"held_out_episodes": self.held_out, "split": self.origin}


def choose(
    demonstrations: Demonstrations, *, held_out: float | None, seed: int | None, before: Mapping[str, Any] | None = None
) -> Split:
    """The split of all episodes: a share `held_out` of them, drawn by `seed`.

    before: the manifest of the checkpoint that the training begins with. If the dataset begins with the episodes that
    it was trained on, those that it held out stay held out, and all others are trained on, also those that were added
    since. If it was trained on other episodes, or notes none, as imported policies, it holds nothing out here.

    Raises ValueError if that split is to be kept and another one is asked for.
    """
    num_episodes = len(demonstrations)
    origin = (before or {}).get("split")
    is_kept = origin is not None and origin["sha256"] == fingerprint(demonstrations, origin["episodes"])
    if before is not None and origin is not None and is_kept:
        if held_out not in (None, origin["held_out"]) or seed not in (None, origin["seed"]):
            raise ValueError(
                f"init_from was trained on these episodes with held_out={origin['held_out']} and split_seed="
                f"{origin['seed']}, and what it was trained on cannot be held out now, got held_out={held_out} and "
                f"split_seed={seed}: leave both out to keep its split, or train without init_from"
            )
        held_out, seed, kept_apart = origin["held_out"], origin["seed"], before["held_out_episodes"]
        training = sorted(set(range(num_episodes)) - set(kept_apart))
    else:
        held_out, seed = HELD_OUT if held_out is None else held_out, SEED if seed is None else seed
        training, kept_apart = split(num_episodes, held_out=held_out, seed=seed)
    drawn = {"seed": seed, "held_out": held_out, "episodes": num_episodes}
    origin = drawn | {"sha256": fingerprint(demonstrations, num_episodes)}
    return Split(training, kept_apart, origin, is_kept)
