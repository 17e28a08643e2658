"""How action chunks follow one another: between a policy, which plans, and a robot, which needs one action a step.

One `Execution` serves one episode, robot or session. It knows arrays, but no clock, no network and no batch, so
that evaluation in simulation and a controller in real time run the very same object.

Shapes: To, Tp, Ta observation, prediction and action horizon; Da size of the action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..specification import Horizons

History: TypeAlias = dict[str, NDArray[Any]]
"""A stream's name -> the last To observations of it (To, ...), the current one last."""


class Execution(ABC):
    """Each control step: `observe`; where `request` answers, have a chunk predicted and `accept` it; then `act`.

    A subclass decides when a chunk is due and which action comes next.
    """

    def __init__(self, horizons: Horizons) -> None:
        self.horizons = horizons
        self._seen: deque[Mapping[str, NDArray[Any]]] = deque(maxlen=horizons.observation)

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._seen.clear()

    def observe(self, observation: Mapping[str, NDArray[Any]]) -> None:
        """Take the observation of the current step. The first one stands for the steps before it, as in training.

        It is copied, so that the arrays may be used again for the next step.
        """
        seen = {name: np.array(values) for name, values in observation.items()}
        if not self._seen:
            self._seen.extend([seen] * (self.horizons.observation - 1))
        self._seen.append(seen)

    def request(self) -> History | None:
        """What to predict the next chunk from, or None while none is due."""
        if not self._seen:
            raise RuntimeError("observe the first step before a chunk is requested")
        if not self.is_due():
            return None
        return {name: np.stack([seen[name] for seen in self._seen]) for name in self._seen[-1]}

    @abstractmethod
    def is_due(self) -> bool:
        """Whether a new chunk is needed before the next action."""

    @abstractmethod
    def accept(self, chunk: NDArray[Any]) -> None:
        """Take a predicted chunk (Tp, Da)."""

    @abstractmethod
    def act(self) -> NDArray[Any]:
        """The action (Da,) of the current step."""


class RecedingHorizon(Execution):
    """Execute the first Ta actions from the current step on, then plan again (Chi et al. 2023, section II.C)."""

    def __init__(self, horizons: Horizons) -> None:
        super().__init__(horizons)
        self._planned: deque[NDArray[Any]] = deque()

    def reset(self) -> None:
        """Forget the past and the plan."""
        super().reset()
        self._planned.clear()

    def is_due(self) -> bool:
        """Once every planned action is executed."""
        return not self._planned

    def accept(self, chunk: NDArray[Any]) -> None:
        """Plan the executed part of the chunk, in place of any other plan. Raises ValueError for another shape."""
        if chunk.ndim != 2 or len(chunk) != self.horizons.prediction:
            raise ValueError(
                f"a chunk must hold an action for each of the {self.horizons.prediction} steps of the prediction "
                f"horizon, got shape {chunk.shape}"
            )
        self._planned = deque(chunk[self.horizons.executed].copy())

    def act(self) -> NDArray[Any]:
        """The next planned action. Raises RuntimeError where a chunk is due instead."""
        if not self._planned:
            raise RuntimeError("no action is planned: predict a chunk from request() and accept() it first")
        return self._planned.popleft()
