"""Which episodes are trained on and which are held out.

The split has its own seed, so trainings with different seeds learn from the same episodes and are measured on the same
held-out ones. A training that starts from another one (`init_from`) keeps its split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..datasets.windows import split_episodes

HELD_OUT, SEED = 0.02, 0
"""Default share and seed of a split."""


class Split(NamedTuple):
    """Training and held-out episodes, both ascending."""

    training: list[int]
    held_out: list[int]
    origin: dict[str, Any]
    """Seed and share that drew the split, and the number and the digests of the episodes' vectors."""
    is_kept: bool
    """Whether this is the split of an earlier training."""

    def manifest(self) -> dict[str, Any]:
        """The entries of a checkpoint's manifest that `choose_split` reads."""
        return {"held_out_episodes": self.held_out, "split": self.origin}


def choose_split(
    digests: list[str],
    *,
    held_out: float | None,
    seed: int | None,
    parent: Mapping[str, Any] | None = None,
    counts: Sequence[int] | None = None,
) -> Split:
    """Split the episodes of each dataset: a share `held_out`, drawn by `seed`, is held out.

    digests: of the episodes, see `vector_digests`. parent: the manifest of the checkpoint that training starts from. If
    the dataset begins with the parent's episodes, the parent's held-out episodes stay held out, and all others are
    trained on, also those added since. If the parent was trained on other episodes, or notes none (as imported policies
    do), a new split is drawn. counts: the episodes of each dataset; None if there is one.

    Raises ValueError if the parent's split must be kept and `held_out` or `seed` asks for another one.
    """
    num_episodes = len(digests)
    origin = (parent or {}).get("split")
    is_kept = origin is not None and origin["sha256"] == digests[: origin["episodes"]]
    if parent is not None and origin is not None and is_kept:
        if held_out not in (None, origin["held_out"]) or seed not in (None, origin["seed"]):
            raise ValueError(
                f"init_from was trained on these episodes with held_out={origin['held_out']} and split_seed="
                f"{origin['seed']}, and its training episodes cannot be held out now, got held_out={held_out} and "
                f"split_seed={seed}: leave both out to keep its split, or train without init_from"
            )
        held_out, seed, held_out_episodes = origin["held_out"], origin["seed"], parent["held_out_episodes"]
        training = sorted(set(range(num_episodes)) - set(held_out_episodes))
    else:
        held_out, seed = HELD_OUT if held_out is None else held_out, SEED if seed is None else seed
        held_out_episodes = split_each([num_episodes] if counts is None else counts, held_out=held_out, seed=seed)
        training = sorted(set(range(num_episodes)) - set(held_out_episodes))
    origin = {"seed": seed, "held_out": held_out, "episodes": num_episodes, "sha256": digests}
    return Split(training, held_out_episodes, origin, is_kept)


def split_each(counts: Sequence[int], *, held_out: float, seed: int) -> list[int]:
    """The held-out episodes of several datasets of so many episodes, one after the other; each is split on its own."""
    episodes, first = list[int](), 0
    for count in counts:
        episodes += [first + episode for episode in split_episodes(count, held_out=held_out, seed=seed)[1]]
        first += count
    return episodes
