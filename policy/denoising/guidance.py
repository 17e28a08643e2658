"""Guidance: a denoiser made into another denoiser, so that no sampler knows of it; and sampling with it.

All of it but the exact gradient takes arrays of numpy as well as tensors, as our samplers do: an exported policy goes
on from what is planned by the very same functions, and this module loads without torch.

Shapes: B chunks of Tp actions of size Da; L rows of size Dz of what is denoised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .levels import Levels, NoiseLevel

if TYPE_CHECKING:
    from torch import Tensor

    from .interface import Denoiser, Space
    from .sampling import Sampler


@dataclass(frozen=True)
class Sampling:
    """What a guidance may know of the chunks that it guides.

    condition: what the network has made of the conditioning, (B, ...). denoiser: makes the denoiser for a condition.
    space: between actions and x_0. clip: the bound of estimates of x_0.
    """

    condition: Any
    denoiser: Callable[[Any], Denoiser]
    space: Space
    clip: float


@dataclass(frozen=True)
class Guidance:
    """Makes another denoiser of a denoiser. A subclass is a frozen dataclass and overrides what it needs.

    Fields that are arrays have a row for each chunk of a batch, or are of one chunk without that axis: numpy's for one
    robot, torch's in a policy. All other fields are settings, which the chunks of a batch share.
    """

    @property
    def arrays(self) -> dict[str, Any]:
        """The fields that have a row for each chunk."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if hasattr(value, "shape")}

    @property
    def kind(self) -> Hashable:
        """What the chunks of a batch share: the class and the settings."""
        arrays = self.arrays
        return type(self), *(getattr(self, field.name) for field in fields(self) if field.name not in arrays)

    @property
    def needs_gradient(self) -> bool:
        """Whether it takes the gradient of the denoiser, which only PyTorch has."""
        return False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless it can guide chunks of this shape, (B, L, Dz)."""

    def begin(self, noise: Any, levels: Levels, sampling: Sampling) -> tuple[Any, Levels]:
        """Where sampling starts instead: noise (N + 1, B, L, Dz) and N + 1 levels."""
        return noise, levels

    def denoiser(self, denoise: Denoiser, sampling: Sampling) -> Denoiser:
        """The guided denoiser."""
        return denoise

    def end(self, x_0: Any, sampling: Sampling) -> Any:
        """What becomes of the finished x_0 (B, L, Dz)."""
        return x_0


Guide = TypeVar("Guide", bound=Guidance)


def mapped(guide: Guide, convert: Callable[[Any], Any]) -> Guide:
    """The same guidance with every array converted."""
    return replace(guide, **{name: convert(array) for name, array in guide.arrays.items()})


def stacked(guides: Sequence[Guide]) -> Guide:
    """Guidance of several chunks, of one kind, as one of a batch. Arrays of numpy."""
    return replace(guides[0], **{name: np.stack([guide.arrays[name] for guide in guides]) for name in guides[0].arrays})


def check_guidance(guidance: Sequence[Guidance], noise: Any) -> None:
    """Raise ValueError unless all of it can guide chunks that are made from this noise (draws, B, L, Dz)."""
    for guide in guidance:
        guide.check(tuple(noise.shape[1:]))


@dataclass(frozen=True)
class Prefix(Guidance):
    """What is planned already, where a new chunk should go on from it.

    actions: (..., Tp, Da), in the units of the action stream; weights: (..., Tp), 1 if the chunk is held to them, 0 if
    it is free. exact: pull along the gradient of the network. limit: the most that the pull may weigh; see
    `inpainting`. start: the share of the denoising steps that are left to do, beginning with these actions made as
    noisy as they are there; 1 begins with noise alone.

    >>> Prefix(np.zeros((16, 2)), np.zeros(16), start=2.0)
    Traceback (most recent call last):
        ...
    ValueError: start must be above 0 and at most 1, a share of the denoising steps, got 2.0
    """

    actions: Any
    weights: Any
    start: float = 1.0
    limit: float = 5.0
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be above 0 and at most 1, a share of the denoising steps, got {self.start}")
        if not self.limit > 0:
            raise ValueError(f"the limit of the guidance must be above 0, got {self.limit}")
        if self.weights.shape != self.actions.shape[:-1]:
            raise ValueError(
                f"there must be a weight for each planned action, {tuple(self.actions.shape[:-1])}, "
                f"got {tuple(self.weights.shape)}"
            )

    @property
    def needs_gradient(self) -> bool:
        """Whether it is exact."""
        return self.exact

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless there is a planned action for each row of the chunks."""
        if tuple(self.actions.shape) != shape:
            raise ValueError(
                f"the planned actions must have the shape of the chunks, {shape}, got {tuple(self.actions.shape)}"
            )

    def begin(self, noise: Any, levels: Levels, sampling: Sampling) -> tuple[Any, Levels]:
        """Leave out the first of the levels in a warm start, and the noise that the sampler would have added there."""
        num_steps = len(levels) - 1
        skipped = num_steps - max(1, round(self.start * num_steps))
        if not skipped:
            return noise, levels
        _, alpha, sigma = levels[skipped]
        planned = sampling.space.encode(self.actions)
        first = (alpha * planned + sigma * noise[0])[None]
        return library(noise).concat([first, noise[1 + skipped :]]), levels[skipped:]

    def denoiser(self, denoise: Denoiser, sampling: Sampling) -> Denoiser:
        """Pull every estimate towards the plan; see `inpainting`."""
        planned, std = sampling.space.encode(self.actions), sampling.space.std if self.exact else None
        return inpainting(denoise, planned, self.weights, std=std, limit=self.limit, exact=self.exact)

    def end(self, x_0: Any, sampling: Sampling) -> Any:
        """Set held steps to the plan: set earlier, they would not tell the free steps enough.

        The others are clipped here, because a pull goes beyond the bound on purpose.
        """
        planned, chunk = sampling.space.encode(self.actions), x_0.clip(-sampling.clip, sampling.clip)
        return library(chunk).where(self.weights[..., None] == 1, planned, chunk)


def sample(sampling: Sampling, noise: Any, *, sampler: Sampler, guidance: Sequence[Guidance] = ()) -> Any:
    """x_0 (B, L, Dz) from noise (draws, B, L, Dz); without draws, from an empty chunk.

    Every guidance acts on what those before it have made.
    """
    x = noise if len(noise) else noise.sum(axis=0)[None]
    denoise, levels = sampling.denoiser(sampling.condition), sampler.levels
    for guide in guidance:
        x, levels = guide.begin(x, levels, sampling)
        denoise = guide.denoiser(denoise, sampling)
    x_0 = sampler.solve(denoise, x, levels)
    for guide in guidance:
        x_0 = guide.end(x_0, sampling)
    return x_0


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


def published_gain(now: NoiseLevel, *, limit: float, variance: Any = 1.0) -> Any:
    """What real-time chunking multiplies a pull by, as an addition to x_0 (Black et al. 2025, eq. 2 to 4).

    limit: the most that a pull may weigh in a velocity, for data of variance 1. variance: of the normalised data, one
    number or (Da,); the paper has 1, see `posterior_gain`.
    """
    return _at_most(limit * (1 - now.share) / variance, posterior_gain(now, variance))


def posterior_gain(now: NoiseLevel, variance: Any, num_pulled: Any = 1.0) -> Any:
    """Tau + (1 - tau)^2 / (tau n s^2), infinite at noise, where tau is 0.

    Of Gaussian x_0 with variance s^2, x = tau x_0 + (1 - tau) noise leaves r^2 = (1 - tau)^2 s^2 / (tau^2 s^2 +
    (1 - tau)^2); a likelihood of variance r^2 adds (1 - tau)^2 / (tau r^2) times the gradient to the estimate of x_0,
    which is this with n = 1. If n steps are one and the same, they are a single step of variance n s^2.
    """
    tau = now.share
    return tau + (1 - tau) ** 2 / (tau * num_pulled * variance) if tau else math.inf


def _at_most(x: Any, bound: Any) -> Any:
    """The smaller of the two, for numbers and for tensors."""
    return min(x, bound) if isinstance(x, float) else x.clip(max=bound)


OVERSHOOT = 1.5
"""By how many times the error x may move along the gradient in a step, if all pulled steps move as one."""


def gradient_gain(
    now: NoiseLevel, then: NoiseLevel, *, std: Tensor, limit: float, num_pulled: Tensor | float
) -> Tensor:
    """What the gradient of the error is multiplied by: `published_gain` for data of any variance, and a bound.

    If all pulled steps are one and the same, the pull moves x by at most `OVERSHOOT` times the error; unbounded, a few
    denoising steps would go far beyond the plan.

    std: s (Da,) of the normalised data; 0, of a dimension that is still, counts as 1. num_pulled: n, the sum of the
    weights, at least 1. limit: see `published_gain`.
    """
    variance = std.where(std > 0, 1.0) ** 2
    bound = OVERSHOOT * error_gain(now, then) * posterior_gain(now, variance, num_pulled)
    return _at_most(published_gain(now, limit=limit, variance=variance), bound)
