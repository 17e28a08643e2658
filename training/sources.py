"""The datasets of a training, opened, checked and joined: one, or several.

A run notes its episodes in *pieces*, [dataset, number of episodes], in the order in which it knows them. An episode
that is added to a dataset of several comes behind all episodes of the run, so those keep their places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..configs.training import TrainConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.inspection import worst
from ..datasets.joined import Joined
from ..datasets.observing import Observing, Worded, masked
from ..datasets.opening import open_demonstrations
from ..datasets.selection import Selected
from ..datasets.statistics import require_finite
from ..datasets.windows import Windows
from ..envs.task import Task
from ..policy.encoders.text import TextEncoder
from ..specification import nearest
from .order import Mix, mixed

Pieces: TypeAlias = list[list[int]]


class Sources(NamedTuple):
    """The demonstrations of all datasets."""

    demonstrations: Demonstrations
    """All episodes, in the order of the pieces."""
    pieces: Pieces
    """[dataset, number of episodes] of each part of them."""
    looks: list[str]
    """What looks wrong in the datasets, a sentence each."""

    @property
    def parts(self) -> Sequence[Demonstrations]:
        """The demonstrations of each piece."""
        whole = self.demonstrations
        return whole.parts if isinstance(whole, Joined) else [whole]

    @property
    def counts(self) -> list[int]:
        """The number of episodes of each piece."""
        return [count for _, count in self.pieces]

    @property
    def dataset_of(self) -> NDArray[np.int64]:
        """(n,): the index of the dataset of each episode."""
        return np.repeat([dataset for dataset, _ in self.pieces], self.counts)


def open_sources(
    config: TrainConfig, task: Task | None, begun: Mapping[str, Any] | None, encoder: TextEncoder | None = None
) -> Sources:
    """Open and check the datasets. begun: the manifest of the run that goes on. encoder: embeds the sentences.

    Raises ValueError if a dataset has no episodes, values that are not finite, other streams than the first, or fewer
    episodes than the run knows. With `missing=mask` it may lack an observation.
    """
    is_masked = config.missing == "mask"
    whole = [open_demonstrations(one, task, episodes=config.episodes, can_lack=is_masked) for one in config.datasets]
    observe = [_observed_names(config, demonstrations, whole) for demonstrations in whole]
    opened = [_checked(*one, encoder) for one in zip(config.datasets, whole, observe, strict=True)]
    looks = [f"looks wrong: {text}" for demonstrations in opened if (text := worst(demonstrations))]
    opened = _with_all_streams(config, opened)
    counts = [len(demonstrations) for demonstrations in opened]
    before = [] if begun is None else known_pieces(begun)
    if len(opened) == 1:
        first = min(sum(count for _, count in before), counts[0])
        return Sources(opened[0], [[0, count] for count in (first, counts[0] - first) if count], looks)
    pieces, firsts = _arranged(config, counts, before), [0] * len(opened)
    parts = list[Demonstrations]()
    for dataset, count in pieces:
        whole, first = opened[dataset], firsts[dataset]
        parts.append(whole if count == len(whole) else Selected(whole, range(first, first + count)))
        firsts[dataset] += count
    return Sources(Joined(parts), pieces, looks)


def known_pieces(manifest: Mapping[str, Any]) -> Pieces:
    """The pieces of a run. One of a single dataset does not note them."""
    return manifest.get("pieces", [[0, manifest["split"]["episodes"]]])


def _arranged(config: TrainConfig, counts: Sequence[int], before: Pieces) -> Pieces:
    """The pieces of datasets that have `counts` episodes: those of the run first, then what was added to each."""
    rest = list(counts)
    for dataset, count in before:
        if dataset >= len(rest):
            raise ValueError(
                f"the run {config.out} has more than the {len(rest)} datasets {config.place}: name all of them, in "
                "the order of its first command"
            )
        rest[dataset] -= count
        if rest[dataset] < 0:
            raise ValueError(
                f"{config.datasets[dataset]} has {counts[dataset]} episodes where the run {config.out} has "
                f"{sum(number for index, number in before if index == dataset)}: restore the others, or start a new "
                f"run from the weights of this one with init_from={config.out} out=NEW"
            )
    return [*before, *([dataset, count] for dataset, count in enumerate(rest) if count)]


def drawn_from(config: TrainConfig, sources: Sources, windows: Windows) -> tuple[Mix | None, list[str]]:
    """How often the windows of each dataset are drawn, None for all equally often; and a note for each of several.

    windows: those to learn from. Raises ValueError if a dataset with a weight has none.
    """
    if len(config.datasets) == 1:
        return None, []
    episodes = windows.episode_of_each() % len(sources.dataset_of)  # mirror images come behind
    dataset_of = sources.dataset_of[episodes]
    mix = None if config.weights is None else mixed(config.datasets, dataset_of, config.weights)
    counts = np.bincount(dataset_of, minlength=len(config.datasets)).tolist()
    draws = counts if mix is None else mix.draws
    notes = [
        f"{name}: {count} windows, {drawn / len(dataset_of):.1%} of all that are drawn"
        for name, count, drawn in zip(config.datasets, counts, draws, strict=True)
    ]
    return mix, notes


def held_out_of_each(config: TrainConfig, sources: Sources, held_out: Sequence[int]) -> dict[str, list[int]]:
    """Name of each of several datasets -> its held-out episodes; empty if there is one dataset."""
    if len(config.datasets) == 1:
        return {}
    dataset_of = sources.dataset_of
    return {
        name: [episode for episode in held_out if dataset_of[episode] == dataset]
        for dataset, name in enumerate(config.datasets)
    }


def episode_name(config: TrainConfig, pieces: Pieces, episode: int) -> str:
    """An episode in words: its number, and its dataset if there are several."""
    if len(config.datasets) == 1:
        return f"episode {episode}"
    datasets = np.repeat([dataset for dataset, _ in pieces], [count for _, count in pieces])
    dataset = datasets[episode]
    return f"episode {int((datasets[:episode] == dataset).sum())} of {config.datasets[dataset]}"


def _with_all_streams(config: TrainConfig, opened: Sequence[Demonstrations]) -> list[Demonstrations]:
    """Each of the datasets with the observations of all, masked where it lacks one.

    Raises ValueError if one lacks any and `missing` does not allow it.
    """
    if config.missing == "mask":
        return list(masked(opened))
    names = [_names(demonstrations) for demonstrations in opened]
    for dataset, own in zip(config.datasets, names, strict=True):
        for other, others in zip(config.datasets, names, strict=True):
            if lacking := sorted(others - own):
                raise ValueError(
                    f"{dataset} lacks the observation {lacking[0]!r} of {other}: give missing=mask to train on both, "
                    "or leave the stream out with observe="
                )
    return list(opened)


def _names(demonstrations: Demonstrations) -> set[str]:
    return {stream.name for stream in demonstrations.specification.observations}


def _observed_names(
    config: TrainConfig, demonstrations: Demonstrations, whole: Sequence[Demonstrations]
) -> list[str] | None:
    """The observations of a dataset that the policy sees; None for all. whole: all datasets.

    Raises ValueError if some may lack, and no dataset has a stream of `observe`.
    """
    if config.observe is None or config.missing is None:
        return config.observe
    everything = set[str]().union(*map(_names, whole))
    for name in config.observe:
        if name not in everything:
            raise ValueError(f"{config.place} have no observation {name!r}: {nearest(name, everything)}")
    return [name for name in config.observe if name in _names(demonstrations)] or config.observe


def _checked(
    dataset: str, demonstrations: Demonstrations, observe: list[str] | None, encoder: TextEncoder | None
) -> Demonstrations:
    """Demonstrations with the streams that the policy sees. dataset: where they are.

    Raises ValueError if there are none, or if a number is not finite.
    """
    if observe is not None:
        demonstrations = Observing(demonstrations, observe)
    if encoder is not None:
        demonstrations = Worded(demonstrations, encoder, digest=encoder.digest)
    if not len(demonstrations):
        raise ValueError(f"{dataset} must hold demonstrations to train on, got a store without episodes")
    require_finite(demonstrations, dataset)  # other programs write without checking
    return demonstrations
