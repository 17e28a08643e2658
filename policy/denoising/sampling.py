"""Samplers: plain functions (denoise, noise, levels) -> x_0, all built on one step rule.

They use operators only, so they take numpy arrays as well as tensors. Exported policies therefore denoise with the same
functions, and this module loads without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from .levels import Levels, NoiseLevel

if TYPE_CHECKING:
    from torch import Tensor

    from .interface import Denoiser, Solver


@dataclass(frozen=True)
class Sampler:
    """A solver, and the noise levels that it visits."""

    solve: Solver
    """The function that turns noise into a sample."""
    levels: tuple[NoiseLevel, ...]
    """N + 1 levels, from noise to clean data."""
    num_draws: int = 0
    """Number of draws of noise that the solver adds on the way, as many in every step; 0 if it is deterministic."""
    keeps_epsilon: bool = False
    """Whether steps keep the epsilon of the unclipped estimate, as diffusers without `use_clipped_model_output`."""
    runs_on_arrays: bool = True
    """Whether the solver takes numpy arrays as well as tensors."""
    visited: tuple[tuple[NoiseLevel, NoiseLevel], ...] = ()
    """The steps for which the solver asks the denoiser; empty for the steps along the levels."""

    @property
    def steps(self) -> list[tuple[tuple[NoiseLevel, NoiseLevel], ...]]:
        """The steps (now, then) that the solver may ask the denoiser for: along the levels, then those of no length."""
        if self.visited:
            return [self.visited]
        return [tuple(pairwise(self.levels)), tuple((level, level) for level in self.levels[:-1])]


def transition(x_t: Tensor, x_0: Tensor, *, now: NoiseLevel, then: NoiseLevel, eta: float) -> tuple[Tensor, float]:
    """Mean and standard deviation of the next, less noisy x, given x_t and an estimate of x_0.

    eta = 0 keeps the direction of the noise: the step of DDIM and of Euler, with a standard deviation of 0. A larger
    eta draws part of the noise afresh; eta = 1 is the ancestral step of DDPM (Song et al. 2021, eq. 12 and 16).
    """
    kept = now.alpha * then.sigma / (then.alpha * now.sigma)  # ratio of the two noise-to-signal ratios
    redrawn = eta**2 * (1 - kept**2)  # share of the noise variance drawn afresh
    direct = (1 - redrawn) ** 0.5
    # then.alpha x_0 + then.sigma direct epsilon, but without large terms that cancel if x_0 is far out of range
    mean = then.sigma / now.sigma * direct * x_t + then.alpha * (1 - kept * direct) * x_0
    return mean, then.sigma * redrawn**0.5


def step(x_t: Tensor, x_0: Tensor, *, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """The deterministic step from x_t to the next, less noisy x."""
    return transition(x_t, x_0, now=now, then=then, eta=0.0)[0]


def keeping_epsilon(raw: Tensor, x_0: Tensor, *, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """The x_0 with which a deterministic step keeps the epsilon of `raw` and the clipped estimate `x_0`.

    A step is linear in x_0, so this rule of diffusers is a step to another x_0. Without a step, it is the clipped one.
    """
    kept = now.alpha * then.sigma / (then.alpha * now.sigma)
    return x_0 if then == now else x_0 + kept / (1 - kept) * (x_0 - raw)


def score(x_t: Tensor, x_0: Tensor, level: NoiseLevel) -> Tensor:
    """The gradient of the logarithm of the density of x_t, by the denoiser's estimate of x_0 (Vincent 2011, eq. 4)."""
    return (level.alpha * x_0 - x_t) / level.sigma**2


def diffused(x_t: Tensor, x_0: Tensor, draw: Tensor, *, level: NoiseLevel, size: float) -> Tensor:
    """By how much a step of Langevin dynamics at a level moves x_t, with a fresh draw of noise (Song & Ermon 2019).

    The law of x_t stays as it is, up to errors of the order of `size`, the variance of the noise that is added.
    """
    return size / 2 * score(x_t, x_0, level) + size**0.5 * draw


def noised(x_t: Tensor, draw: Tensor, *, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """The x at the noisier level `then` that fresh noise makes of x_t."""
    scale = then.alpha / now.alpha
    return scale * x_t + (then.sigma**2 - (scale * now.sigma) ** 2) ** 0.5 * draw


def ddim(denoise: Denoiser, noise: Tensor, levels: Levels, /, *, eta: float) -> Tensor:
    """DDIM (Song et al. 2021): deterministic if eta is 0; otherwise stochastic, with the draws noise[1:].

    For a rectified flow this is the Euler method.
    """
    x = noise[0]
    for index, (now, then) in enumerate(pairwise(levels)):
        mean, std = transition(x, denoise(x, now, then), now=now, then=then, eta=eta)
        x = mean + std * noise[index + 1] if eta else mean
    return x


def ddpm(denoise: Denoiser, noise: Tensor, levels: Levels, /) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, with the smaller of the two posterior variances)."""
    return ddim(denoise, noise, levels, eta=1.0)


def dpm_solver_2m(denoise: Denoiser, noise: Tensor, levels: Levels, /) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): extrapolates x_0 from its last two estimates.

    Second order in the logarithm of the signal-to-noise ratio, with one evaluation per step. The first step has no
    earlier estimate, and the last step ends at clean data, an infinite logarithm: neither extrapolates.
    """
    x, last, last_span = noise[0], None, math.inf
    for now, then in pairwise(levels):
        x_0, span = denoise(x, now, then), then.log_snr - now.log_snr
        ahead = x_0 if last is None or then.sigma == 0 else x_0 + (x_0 - last) * (span / (2 * last_span))
        x = step(x, ahead, now=now, then=then)
        last, last_span = x_0, span
    return x


def heun(denoise: Denoiser, noise: Tensor, levels: Levels, /) -> Tensor:
    """Heun's method on the velocity of a flow: the mean of the velocities at the two ends of a step.

    Second order from noise to data, with two evaluations per step and one in the last step. Karras et al. 2022
    (algorithm 1) average epsilon instead, which no estimate determines at pure noise. Divided by alpha + sigma, a
    sample of any schedule is a sample of a flow in the time `NoiseLevel.share`, with velocity (x_0 - x) / (1 - share).
    """
    x = noise[0]
    for now, then in pairwise(levels):
        x = _heun_step(denoise, x, now, then)
    return x


def _heun_step(denoise: Denoiser, x: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    x_0 = denoise(x, now, then)
    if then.sigma > 0:
        ahead = step(x, x_0, now=now, then=then)
        velocity = (denoise(ahead, then, then) - ahead / (then.alpha + then.sigma)) / (1 - then.share)
        from_end = x / (now.alpha + now.sigma) + (1 - now.share) * velocity
        x_0 = (x_0 + from_end) / 2
    return step(x, x_0, now=now, then=then)


def karras(denoise: Denoiser, noise: Tensor, levels: Levels, /) -> Tensor:
    """The stochastic sampler of EDM (Karras et al. 2022, algorithm 2), with the step of `heun`.

    levels: as `levels.churned` makes them: where the next level is noisier, fresh noise is added, and otherwise a step
    of `heun` removes noise. There is a draw for every step, of which only the steps to noisier levels use theirs.
    """
    x = noise[0]
    for index, (now, then) in enumerate(pairwise(levels)):
        is_raised = then.log_snr < now.log_snr
        x = noised(x, noise[index + 1], now=now, then=then) if is_raised else _heun_step(denoise, x, now, then)
    return x


def langevin(denoise: Denoiser, noise: Tensor, levels: Levels, /, *, corrections: int, size: float) -> Tensor:
    """Annealed Langevin dynamics (Song & Ermon 2019, algorithm 1), with a deterministic step from level to level.

    At each level, `corrections` steps of Langevin dynamics, with the draws noise[1:], bring x nearer to the law of that
    level (the correctors of Song et al. 2021). size: variance of the noise of one, in units of sigma^2.
    """
    x, draws = noise[0], iter(noise[1:])
    for now, then in pairwise(levels):
        for _ in range(corrections):
            x = x + diffused(x, denoise(x, now, now), next(draws), level=now, size=size * now.sigma**2)
        x = step(x, denoise(x, now, then), now=now, then=then)
    return x


def euler_maruyama(denoise: Denoiser, noise: Tensor, levels: Levels, /, *, diffusion: float) -> Tensor:
    """The Euler-Maruyama method on the reverse stochastic differential equation of a flow (Song et al. 2021, eq. 6).

    In the time of a flow, tau = `NoiseLevel.share`, dx = (velocity + w / 2 score) dtau + sqrt(w) dW has the law of the
    flow at every tau, whatever w is (Ma et al. 2024, eq. 6). w = 2 diffusion (1 - tau) is finite at pure noise. It is
    of first order in law. The last step adds no noise.
    """
    x = noise[0]
    for index, (now, then) in enumerate(pairwise(levels)):
        x_0, (scale, scale_then) = denoise(x, now, then), (level.alpha + level.sigma for level in (now, then))
        ahead = step(x, x_0, now=now, then=then)
        if then.sigma > 0:
            size = 2 * diffusion * (1 - now.share) * (then.share - now.share) * scale**2
            ahead = ahead + scale_then / scale * diffused(x, x_0, noise[index + 1], level=now, size=size)
        x = ahead
    return x
