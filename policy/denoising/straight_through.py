"""Torch operations that pass the gradient on unchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Clip(torch.autograd.Function):
    """Clip to [-bound, bound]. The gradient passes unchanged, also where values are clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """The clipped x."""
        return x.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient, unchanged."""
        return gradients[0], None
