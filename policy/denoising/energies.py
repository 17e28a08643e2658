"""Guidance by energies: a policy prefers chunks of low energy, as points, boxes, limits and paths ask for.

The guided chunks have the distribution of the policy's times exp(-energy). An energy is stated in the units of the
actions, with a width, as the negative logarithm of a normal density is. So its strength depends neither on the noise
schedule nor on the number of steps.

Energies take numpy arrays as well as tensors, except for `Function`. Shapes: B chunks of Tp actions of size Da; L rows
of size Dz of x_0, which is denoised.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .guidance import Guidance, Sampling, library, posterior
from .levels import NoiseLevel

Numbers = tuple[float, ...]
"""A number per dimension of the action."""
SomeNumbers = tuple[float | None, ...]
"""A number per dimension of the action. None leaves the dimension free."""


class Energy(Protocol):
    """What a chunk costs. Implementations can be hashed: they are part of the kind of a guidance."""

    @property
    def needs_gradient(self) -> bool:
        """Whether only PyTorch can compute its gradient."""
        ...

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless it suits chunks of shape (B, Tp, Da)."""
        ...

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """The gradient (B, Tp, Da) of the energy at chunks (B, Tp, Da). Both are in units, as is the observation."""
        ...


@dataclass(frozen=True)
class Energies(Guidance):
    """Prefer chunks of a low sum of energies: sample from the policy's distribution times exp(-sum).

    The estimate of x_0 given x_t is a mean m, and near it x_0 is about normal with a covariance V. Guided, it becomes
    the most likely x_0 there: the x that minimises |x - m|^2 / 2V + energy. For Gaussian data and quadratic energies
    this is the exact mean given both. It comes before a `Prefix`, which holds steps at the end.

    >>> Energies(())
    Traceback (most recent call last):
        ...
    ValueError: a guidance by energies needs one or more of them, got none
    """

    energies: tuple[Energy, ...]
    exact: bool = True
    """Whether V comes from the gradient of the network, V = sigma^2 / alpha dm / dx_t, Tweedie's formula of second
    order (Meng et al. 2021). Steps of a chunk then move together as in the data. It costs a backward pass per round. If
    not, V is that of independent numbers with the standard deviation of the data."""
    rounds: int = 4
    """Steps of conjugate gradients to the minimum, for each denoising step."""

    def __post_init__(self) -> None:
        if not self.energies:
            raise ValueError("a guidance by energies needs one or more of them, got none")
        if self.rounds < 1:
            raise ValueError(f"rounds must be 1 or more, got {self.rounds}")

    @property
    def needs_gradient(self) -> bool:
        """The exact covariance and the energies of some users need it."""
        return self.exact or any(energy.needs_gradient for energy in self.energies)

    @property
    def needs_mean(self) -> bool:
        """It weighs the mean of x_0 against its covariance."""
        return True

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless every energy suits the chunks."""
        for energy in self.energies:
            energy.check(shape)

    def denoiser(self, denoise: Any, sampling: Sampling) -> Any:
        """The guided denoiser. Its estimates are clipped."""
        estimate = _exact if self.exact else _independent

        def gradient(x_0: Any) -> Any:
            action = sampling.space.decode(x_0)
            total: Any = sum(energy.gradient(action, sampling.observation) for energy in self.energies)
            return sampling.space.pull(x_0, total)

        def guided(x_t: Any, now: NoiseLevel, then: NoiseLevel) -> Any:
            x_0, covariance = estimate(denoise, x_t, now, then, sampling.space.std)
            pulled = most_likely(x_0, covariance, gradient, rounds=self.rounds)
            return pulled.clip(-sampling.clip, sampling.clip)

        return guided


Linear = Callable[[Any], Any]
"""A symmetric linear map of x_0, (B, L, Dz) -> (B, L, Dz)."""


def _independent(denoise: Any, x_t: Any, now: NoiseLevel, then: NoiseLevel, std: Any) -> tuple[Any, Linear]:
    """The estimate of x_0, and its covariance if the numbers of x_0 are independent."""
    _, variance = posterior(now.alpha, now.sigma, std)
    return denoise(x_t, now, then), lambda x: variance * x


def _exact(denoise: Any, x_t: Any, now: NoiseLevel, then: NoiseLevel, std: Any) -> tuple[Any, Linear]:
    """The estimate of x_0, and its covariance as the denoiser implies it.

    Pure noise implies none, so there it is that of the next level.
    """
    import torch

    if not now.alpha:
        if not then.sigma:
            return _independent(denoise, x_t, now, then, std)
        return denoise(x_t, now, then), _exact(denoise, x_t, then, then, std)[1]
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x_0 = denoise(x_t, now, then)

    def covariance(x: Any) -> Any:
        (gradient,) = torch.autograd.grad(x_0, x_t, x, retain_graph=True)
        return now.sigma**2 / now.alpha * gradient

    return x_0.detach(), covariance


PROBE = 0.01
"""How far x_0 moves to measure a curvature, in normalised units: far enough for float32, and close for a limit."""


def most_likely(mean: Any, covariance: Linear, gradient: Linear, *, rounds: int) -> Any:
    """The x that minimises (x - mean) V^-1 (x - mean) / 2 + energy(x), all (B, L, Dz).

    Conjugate gradients (Polak and Ribiere 1969) with the preconditioner V, so nobody needs V^-1. If the energy has n
    different curvatures relative to V, n rounds reach the minimum; a linear energy needs one.
    """
    x, dual = mean, 0 * mean  # dual = V^-1 (x - mean)
    residual = -gradient(x)
    step, dual_step = covariance(residual), residual
    product = _dot(residual, step)
    for remaining in reversed(range(rounds)):
        length = _ratio(_dot(residual, step), _dot(dual_step, step) + _curvature(gradient, x, step))
        x, dual = x + length * step, dual + length * dual_step
        if not remaining:
            break
        before, last = residual, product
        residual = -(dual + gradient(x))
        steepest = covariance(residual)
        product = _dot(residual, steepest)
        kept = _ratio(product - _dot(before, steepest), last).clip(0)
        step, dual_step = steepest + kept * step, residual + kept * dual_step
    return x


def _curvature(gradient: Linear, x: Any, step: Any) -> Any:
    """The second derivative of the energy along a step, (B, 1, 1), at least 0."""
    probe = _ratio(PROBE, _dot(step, step) ** 0.5)
    change = gradient(x + probe * step) - gradient(x)
    return _ratio(_dot(change, step), probe).clip(0)


def _dot(x: Any, y: Any) -> Any:
    """The products of rows, (B, 1, 1)."""
    return (x * y).sum((1, 2), keepdims=True)


def _ratio(x: Any, y: Any) -> Any:
    """Divide x by y; 0 where y is not above 0, so that a row that has arrived stays."""
    return x / library(y).where(y > 0, y, math.inf)


@functools.lru_cache(maxsize=1000)
def _tensor(numbers: Any, dtype: Any, device: Any) -> Any:
    import torch

    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def constant(numbers: Any, like: Any) -> Any:
    """Nested tuples of numbers as an array of the library, type and device of `like`.

    Tensors are made once: a graph that is being captured cannot upload numbers.
    """
    if isinstance(like, np.ndarray):
        return np.asarray(numbers, like.dtype)
    return _tensor(numbers, like.dtype, like.device)


def _check_sizes(energy: Any, shape: tuple[int, ...], **numbers: Any) -> None:
    """Raise ValueError unless each has a number per dimension. shape: of the chunks."""
    for name, values in numbers.items():
        if len(values) != shape[-1]:
            raise ValueError(
                f"{name} of {type(energy).__name__} must have a number for each of the {shape[-1]} dimensions of the "
                f"action, got {list(values)}"
            )


@dataclass(frozen=True)
class _Energy:
    """What the energies of this module share."""

    width: Numbers
    """The standard deviation of a step about what is preferred, per dimension, in units."""

    def __post_init__(self) -> None:
        if not all(0 < width < math.inf for width in self.width):
            raise ValueError(f"every width of an energy must be above 0, got {list(self.width)}")

    @property
    def needs_gradient(self) -> bool:
        """Its own gradient is a formula."""
        return False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless it suits chunks of shape (B, Tp, Da)."""
        _check_sizes(self, shape, width=self.width)


@dataclass(frozen=True)
class Reach(_Energy):
    """Be at a point at one step."""

    point: SomeNumbers
    """(Da,), in units."""
    step: int
    """The step of the chunk."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the chunk has this step, in these dimensions."""
        _check_sizes(self, shape, width=self.width, point=self.point)
        if not 0 <= self.step < shape[1]:
            raise ValueError(f"the step of Reach must be one of the {shape[1]} steps of a chunk, got {self.step}")

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """The error of that step, divided by the squared width."""
        steps = constant(tuple((float(step == self.step),) for step in range(action.shape[1])), action)
        scale = constant(_scale(self.point, self.width), action)
        return steps * (action - constant(_filled(self.point), action)) * scale**2


@dataclass(frozen=True)
class KeepOut(_Energy):
    """Keep every step out of a box: the depth below its nearest face costs. Steps may be on either side of it."""

    low: SomeNumbers
    """(Da,), in units. None is unbounded."""
    high: SomeNumbers
    """(Da,), in units. None is unbounded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if all(bound is None for bound in (*self.low, *self.high)):
            raise ValueError("a box to keep out of must have a bound, got none: give it one")
        bounds = zip(_filled(self.low, -math.inf), _filled(self.high, math.inf), strict=False)
        if not all(low < high for low, high in bounds):
            raise ValueError(f"a box to keep out of must have low < high, got {list(self.low)}, {list(self.high)}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the box has these dimensions."""
        _check_sizes(self, shape, width=self.width, low=self.low, high=self.high)

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """Along the normal of the nearest face, the depth divided by the squared width."""
        low, high = constant(_filled(self.low, -math.inf), action), constant(_filled(self.high, math.inf), action)
        width, functions = constant(self.width, action), library(action)
        depths = functions.concat([(action - low) / width, (high - action) / width], -1)
        nearest = functions.amin(depths, -1)[..., None]
        pulls = functions.where((depths == nearest) & (nearest > 0), depths, 0)
        return (pulls[..., : len(self.low)] - pulls[..., len(self.low) :]) / width


@dataclass(frozen=True)
class HalfSpace(_Energy):
    """Keep every step on one side of a plane: normal . action <= offset."""

    normal: Numbers
    """(Da,)."""
    offset: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.normal):
            raise ValueError("the normal of a half-space must not be 0 everywhere")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the plane has these dimensions."""
        _check_sizes(self, shape, width=self.width, normal=self.normal)

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """Along the normal, the distance beyond the plane in widths."""
        length = math.hypot(*(part * width for part, width in zip(self.normal, self.width, strict=True)))
        normal = constant(tuple(part / length for part in self.normal), action)
        beyond = ((action * normal).sum(-1)[..., None] - self.offset / length).clip(0)
        return beyond * normal


@dataclass(frozen=True)
class RateLimit(_Energy):
    """Stay within a velocity, an acceleration or a higher rate of change. It costs nothing below it."""

    most: SomeNumbers
    """(Da,), the largest absolute value, in units per second^order."""
    control_dt: float
    """Seconds of a control step."""
    order: int = 1
    """1 limits the velocity, 2 the acceleration."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the limit has these dimensions, and the chunk enough steps."""
        _check_sizes(self, shape, width=self.width, most=self.most)
        if not 1 <= self.order < shape[1]:
            raise ValueError(f"the order of RateLimit must be between 1 and {shape[1] - 1}, got {self.order}")

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """The differences beyond what a control step allows, carried back to the steps they come from."""
        change, zero = action, 0 * action[:, :1]
        for _ in range(self.order):
            change = change[:, 1:] - change[:, :-1]
        most = constant(_filled(self.most, math.inf), action) * self.control_dt**self.order
        pull = (change - change.clip(-most, most)) / constant(self.width, action) ** 2
        for _ in range(self.order):
            padded = library(action).concat([zero, pull, zero], 1)
            pull = padded[:, :-1] - padded[:, 1:]
        return pull


@dataclass(frozen=True)
class Path(_Energy):
    """Follow a path: every step is near the nearest point of the line through these points, whenever it gets there."""

    points: tuple[SomeNumbers, ...]
    """(N, Da), in units. A dimension that is None in one point is None in all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.points) < 2:
            raise ValueError(f"a path must have two points or more, got {len(self.points)}")
        if len({tuple(value is None for value in point) for point in self.points}) > 1:
            raise ValueError("the points of a path must leave the same dimensions free")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the points have these dimensions."""
        _check_sizes(self, shape, width=self.width, **dict.fromkeys(["points"], self.points[0]))

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """From the nearest point of the path to the step, divided by the squared width."""
        scale = constant(_scale(self.points[0], self.width), action)
        points = constant(tuple(_filled(point) for point in self.points), action) * scale
        scaled, starts, along = (action * scale)[..., None, :], points[:-1], points[1:] - points[:-1]
        squared = (along * along).sum(-1) + 1e-12
        share = (((scaled - starts) * along).sum(-1) / squared).clip(0, 1)[..., None]
        away = scaled - starts - share * along
        distance = (away * away).sum(-1)
        is_nearest = distance == library(action).amin(distance, -1)[..., None]
        weight = is_nearest * constant(1.0, action)  # two segments are nearest where they meet
        return (weight[..., None] * away).sum(-2) / weight.sum(-1)[..., None] * scale


@dataclass(frozen=True)
class Near(_Energy):
    """Stay near another chunk."""

    chunk: tuple[Numbers, ...]
    """(Tp, Da), in units."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the chunks have the same shape."""
        _check_sizes(self, shape, width=self.width)
        if np.shape(self.chunk) != shape[1:]:
            raise ValueError(f"the chunk of Near must have the shape {shape[1:]}, got {np.shape(self.chunk)}")

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """The difference divided by the squared width."""
        return (action - constant(self.chunk, action)) / constant(self.width, action) ** 2


@dataclass(frozen=True)
class Function:
    """Any energy that PyTorch can differentiate."""

    energy: Callable[[Any, Mapping[str, Any]], Any]
    """Chunks (B, Tp, Da) and the observation of `Policy.predict`, in units -> the energy of each chunk, (B,)."""

    @property
    def needs_gradient(self) -> bool:
        """PyTorch computes it."""
        return True

    def check(self, shape: tuple[int, ...]) -> None:
        """The function may take any chunk."""

    def gradient(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """The gradient (B, Tp, Da). Raises ValueError if the function returns no finite number for each chunk."""
        import torch

        with torch.enable_grad():
            action = action.detach().requires_grad_()
            energy = self.energy(action, observation)
            name = getattr(self.energy, "__qualname__", repr(self.energy))
            if energy.shape != action.shape[:1]:
                raise ValueError(
                    f"energy {name} must return ({len(action)},), a number for each chunk, got {tuple(energy.shape)}"
                )
            (gradient,) = torch.autograd.grad(energy.sum(), action)
        if not bool(torch.isfinite(gradient).all() & torch.isfinite(energy).all()):
            raise ValueError(f"energy {name} must be finite and have a finite gradient, got {energy.tolist()}")
        return gradient


def _filled(numbers: SomeNumbers, value: float = 0.0) -> Numbers:
    """The numbers with `value` for None."""
    return tuple(value if number is None else number for number in numbers)


def _scale(numbers: SomeNumbers, width: Numbers) -> Numbers:
    """1 / width, and 0 in free dimensions."""
    return tuple(0.0 if number is None else 1 / own for number, own in zip(numbers, width, strict=True))
