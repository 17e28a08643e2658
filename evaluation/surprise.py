"""How well a policy predicts the actions of each episode of demonstrations: which ones surprise it.

Shapes: n episodes; To, Tp, Ta observation, prediction and action horizon.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..datasets.demonstrations import Demonstrations
from ..policy.engines.interface import Engine
from ..policy.interface import Policy
from ..policy.requests import History, Request
from .rollout import predict

WINDOWS = 8
"""Predictions of each episode, at even intervals."""

ROWS = 64
"""Predictions in a batch."""


def surprise(engine: Engine, demonstrations: Demonstrations, *, seed: int = 0) -> NDArray[np.float64]:
    """(n,): the mean error of the executed actions of each episode, as a share of the range of each dimension.

    It does not fall to zero where there are several good actions. NaN for episodes shorter than Ta. seed: of the noise.
    The demonstrations have the streams of the policy. Cost: `WINDOWS` predictions an episode, in batches.
    """
    span = _span(demonstrations)
    total, count = np.zeros(len(demonstrations)), np.zeros(len(demonstrations))
    moments = list(_moments(demonstrations, engine))
    for first in tqdm(range(0, len(moments), ROWS), desc="predict", unit="batch", delay=1):
        batch = moments[first : first + ROWS]
        requests = [Request(history(demonstrations, engine, *moment)) for moment in batch]
        generators = [torch.Generator().manual_seed(seed) for _ in batch]
        for (episode, step), (chunk, _) in zip(batch, predict(engine, requests, generators), strict=True):
            recorded = demonstrations.read("action", step, step + engine.horizons.action).astype(np.float64)
            error = np.abs(chunk[engine.horizons.executed] - recorded) / span
            total[episode], count[episode] = total[episode] + error.mean(), count[episode] + 1
    return np.divide(total, count, out=np.full(len(demonstrations), np.nan), where=count > 0)


def _span(demonstrations: Demonstrations) -> NDArray[np.float64]:
    """The range of each dimension of the action, and 1 where it is constant."""
    rows = demonstrations.read("action").astype(np.float64)
    span = np.ptp(rows, axis=0)
    return np.where(span > 0, span, 1.0)


def _moments(demonstrations: Demonstrations, engine: Engine) -> Iterator[tuple[int, int]]:
    """(episode, current step) of every prediction."""
    for episode in range(len(demonstrations)):
        start, stop = demonstrations.bounds(episode)
        last = stop - engine.horizons.action
        if last >= start:
            for step in np.unique(np.linspace(start, last, WINDOWS).astype(int)).tolist():
                yield episode, step


def history(demonstrations: Demonstrations, policy: Engine | Policy, episode: int, step: int) -> History:
    """The To observations up to a step; before the first of the episode, the first is repeated."""
    start, num_steps = demonstrations.bounds(episode)[0], policy.horizons.observation
    observed: History = {}
    for stream in policy.specification.observations:
        rows = demonstrations.read(stream.name, max(start, step + 1 - num_steps), step + 1)
        observed[stream.name] = np.concatenate([np.repeat(rows[:1], num_steps - len(rows), axis=0), rows])
    return observed
