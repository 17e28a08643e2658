"""Executions whose chunks are sampled to continue the current plan."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..specification import Horizons
from .interface import ExecutionOptions
from .overlapping import Overlapping


class RealTimeChunking(Overlapping):
    """As `AsyncReplace`, but each new chunk is sampled to continue the old plan (Black et al. 2025).

    Before the step of the request, the chunk is held to the commanded actions. In the steps that will be over before it
    arrives, it is held to the plan. After them the plan counts less and less, and not at all where it ends.

    limit: upper bound of the weight of the correction.
    exact: whether to take the gradient through the network.

    See `policy.denoising.guidance`. options: those of `Execution`.
    """

    def __init__(self, horizons: Horizons, *, limit: float, exact: bool, **options: Unpack[ExecutionOptions]) -> None:
        super().__init__(horizons, **options)
        self.limit, self.exact = limit, exact

    def _blend(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions

    def _prefix(self) -> Prefix | None:
        planned, past = self.planned, self.horizons.observation - 1
        if not len(planned):
            return None
        actions = np.zeros((self.horizons.prediction, planned.shape[1]), dtype=planned.dtype)
        weights = np.zeros(self.horizons.prediction, dtype=np.float32)
        first = past - len(self._commanded)
        for index, action in enumerate(self._commanded, first):
            actions[index] = action
        weights[first:past] = 1
        actions[past : past + len(planned)] = planned
        weights[past : past + len(planned)] = prefix_weights(len(planned), self.expected_delay)
        return Prefix(actions, weights, limit=self.limit, exact=self.exact)


def prefix_weights(num_planned: int, delay: int) -> NDArray[np.floating]:
    """The weight of each planned step (num_planned,): 1 within the delay, then falling (Black et al. 2025, eq. 5).

    >>> prefix_weights(5, 2).round(2).tolist()
    [1.0, 1.0, 0.49, 0.19, 0.04]
    """
    ahead = (num_planned - np.arange(num_planned)) / (num_planned - min(delay, num_planned) + 1)
    return np.where(np.arange(num_planned) < delay, 1.0, ahead * np.expm1(ahead) / np.expm1(1.0))


class WarmStart(Overlapping):
    """As `AsyncReplace`, but sampling starts from the current plan with noise added, not from pure noise.

    The plan is shifted by the steps that are over, and its last action is held for the steps after its end.

    start: fraction of the denoising steps to run. options: those of `Execution`.
    """

    def __init__(self, horizons: Horizons, *, start: float, **options: Unpack[ExecutionOptions]) -> None:
        super().__init__(horizons, **options)
        self.start = start

    def _blend(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions

    def _prefix(self) -> Prefix | None:
        first = self._now - self._plan_begin - (self.horizons.observation - 1)
        steps = np.arange(first, first + self.horizons.prediction)
        actions = self._plan[np.clip(steps, 0, len(self._plan) - 1)]
        actions = np.where(steps[:, None] < len(self._plan), actions, self._hold(actions))
        return Prefix(actions, np.zeros(len(steps), dtype=np.float32), start=self.start)
