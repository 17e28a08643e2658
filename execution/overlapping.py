"""Ask for the next chunk while the robot still executes the last one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import Horizons
from .interface import Execution


class AsyncReplace(Execution):
    """Ask for a chunk and go on with the old one until it comes; then follow the new one alone.

    given: the other arguments of `Execution`. Raises ValueError where a chunk is too short for that: it must last until
    the next one has come.
    """

    def __init__(self, horizons: Horizons, *, delay: int = 0, **given: Any) -> None:
        super().__init__(horizons, delay=delay, **given)
        if max(self.every, delay) + delay > self._future:
            raise ValueError(
                f"a chunk must last for max(every, delay) + delay steps, {max(self.every, delay)} + {delay}, but of "
                f"{horizons.prediction} predicted ones {self._future} lie ahead: predict more, ask more often, or "
                "choose execution=receding, which stops for the delay"
            )

    def _is_due(self) -> bool:
        return self._asked is None or self._now - self._asked >= self.every

    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        # A chunk that is too late in all of its steps still says where to go: its last action is held.
        return actions[late:].copy() if late < len(actions) else self._held(actions[-1:])


class CrossFade(AsyncReplace):
    """As `AsyncReplace`, but change over from the old chunk to the new one linearly, within `steps` steps."""

    def __init__(self, horizons: Horizons, *, steps: int = 4, **given: Any) -> None:
        super().__init__(horizons, **given)
        self.steps = steps

    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        new = super()._join(actions, late)
        old = self.planned[: self.steps]
        if len(old):  # a later chunk reaches further
            share = (np.arange(len(old))[:, None] + 1) / (len(old) + 1)
            new[: len(old)] += (1 - share) * (old - new[: len(old)])
        return new


class TemporalEnsemble(AsyncReplace):
    """Ask for a chunk every step, and do what they all say on average (Zhao et al. 2023, section IV.B).

    Of the chunks that have come and speak of a step, the i-th oldest has the weight exp(-decay i), as published: so new
    ones change little. Where there are several ways, the average of them may be none.
    """

    def __init__(self, horizons: Horizons, *, every: int | None = 1, decay: float = 0.01, **given: Any) -> None:
        super().__init__(horizons, every=every, **given)
        self.decay = decay

    def reset(self) -> None:
        """Forget the past, the plan, and the chunks that it is made of."""
        super().reset()
        self._weight = np.empty(0)
        self._count = np.empty(0)

    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        new, old, gone = super()._join(actions, late), self.planned, self._now - self._begin
        if not len(old):
            self._weight, self._count = np.ones(len(new)), np.ones(len(new))
            return new
        missing = 0, len(new) - len(old)
        weight, self._count = (np.pad(each[gone:], missing) for each in (self._weight, self._count))
        added = np.exp(-self.decay * self._count)
        self._weight, self._count = weight + added, self._count + 1
        share = (added / self._weight)[:, None]
        new[: len(old)] += (1 - share[: len(old)]) * (old - new[: len(old)])
        return new
