"""How well a policy predicts the actions of each episode of demonstrations: which ones surprise it.

Shapes: n episodes; To, Tp, Ta observation, prediction and action horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.demonstrations import Demonstrations
from ..policy.engines.interface import Engine
from ..policy.interface import Policy
from ..policy.requests import History, Request
from ..progress import watched
from .rollout import predict

WINDOWS = 8
"""Predictions of each episode, at even intervals."""

ROWS = 64
"""Predictions in a batch."""


class Comparison(NamedTuple):
    """The executed steps of a predicted chunk beside those of the demonstration."""

    episode: int
    step: int
    """The current step, of all episodes in turn."""
    predicted: NDArray[np.float64]
    """(Ta, Da), in units."""
    recorded: NDArray[np.float64]
    """(Ta, Da), in units."""


def surprise(engine: Engine, demonstrations: Demonstrations, *, seed: int = 0) -> NDArray[np.float64]:
    """(n,): the mean error of the executed actions of each episode, as a share of the range of each dimension.

    It does not fall to zero where there are several good actions. NaN for episodes shorter than Ta. seed: of the noise.
    The demonstrations have the streams of the policy. Cost: `WINDOWS` predictions an episode, in batches.
    """
    span = _span(demonstrations)
    total, count = np.zeros(len(demonstrations)), np.zeros(len(demonstrations))
    for episode, _, predicted, recorded in compared(engine, demonstrations, seed=seed):
        error = np.abs(predicted - recorded) / span
        total[episode], count[episode] = total[episode] + error.mean(), count[episode] + 1
    return np.divide(total, count, out=np.full(len(demonstrations), np.nan), where=count > 0)


def compared(
    engine: Engine, demonstrations: Demonstrations, *, seed: int = 0, windows: int = WINDOWS
) -> Iterator[Comparison]:
    """Predict at even intervals of each episode, and compare. windows: predictions of each episode.

    seed, demonstrations: as of `surprise`. Episodes shorter than Ta are left out.
    """
    moments = list(_moments(demonstrations, engine, windows))
    for first in watched(range(0, len(moments), ROWS), "predict", unit="batches", delay_s=1):
        batch = moments[first : first + ROWS]
        requests = [Request(history) for history in histories_of(demonstrations, engine, batch)]
        generators = [torch.Generator().manual_seed(seed) for _ in batch]
        for (episode, step), (chunk, _) in zip(batch, predict(engine, requests, generators), strict=True):
            recorded = demonstrations.read("action", step, step + engine.horizons.action).astype(np.float64)
            yield Comparison(episode, step, chunk[engine.horizons.executed].astype(np.float64), recorded)


def _span(demonstrations: Demonstrations) -> NDArray[np.float64]:
    """The range of each dimension of the action, and 1 where it is constant."""
    rows = demonstrations.read("action").astype(np.float64)
    span = np.ptp(rows, axis=0)
    return np.where(span > 0, span, 1.0)


def _moments(demonstrations: Demonstrations, engine: Engine, windows: int) -> Iterator[tuple[int, int]]:
    """(episode, current step) of every prediction."""
    for episode in range(len(demonstrations)):
        start, stop = demonstrations.bounds(episode)
        last = stop - engine.horizons.action
        if last >= start:
            for step in np.unique(np.linspace(start, last, windows).astype(int)).tolist():
                yield episode, step


def histories_of(
    demonstrations: Demonstrations, policy: Engine | Policy, moments: Sequence[tuple[int, int]]
) -> Iterator[History]:
    """The To observations up to each of some (episode, step), which are ascending; see `_histories`."""
    for episode, some in groupby(moments, key=lambda moment: moment[0]):
        yield from _histories(demonstrations, policy, episode, [step for _, step in some])


def _histories(
    demonstrations: Demonstrations, policy: Engine | Policy, episode: int, steps: Sequence[int]
) -> list[History]:
    """The To observations up to each step of an episode; before its first step, that one is repeated.

    Vectors are read once, images for each step alone.
    """
    start, stop = demonstrations.bounds(episode)
    offsets = np.arange(1 - policy.horizons.observation, 1)
    observed: list[History] = [{} for _ in steps]
    for stream in policy.specification.observations:
        whole = None if stream.is_image else demonstrations.read(stream.name, start, stop)
        for history, step in zip(observed, steps, strict=True):
            rows = np.maximum(step + offsets, start) - start
            if whole is None:
                first = int(rows[0])
                read = demonstrations.read(stream.name, start + first, step + 1)
                history[stream.name] = read[rows - first]
            else:
                history[stream.name] = whole[rows]
    return observed
