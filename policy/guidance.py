"""Guidance: a denoiser made into another denoiser, so that no sampler knows of it; and sampling with it.

All of it but the exact gradient takes arrays of numpy as well as tensors, as our samplers do: an exported policy goes
on from what is planned by the very same functions, and this module loads without torch.

Shapes: B chunks of Tp actions of size Da, normalised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..specification import Prefix
from .levels import NoiseLevel

if TYPE_CHECKING:
    from torch import Tensor

    from .interface import Denoiser
    from .sampling import Sampler


def library(x: Any) -> Any:
    """The module whose functions take `x`: numpy or torch."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def inpainting(denoise: Denoiser, planned: Tensor, weights: Tensor, *, limit: float, exact: bool) -> Denoiser:
    """Pull every estimate of x_0 towards what is planned (real-time chunking; Black et al. 2025, algorithm 1).

    planned (B, Tp, Da); weights (B, Tp): at 1 the chunk is what is planned, at 0 it is free; where all are 0, it is
    what it would be without guidance, bit for bit. limit: the most that the guidance may weigh.

    The published guidance is of flows. It holds for every schedule in the time of a flow, the share of the signal
    alpha / (alpha + sigma): a sample divided by alpha + sigma is one of a flow, and a velocity is an estimate of x_0.

    exact: pull along the gradient of the estimate, which moves free steps with the held ones, and needs a backward pass
    at every denoising step; otherwise along the error alone. Where weights are 1 the estimate is set to what is planned
    in the end: the pull alone only comes near it.
    """
    weights = weights[..., None]
    is_held = weights == 1

    def guided(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        share = now.share
        # 1 - share turns a velocity into an estimate of x_0.
        gain = limit * (1 - share)
        if share > 0:
            gain = min(gain, (share**2 + (1 - share) ** 2) / share)
        if not exact:
            x_0 = denoise(x_t, now, then)
            pull = weights * (planned - x_0)
        else:
            import torch

            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                x_0 = denoise(x_t, now, then)
                error = (weights * (planned - x_0)).detach()
                (gradient,) = torch.autograd.grad(x_0, x_t, error)
            x_0, pull = x_0.detach(), (now.alpha + now.sigma) * gradient
        return library(x_0).where(is_held, planned, x_0 + gain * pull)

    return guided


def sample(
    denoise: Denoiser,
    noise: Tensor,
    *,
    sampler: Sampler,
    clip: float,
    prefix: Prefix | None = None,
    planned: Tensor | None = None,
) -> Tensor:
    """A normalised chunk (B, Tp, Da) from noise (N + 1, B, Tp, Da), going on from `planned` as `prefix` says.

    planned: the actions of the prefix, normalised. Estimates that are guided stay within `clip`, as all others do. A
    warm start leaves out the first of the levels, and the noise that the sampler would have added there.
    """
    if prefix is None or planned is None:
        return sampler.solve(denoise, noise, sampler.levels)
    guided = inpainting(denoise, planned, prefix.weights, limit=prefix.limit, exact=prefix.exact)
    num_steps = len(sampler.levels) - 1
    skipped = num_steps - max(1, round(prefix.start * num_steps))
    levels = sampler.levels[skipped:]
    if skipped:
        _, alpha, sigma = levels[0]
        noise = library(noise).concat([(alpha * planned + sigma * noise[0])[None], noise[1 + skipped :]])
    return sampler.solve(lambda x_t, now, then: guided(x_t, now, then).clip(-clip, clip), noise, levels)


def blended(chunk: Any, prefix: Prefix) -> Any:
    """A chunk (B, Tp, Da) drawn towards what is planned, in the same units, by its weights; for estimates made once."""
    weights = prefix.weights[..., None]
    return library(chunk).where(weights == 1, prefix.actions, chunk + weights * (prefix.actions - chunk))
