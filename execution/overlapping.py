"""Executions that request the next chunk while the robot still executes the last one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ..specification import Horizons
from .interface import Execution, ExecutionOptions


class Overlapping(Execution):
    """Request a chunk every `every` steps, and execute the old plan until the chunk arrives.

    A subclass says in `_blend` how the new chunk replaces the old plan.

    options: those of `Execution`. Raises ValueError if a chunk is too short to last until the next one arrives.
    """

    def __init__(self, horizons: Horizons, **options: Unpack[ExecutionOptions]) -> None:
        super().__init__(horizons, **options)
        delay = self.expected_delay
        if max(self.every, delay) + delay > horizons.future:
            raise ValueError(
                f"a chunk must last for max(every, delay) + delay steps, {max(self.every, delay)} + {delay}, but only "
                f"{horizons.future} of {horizons.prediction} predicted steps lie ahead: predict more steps, request "
                "more often, or choose execution=receding, which stops for the delay"
            )

    def _is_due(self) -> bool:
        return self._requested_at is None or self._now - self._requested_at >= self.every

    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        # If every step of the chunk is over, its last action still says where to go.
        return self._blend(actions[late:].copy() if late < len(actions) else self._hold(actions[-1:]))

    @abstractmethod
    def _blend(self, actions: NDArray[Any]) -> NDArray[Any]:
        """The new plan from the new chunk's actions (n >= 1, Da), the first for the current step. May change them."""


class AsyncReplace(Overlapping):
    """Execute the old plan until the new chunk arrives, and then the new chunk alone."""

    def _blend(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions


class CrossFade(Overlapping):
    """Change linearly from the old plan to the new chunk, within `steps` steps."""

    def __init__(self, horizons: Horizons, *, steps: int, **options: Unpack[ExecutionOptions]) -> None:
        super().__init__(horizons, **options)
        self.steps = steps

    def _blend(self, actions: NDArray[Any]) -> NDArray[Any]:
        old = self.planned[: self.steps]
        if len(old):  # the new chunk reaches further than the old plan
            share = (np.arange(len(old))[:, None] + 1) / (len(old) + 1)
            actions[: len(old)] += (1 - share) * (old - actions[: len(old)])
        return actions


class TemporalEnsemble(Overlapping):
    """Average all chunks that plan the same step (Zhao et al. 2023, section IV.B); published with every=1.

    The i-th oldest of these chunks has the weight exp(-decay i), as published, so new chunks change little. If the
    chunks take different ways around an obstacle, their average may take neither.
    """

    def __init__(self, horizons: Horizons, *, decay: float, **options: Unpack[ExecutionOptions]) -> None:
        super().__init__(horizons, **options)
        self.decay = decay

    def reset(self) -> None:
        """Begin a new episode. Forgets everything except the measured delays."""
        super().reset()
        self._weight = np.empty(0)
        self._count = np.empty(0)

    def _blend(self, actions: NDArray[Any]) -> NDArray[Any]:
        old, passed = self.planned, self._now - self._plan_begin
        if not len(old):
            self._weight, self._count = np.ones(len(actions)), np.ones(len(actions))
            return actions
        missing = 0, len(actions) - len(old)
        weight, self._count = (np.pad(values[passed:], missing) for values in (self._weight, self._count))
        added = np.exp(-self.decay * self._count)
        self._weight, self._count = weight + added, self._count + 1
        share = (added / self._weight)[:, None]
        actions[: len(old)] += (1 - share[: len(old)]) * (old - actions[: len(old)])
        return actions
