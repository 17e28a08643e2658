"""Chunks that are sampled to go on from the last one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..specification import Horizons
from .overlapping import AsyncReplace


class RealTimeChunking(AsyncReplace):
    """As `AsyncReplace`, but the new chunk is sampled so that it goes on from the old one (Black et al. 2025).

    The steps before the one at which it is asked for are held to what was commanded. The steps that will be over before
    it comes are held to what is planned; from there on the old plan counts less and less, and nothing where it ends.
    exact: pull along the gradient of the network; limit: the most that a pull may weigh. See
    `policy.denoising.guidance`.
    """

    def __init__(self, horizons: Horizons, *, limit: float = 5.0, exact: bool = False, **given: Any) -> None:
        super().__init__(horizons, **given)
        self.limit, self.exact = limit, exact

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
    """How much each planned step counts (num_planned,): 1 within the delay, then falling (Black et al. 2025, eq. 5).

    >>> prefix_weights(5, 2).round(2).tolist()
    [1.0, 1.0, 0.49, 0.19, 0.04]
    """
    ahead = (num_planned - np.arange(num_planned)) / (num_planned - min(delay, num_planned) + 1)
    return np.where(np.arange(num_planned) < delay, 1.0, ahead * np.expm1(ahead) / np.expm1(1.0))


class WarmStart(AsyncReplace):
    """As `AsyncReplace`, but denoising starts from what is planned, made noisy as it is at `start` of all noise.

    The plan is moved on by the steps that are over, and at its end its last action is held.
    """

    def __init__(self, horizons: Horizons, *, start: float = 0.4, **given: Any) -> None:
        super().__init__(horizons, **given)
        self.start = start

    def _prefix(self) -> Prefix | None:
        first = self._now - self._begin - (self.horizons.observation - 1)
        steps = np.arange(first, first + self.horizons.prediction)
        actions = self._plan[np.clip(steps, 0, len(self._plan) - 1)]
        actions = np.where(steps[:, None] < len(self._plan), actions, self._held(actions))
        return Prefix(actions, np.zeros(len(steps), dtype=np.float32), start=self.start)
