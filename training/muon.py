"""Muon: gradient descent with momentum whose updates of weight matrices are orthogonal."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..configs.training import TrainConfig
from .parameters import matrices, parameter_groups

MOMENTUM = 0.95
"""Share of the mean of the gradients that an update keeps."""

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the odd polynomial that brings singular values near 1. Its slope at 0 is large (Jordan et al. 2024)."""

ITERATIONS = 5
"""After these, singular values lie between about 0.7 and 1.2, unless they were tiny."""

LEAST = 1e-7
"""Least norm by which a matrix is divided, as in torch's own Muon."""

ADAMW = 0.2
"""Root mean square of an update by AdamW. Those by Muon get it too, so one rate serves both (Liu et al. 2025)."""

SMALLEST = 64
"""Matrices with a shorter side are left to AdamW, such as those that read or write actions."""


class Muon(torch.optim.AdamW):
    """Muon for the large matrices of a policy (Jordan et al. 2024), AdamW for all else.

    It changes those of `matrices` by Muon that have `SMALLEST` rows and columns or more; a convolution is the matrix
    (C_out, C_in K). The update is the mean of the gradients with all its singular values near 1, so that weak
    directions of the gradient are learned as fast as strong ones. Its size does not depend on that of the gradient.

    Memory: one number for each weight of those matrices, where AdamW has two. Time: a matrix (n, m), n <= m, costs
    5 n^2 (2 m + n) multiplications of numbers an update, whatever the size of the batch.

    dtype: in which the updates are made orthogonal.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        matrices: Collection[nn.Parameter],
        *,
        betas: tuple[float, float],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(groups, betas=betas, fused=True)
        self.large = {matrix for matrix in matrices if min(matrix.flatten(1).shape) >= SMALLEST}
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        gradients = dict[Tensor, Tensor]()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.large and parameter.grad is not None:
                    gradients[parameter], parameter.grad = parameter.grad, None  # AdamW leaves out what has none
                    self._change(parameter, gradients[parameter], group["lr"], group["weight_decay"])
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient

    def _change(self, parameter: Tensor, gradient: Tensor, rate: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:  # AdamW reads the step of every state that it loads
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(parameter)}
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(state["mean"], MOMENTUM).flatten(1)  # Nesterov's
        size = ADAMW * max(ahead.shape) ** 0.5
        update = orthogonal(ahead.to(self.dtype)).to(parameter.dtype).view_as(parameter)
        parameter.mul_(1 - rate * weight_decay).add_(update, alpha=-rate * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix (n, m) whose singular values are all 1, roughly, by the iteration of Newton and Schulz.

    Of a matrix whose norm is far below `LEAST`, they are smaller: what no longer has a gradient comes to rest.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=LEAST)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x if wide is matrix else x.T


def optimizer_of(config: TrainConfig, policy: nn.Module) -> torch.optim.AdamW:
    """The optimiser of all parameters of `policy` that `config` chooses."""
    groups, betas = parameter_groups(policy, weight_decay=config.weight_decay), (config.betas[0], config.betas[1])
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    return Muon(
        groups, matrices(policy), betas=betas, dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32
    )
