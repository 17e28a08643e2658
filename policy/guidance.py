"""Guidance: a denoiser made into another denoiser, so that no sampler knows of it.

Shapes: B chunks of Tp actions of size Da, normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .interface import Denoiser, NoiseSchedule


def inpainting(
    denoise: Denoiser, schedule: NoiseSchedule, planned: Tensor, weights: Tensor, *, limit: float, exact: bool
) -> Denoiser:
    """Pull every estimate of x_0 towards what is planned (real-time chunking; Black et al. 2025, algorithm 1).

    planned (B, Tp, Da); weights (B, Tp): at 1 the chunk is what is planned, at 0 it is free; where all are 0, it is
    what it would be without guidance, bit for bit. limit: the most that the guidance may weigh.

    The published guidance is of flows. It holds for every schedule in the time of a flow, the share of the signal
    alpha / (alpha + sigma): a sample divided by alpha + sigma is one of a flow, and a velocity is an estimate of x_0.

    exact: pull along the gradient of the estimate, which moves free steps with the held ones, and needs a backward pass
    at every denoising step; otherwise along the error alone. Where weights are 1 the estimate is set to what is planned
    in the end: the pull alone comes near it (of a Gaussian, to 0.06 of its deviations), which costs the seam nothing.
    """
    weights = weights[..., None]
    is_held = weights == 1

    def guided(x_t: Tensor, t: float) -> Tensor:
        alpha, sigma = schedule.at(t)
        share = alpha / (alpha + sigma)
        # 1 - share turns a velocity into an estimate of x_0.
        gain = limit * (1 - share)
        if share > 0:
            gain = min(gain, (share**2 + (1 - share) ** 2) / share)
        if not exact:
            x_0 = denoise(x_t, t)
            pull = weights * (planned - x_0)
        else:
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                x_0 = denoise(x_t, t)
                error = (weights * (planned - x_0)).detach()
                (gradient,) = torch.autograd.grad(x_0, x_t, error)
            x_0, pull = x_0.detach(), (alpha + sigma) * gradient
        return torch.where(is_held, planned, x_0 + gain * pull)

    return guided
