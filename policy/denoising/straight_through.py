"""Operations of torch whose gradient is that of the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Clip(torch.autograd.Function):
    """Clip to [-bound, bound]; the gradient passes at the bound too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """The clipped values of x."""
        return x.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient as it comes."""
        return gradients[0], None
