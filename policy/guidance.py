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


def inpainting(
    denoise: Denoiser, planned: Tensor, weights: Tensor, *, std: Tensor | None = None, limit: float, exact: bool
) -> Denoiser:
    """Pull every estimate of x_0 towards what is planned.

    planned (B, Tp, Da); weights (B, Tp), from 0, a free step, to 1, a held one. If all are 0, the estimates are what
    they would be without guidance, bit for bit. The pull alone only comes near the plan.

    exact: pull along the gradient of the estimate, as real-time chunking was published, which costs a backward pass at
    every denoising step; otherwise along the error alone. std (Da,) is of the gradient: see `gradient_gain`.

    Along the error, held steps are moved by all of it. Other weighted steps are moved by the gain of the paper, which
    `limit` bounds: the error tells them nothing but the old plan, and a policy that copies more of it reacts less to
    what it sees.

    The published guidance is of flows. It holds for every schedule in the time of a flow, tau = `NoiseLevel.share`: a
    sample divided by alpha + sigma is one of a flow, and a velocity is an estimate of x_0.
    """
    weights = weights[..., None]
    is_held = weights == 1

    def along_error(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        x_0, most = denoise(x_t, now, then), error_gain(now, then)
        pull, some = weights * (planned - x_0), min(most, published_gain(now, limit=limit))
        return x_0 + library(x_0).where(is_held, most * pull, some * pull)

    def along_gradient(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        import torch

        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x_0 = denoise(x_t, now, then)
            error = (weights * (planned - x_0)).detach()
            (gradient,) = torch.autograd.grad(x_0, x_t, error)
        known = torch.ones_like(planned[0, 0]) if std is None else std
        num_pulled = weights.sum(dim=1, keepdim=True).clip(1)
        gain = gradient_gain(now, then, std=known, limit=limit, num_pulled=num_pulled)
        return x_0.detach() + gain * ((now.alpha + now.sigma) * gradient)

    return along_gradient if exact else along_error


def error_gain(now: NoiseLevel, then: NoiseLevel) -> float:
    """What the error of x_0 is multiplied by, so that x moves by just the error in the step from `now` to `then`.

    So x goes on moving until the estimate of the held steps is the plan. Then the estimate of the free steps, which
    depends on x alone, is what it should be if the held steps are the plan. A step to clean data has a gain of 1, and
    so has no step at all.
    """
    span = then.share - now.share
    return (1 - now.share) / span if span > 0 else 1.0


def published_gain(now: NoiseLevel, *, limit: float) -> float:
    """What real-time chunking multiplies a pull by, as an addition to x_0 (Black et al. 2025, eq. 2 to 4)."""
    tau = now.share
    gain = limit * (1 - tau)
    return min(gain, tau + (1 - tau) ** 2 / tau) if tau else gain


OVERSHOOT = 1.5
"""By how many times the error x may move along the gradient in a step, if all pulled steps move as one."""


def gradient_gain(
    now: NoiseLevel, then: NoiseLevel, *, std: Tensor, limit: float, num_pulled: Tensor | float
) -> Tensor:
    """What the gradient of the error is multiplied by, as an addition to x_0 (Black et al. 2025, eq. 2 to 4).

    Of Gaussian x_0 with variance s^2, x = tau x_0 + (1 - tau) noise leaves r^2 = (1 - tau)^2 s^2 / (tau^2 s^2 +
    (1 - tau)^2); a likelihood of variance r^2 adds (1 - tau)^2 / (tau r^2) times the gradient to the estimate of x_0,
    which is tau + (1 - tau)^2 / (tau s^2). The paper has s = 1.

    std: s (Da,) of the normalised data; 0, of a dimension that is still, counts as 1. limit: the most that the gradient
    may weigh in a velocity, for s = 1: it is divided by s^2. num_pulled: the sum of the weights, at least 1. If so many
    steps are one and the same, the estimate changes by tau n s^2 / (tau^2 n s^2 + (1 - tau)^2) times x, and the pull
    may move x by at most `OVERSHOOT` times the error: with few denoising steps it would go far beyond the plan.
    """
    tau, variance = now.share, std.where(std > 0, 1.0) ** 2
    gain = limit * (1 - tau) / variance
    if tau == 0:
        return gain
    as_one = tau + (1 - tau) ** 2 / (tau * num_pulled * variance)
    bound = OVERSHOOT * error_gain(now, then) * as_one
    return gain.minimum(tau + (1 - tau) ** 2 / (tau * variance)).minimum(bound)


def sample(
    denoise: Denoiser,
    noise: Tensor,
    *,
    sampler: Sampler,
    clip: float,
    prefix: Prefix | None = None,
    planned: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """A normalised chunk (B, Tp, Da) from noise (N + 1, B, Tp, Da), going on from `planned` as `prefix` says.

    planned: the actions of the prefix, normalised; std (Da,): of the normalised data, which the exact gradient needs.
    Held steps are set to the plan in the finished chunk: set earlier, they would not tell the free steps enough. The
    others are clipped to `clip` there, because a pull goes beyond it on purpose. A warm start leaves out the first of
    the levels, and the noise that the sampler would have added there.
    """
    if prefix is None or planned is None:
        return sampler.solve(denoise, noise, sampler.levels)
    guided = inpainting(denoise, planned, prefix.weights, std=std, limit=prefix.limit, exact=prefix.exact)
    num_steps = len(sampler.levels) - 1
    skipped = num_steps - max(1, round(prefix.start * num_steps))
    levels = sampler.levels[skipped:]
    if skipped:
        _, alpha, sigma = levels[0]
        noise = library(noise).concat([(alpha * planned + sigma * noise[0])[None], noise[1 + skipped :]])
    chunk = sampler.solve(guided, noise, levels).clip(-clip, clip)
    return library(chunk).where(prefix.weights[..., None] == 1, planned, chunk)


def blended(chunk: Any, prefix: Prefix) -> Any:
    """A chunk (B, Tp, Da) drawn towards what is planned, in the same units, by its weights; for estimates made once."""
    weights = prefix.weights[..., None]
    return library(chunk).where(weights == 1, prefix.actions, chunk + weights * (prefix.actions - chunk))
