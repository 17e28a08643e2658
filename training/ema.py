"""The exponential moving average of a policy's weights, which is evaluated, saved and deployed."""

from __future__ import annotations

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class EMA(Generic[Module]):
    """A copy of a module: its parameters are averaged over training, its buffers are copied at every update.

    The decay of update n = 1, 2, ... is min(1 - n^-power, maximum), so the average covers few updates early in training
    and many later. This is the warm-up of diffusers' `EMAModel`. The reference implementation of Diffusion Policy is
    one update behind: with a power of 0.75 its decays are 0, 0, 0.405, ..., and ours 0, 0.405, 0.561, ...

    Raises ValueError if power is not positive or maximum is not between 0 and 1.
    """

    def __init__(self, module: Module, *, power: float, maximum: float) -> None:
        if not (power > 0 and 0 < maximum < 1):
            raise ValueError(f"power must be positive and the maximum decay between 0 and 1, got {power} and {maximum}")
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.power, self.maximum = power, maximum

    def decay(self, update: int) -> float:
        """Weight of the old average in an update; updates count from 1."""
        return min(1 - update**-self.power, self.maximum)

    @torch.no_grad()
    def update(self, module: Module, update: int) -> None:
        """Average in the weights of `module`. Updates count from 1, and the first one copies."""
        weight = 1 - self.decay(update)
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)  # type: ignore[attr-defined]
        for average, current in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(current)
