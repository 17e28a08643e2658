"""Which noise of a batch is paired with which chunk in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COUPLINGS = "independent", "optimal"
"""independent: as they are drawn. optimal: see `optimal`."""


def optimal(noise: Tensor, x_0: Tensor) -> Tensor:
    """The noise (K, B, L, Dz) in the order in which its summed squared distance from x_0 (B, L, Dz) is least.

    The optimal transport of a minibatch (Pooladian et al. 2023; Tong et al. 2024), by an exact assignment for each of
    the K draws, in a time of the order of B^3. Paths from noise to chunks then cross less, so they are straighter.

    The noise is no longer independent of the chunk, so the score does not follow from the estimate of x_0, and only
    deterministic samplers draw from the flow. Nor is it independent of the observation (Cheng & Schwing 2025), while a
    policy is sampled with noise that is.
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    rows = x_0.flatten(1).double()
    costs = [torch.cdist(rows, drawn.flatten(1).double()).square().cpu().numpy() for drawn in noise]
    order = [torch.from_numpy(linear_sum_assignment(cost)[1]).to(noise.device) for cost in costs]
    return torch.stack([drawn[columns] for drawn, columns in zip(noise, order, strict=True)])
