"""The exponential moving average of a policy's weights: what is evaluated, kept and deployed."""

from __future__ import annotations

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class EMA(Generic[Module]):
    """A copy of a module whose parameters follow slowly, and whose buffers follow at once.

    In update number n = 1, 2, ... the decay is 1 - n^-power, at most `maximum`: the average of early training is short,
    that of late training long. This is the warm-up of diffusers' `EMAModel`. The reference implementation of Diffusion
    Policy is one update behind: with a power of 0.75 its decays are 0, 0, 0.405, ..., and ours 0, 0.405, 0.561, ...
    """

    def __init__(self, module: Module, *, power: float, maximum: float) -> None:
        if not (power > 0 and 0 < maximum < 1):
            raise ValueError(f"power must be positive and the maximum decay between 0 and 1, got {power} and {maximum}")
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.power, self.maximum = power, maximum

    def decay(self, update: int) -> float:
        """How much of the old average is kept in update number `update`, counted from 1."""
        return min(1 - update**-self.power, self.maximum)

    @torch.no_grad()
    def update(self, module: Module, update: int) -> None:
        """Move towards `module`; `update` counts from 1, and the first one copies."""
        weight = 1 - self.decay(update)
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)  # type: ignore[attr-defined]
        for mine, current in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(current)
