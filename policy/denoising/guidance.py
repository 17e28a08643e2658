"""Guidance turns a denoiser into another denoiser, so samplers need not know it; and sampling with guidance.

Everything but the exact gradient takes numpy arrays as well as tensors. Exported policies therefore use the same
functions, and this module loads without torch.

Shapes: B chunks of Tp actions of size Da; L rows of size Dz of x_0, which is denoised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .levels import Levels, NoiseLevel

if TYPE_CHECKING:
    from torch import Tensor

    from .interface import Denoiser, Space
    from .sampling import Sampler


WHOLE_STEPS = (
    "energies and classifiers weigh estimates of x_0, which a distilled policy does not give: guide its teacher"
)
"""Why a policy that learned whole steps of a teacher cannot be guided by what `needs_mean`."""


@dataclass(frozen=True)
class Sampling:
    """What a guidance may use of the policy whose chunks it guides."""

    condition: Any
    """The embedded conditioning, `network.condition(...)`, (B, ...)."""
    denoiser: Callable[[Any], Denoiser]
    """Embedded conditioning -> denoiser."""
    space: Space
    """Maps between actions and x_0, at the observation."""
    clip: float
    """Bound of the estimates of x_0."""
    unknown: Callable[[], Any]
    """Returns the embedded conditioning without context, (B, ...)."""
    observation: Mapping[str, Any]
    """Stream name -> values (B, To, ...), in units."""


@dataclass(frozen=True)
class Guidance:
    """Turns a denoiser into another denoiser. A subclass is a frozen dataclass and overrides what it needs.

    Fields that are arrays hold a row per chunk of a batch, or one chunk without the batch axis. They are numpy arrays
    in requests and tensors in a policy. All other fields are settings, which the chunks of a batch share.
    """

    @property
    def arrays(self) -> dict[str, Any]:
        """The fields that hold a row per chunk."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if hasattr(value, "shape")}

    @property
    def kind(self) -> Hashable:
        """The class and the settings, which the chunks of a batch must share."""
        arrays = self.arrays
        return type(self), *(getattr(self, field.name) for field in fields(self) if field.name not in arrays)

    @property
    def needs_gradient(self) -> bool:
        """Whether it needs the gradient of the denoiser, which only PyTorch can compute."""
        return False

    @property
    def needs_mean(self) -> bool:
        """Whether the denoiser must estimate the mean of x_0 given x_t, which a policy of whole steps does not."""
        return False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless it can guide chunks of shape (B, Tp, Da)."""

    def begin(self, noise: Any, levels: Levels, sampling: Sampling) -> tuple[Any, Levels]:
        """The noise (1 + draws, B, L, Dz) and the N + 1 levels to sample with instead."""
        return noise, levels

    def denoiser(self, denoise: Denoiser, sampling: Sampling) -> Denoiser:
        """The guided denoiser."""
        return denoise

    def end(self, x_0: Any, sampling: Sampling) -> Any:
        """The x_0 (B, L, Dz) to return instead of the sampled one."""
        return x_0


Guide = TypeVar("Guide", bound=Guidance)


def mapped(guide: Guide, convert: Callable[[Any], Any]) -> Guide:
    """The same guidance with every array converted by `convert`."""
    return replace(guide, **{name: convert(array) for name, array in guide.arrays.items()})


def stacked(guides: Sequence[Guide]) -> Guide:
    """Join guidance of one kind for single chunks into guidance for a batch. Numpy arrays."""
    return replace(guides[0], **{name: np.stack([guide.arrays[name] for guide in guides]) for name in guides[0].arrays})


def check_guidance(guidance: Sequence[Guidance], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless each guidance fits chunks of shape (B, Tp, Da)."""
    for guide in guidance:
        guide.check(shape)


@dataclass(frozen=True)
class Prefix(Guidance):
    """The current plan, which a new chunk continues.

    >>> Prefix(np.zeros((16, 2)), np.zeros(16), start=2.0)
    Traceback (most recent call last):
        ...
    ValueError: start must be above 0 and at most 1, a fraction of the steps, got 2.0
    """

    actions: Any
    """Planned actions (..., Tp, Da) in units."""
    weights: Any
    """(..., Tp): 1 holds a step to the plan, 0 leaves it free."""
    start: float = 1.0
    """Fraction of the denoising steps to run. Below 1, sampling starts from the plan with noise added: a warm start."""
    limit: Any = 5.0
    """Largest weight of the pull, a number; see `published_gain`. An array () if it is the input of a graph."""
    exact: bool = False
    """Whether to pull along the gradient of the network; see `inpainting`."""

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be above 0 and at most 1, a fraction of the steps, got {self.start}")
        is_number = np.isscalar(self.limit)  # nothing waits for one on a device
        if is_number and not self.limit > 0:
            raise ValueError(f"the limit of a prefix must be above 0, got {self.limit}")
        if self.weights.shape != self.actions.shape[:-1]:
            raise ValueError(
                f"a prefix must have a weight for each planned action, {tuple(self.actions.shape[:-1])}, "
                f"got {tuple(self.weights.shape)}"
            )

    @property
    def needs_gradient(self) -> bool:
        """Only the exact pull needs it."""
        return self.exact

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the plan has the shape of the chunks."""
        if tuple(self.actions.shape) != shape:
            raise ValueError(
                f"the planned actions must have the shape of the chunks, {shape}, got {tuple(self.actions.shape)}"
            )

    def for_graph(self, num_steps: int) -> Prefix:
        """The same prefix for a graph. Its `kind` is that of all prefixes that run as many of `num_steps` steps.

        The limit becomes an array, so it is an input and not a constant of the graph.
        """
        return replace(self, start=self._steps_to_run(num_steps) / num_steps, limit=np.asarray(self.limit))

    def _steps_to_run(self, num_steps: int) -> int:
        return max(1, round(self.start * num_steps))

    def begin(self, noise: Any, levels: Levels, sampling: Sampling) -> tuple[Any, Levels]:
        """For a warm start, skip the first levels and the noise that the sampler would add there."""
        num_steps = len(levels) - 1
        skipped = num_steps - self._steps_to_run(num_steps)
        if not skipped:
            return noise, levels
        _, alpha, sigma = levels[skipped]
        planned = sampling.space.encode(self.actions)
        first = (alpha * planned + sigma * noise[0])[None]
        per_step = (len(noise) - 1) // num_steps
        return library(noise).concat([first, noise[1 + skipped * per_step :]]), levels[skipped:]

    def denoiser(self, denoise: Denoiser, sampling: Sampling) -> Denoiser:
        """Pull every estimate towards the plan; see `inpainting`."""
        planned, std = sampling.space.encode(self.actions), sampling.space.std if self.exact else None
        return inpainting(denoise, planned, self.weights, std=std, limit=self.limit, exact=self.exact)

    def end(self, x_0: Any, sampling: Sampling) -> Any:
        """Set held steps to the plan and clip the other steps, because a pull may go beyond the bound on purpose.

        A sample that holds steps from the start would tell the free steps too little about them.
        """
        planned, chunk = sampling.space.encode(self.actions), x_0.clip(-sampling.clip, sampling.clip)
        return library(chunk).where(self.weights[..., None] == 1, planned, chunk)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Go beyond what the context changes (Ho & Salimans 2022, eq. 6): x_0 = unknown + weight (known - unknown).

    The two estimates of x_0, with the context and without it, are computed in one batch. A weight of 1 is the policy as
    it was trained, and 0 is the policy without context, both to the last bit.

    It is the first guidance, next to the network, because it replaces the denoiser.

    >>> ClassifierFree(-1.0)
    Traceback (most recent call last):
        ...
    ValueError: the weight of classifier-free guidance must be 0 or more, got -1.0
    """

    weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"the weight of classifier-free guidance must be 0 or more, got {self.weight}")

    def denoiser(self, denoise: Denoiser, sampling: Sampling) -> Denoiser:
        """The guided denoiser. Its estimates are clipped, because a weight above 1 goes beyond the bound."""
        if self.weight == 1:
            return denoise
        unknown = sampling.unknown()
        if self.weight == 0:
            return sampling.denoiser(unknown)
        both = sampling.denoiser(library(unknown).concat([sampling.condition, unknown]))

        def guided(x_t: Any, now: NoiseLevel, then: NoiseLevel) -> Any:
            x_0, half = both(library(x_t).concat([x_t, x_t]), now, then), len(x_t)
            return (x_0[half:] + self.weight * (x_0[:half] - x_0[half:])).clip(-sampling.clip, sampling.clip)

        return guided


def sample(sampling: Sampling, noise: Any, *, sampler: Sampler, guidance: Sequence[Guidance] = ()) -> Any:
    """Sample x_0 (B, L, Dz) from noise (draws, B, L, Dz), or from an empty chunk if there are no draws.

    Each guidance acts on the result of the guidance before it.
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
    """The module of the functions that take `x`: numpy or torch."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def posterior(alpha: Any, sigma: Any, std: Any) -> tuple[Any, Any]:
    """The gain g and the variance of x_0 given x_t, if its numbers were independent, normal and of mean 0.

    x_t = alpha x_0 + sigma epsilon. The mean of x_0 is g x_t. std: (Dz,), the standard deviation of x_0.
    """
    share = std**2 / (alpha**2 * std**2 + sigma**2)
    return alpha * share, sigma**2 * share


def inpainting(
    denoise: Denoiser, planned: Tensor, weights: Tensor, *, std: Tensor | None = None, limit: Any, exact: bool
) -> Denoiser:
    """Pull every estimate of x_0 towards the plan.

    planned: (B, L, Dz). weights: (B, L), from 0 for a free step to 1 for a held step; with 0 everywhere, the estimates
    are those without guidance, bit for bit. The pull only comes near the plan; `Prefix.end` completes it.

    exact: pull along the gradient of the estimate, as real-time chunking was published; this costs a backward pass per
    denoising step. Otherwise pull along the error. std: (Dz,), used by the gradient alone; see `gradient_gain`.

    Along the error, held steps move by the whole error. Steps of smaller weight move by the gain of the paper, bounded
    by `limit`: the error tells them only about the old plan, and a policy that copies more of it reacts less to new
    observations.

    The published guidance is for flows. It holds for every schedule in the time of a flow, tau = `NoiseLevel.share`: a
    sample divided by alpha + sigma is a sample of a flow, and a velocity is equivalent to an estimate of x_0.
    """
    weights = weights[..., None]
    is_held = weights == 1

    def along_error(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        x_0, whole = denoise(x_t, now, then), error_gain(now, then)
        pull, part = weights * (planned - x_0), _at_most(published_gain(now, limit=limit), whole)
        return x_0 + library(x_0).where(is_held, whole * pull, part * pull)

    def along_gradient(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        import torch

        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x_0 = denoise(x_t, now, then)
            error = (weights * (planned - x_0)).detach()
            (gradient,) = torch.autograd.grad(x_0, x_t, error)
        scale = torch.ones_like(planned[0, 0]) if std is None else std
        num_pulled = weights.sum(dim=1, keepdim=True).clip(1)
        gain = gradient_gain(now, then, std=scale, limit=limit, num_pulled=num_pulled)
        return x_0.detach() + gain * ((now.alpha + now.sigma) * gradient)

    return along_gradient if exact else along_error


def error_gain(now: NoiseLevel, then: NoiseLevel) -> float:
    """The factor of the error of x_0 with which x moves by just the error in the step from `now` to `then`.

    x then moves until the estimate of the held steps is the plan. The estimate of the free steps depends on x alone, so
    it becomes the estimate given that the held steps are the plan. The gain is 1 for a step to clean data, and for a
    step of no length.
    """
    span = then.share - now.share
    return (1 - now.share) / span if span > 0 else 1.0


def published_gain(now: NoiseLevel, *, limit: Any, variance: Any = 1.0) -> Any:
    """The factor of a pull on x_0 in real-time chunking (Black et al. 2025, eq. 2 to 4).

    limit: largest weight of a pull on the velocity, for data of variance 1; a number or (). variance: of the normalised
    data, a number or (Da,); the paper has 1. See `posterior_gain`.
    """
    return _at_most(limit * (1 - now.share) / variance, posterior_gain(now, variance))


def posterior_gain(now: NoiseLevel, variance: Any, num_pulled: Any = 1.0) -> Any:
    """The gain tau + (1 - tau)^2 / (tau n s^2); infinite at pure noise, tau = 0. variance: s^2. num_pulled: n.

    Given x = tau x_0 + (1 - tau) noise, a Gaussian x_0 of variance s^2 keeps the variance r^2 = (1 - tau)^2 s^2 /
    (tau^2 s^2 + (1 - tau)^2). A likelihood of variance r^2 adds (1 - tau)^2 / (tau r^2) times the gradient to the
    estimate of x_0: this gain with n = 1. n steps that are equal act as one step of variance n s^2.
    """
    tau = now.share
    return tau + (1 - tau) ** 2 / (tau * num_pulled * variance) if tau else math.inf


def _at_most(x: Any, bound: Any) -> Any:
    """The smaller of the two, for numbers and for tensors."""
    return min(x, bound) if isinstance(x, float | int) else x.clip(max=bound)


OVERSHOOT = 1.5
"""In one step along the gradient, x moves by at most this many times the error if all pulled steps move as one."""


def gradient_gain(now: NoiseLevel, then: NoiseLevel, *, std: Tensor, limit: Any, num_pulled: Tensor | float) -> Tensor:
    """The factor of the gradient of the error: `published_gain` for data of any variance, and a bound.

    The bound: if all pulled steps are equal, the pull moves x by at most `OVERSHOOT` times the error. Without it, a
    few denoising steps would go far beyond the plan.

    std: s (Da,) of the normalised data; 0, in a still dimension, counts as 1. num_pulled: n, the sum of the weights, at
    least 1. limit: see `published_gain`.
    """
    variance = std.where(std > 0, 1.0) ** 2
    bound = OVERSHOOT * error_gain(now, then) * posterior_gain(now, variance, num_pulled)
    return _at_most(published_gain(now, limit=limit, variance=variance), bound)
