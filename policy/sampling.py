"""Samplers: plain functions (denoise, noise, schedule, times) -> x_0, all built on one step rule.

Ours are written with operators alone, so that they take arrays of numpy as well: an exported policy denoises by the
very same functions, and this module loads without torch.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..specification import nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .interface import Denoiser, NoiseSchedule, Sampler
    from .schedule import DiscreteSchedule


def step(
    x_t: Tensor,
    x_0: Tensor,
    noise: Tensor | None,
    *,
    now: tuple[float, float],
    then: tuple[float, float],
    eta: float = 0.0,
) -> Tensor:
    """From x_t to the next, less noisy x: keep the direction of the noise, or draw part of it afresh.

    now, then: (alpha, sigma) before and after the step. eta = 0 is DDIM and Euler; eta = 1 is the ancestral step of
    DDPM (Song et al. 2021, eq. 12 and 16, with epsilon taken from x_0 as given, after any clipping of it).
    """
    (alpha, sigma), (next_alpha, next_sigma) = now, then
    epsilon = (x_t - alpha * x_0) / sigma
    if eta == 0.0 or noise is None:
        return next_alpha * x_0 + next_sigma * epsilon
    kept = (alpha * next_sigma) / (next_alpha * sigma)  # ratio of the two noise-to-signal ratios
    redrawn = eta**2 * (1 - kept**2)  # share of the noise variance drawn afresh
    return next_alpha * x_0 + next_sigma * ((1 - redrawn) ** 0.5 * epsilon + redrawn**0.5 * noise)


def ddim(
    denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Sequence[float], /, *, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al. 2021): deterministic where eta is 0; stochastic and fed by noise[1:] otherwise.

    For a rectified flow this is the Euler method.
    """
    x = noise[0]
    for index, (t, then) in enumerate(pairwise(times)):
        drawn = noise[index + 1] if eta else None
        x = step(x, denoise(x, t), drawn, now=schedule.at(t), then=schedule.at(then), eta=eta)
    return x


def ddpm(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Sequence[float], /) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, with the smaller of the two posterior variances)."""
    return ddim(denoise, noise, schedule, times, eta=1.0)


def dpm_solver_2m(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Sequence[float], /) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x_0 is extrapolated from its last two estimates.

    Second order in the logarithm of the signal-to-noise ratio, with one evaluation a step. The first step and the last,
    which ends at clean data, have nothing to extrapolate over.
    """
    x, last, last_span = noise[0], None, math.inf
    for t, then in pairwise(times):
        now, after = schedule.at(t), schedule.at(then)
        x_0, span = denoise(x, t), _log_ratio(after) - _log_ratio(now)
        ahead = x_0 if last is None or after[1] == 0 else x_0 + (x_0 - last) * (span / (2 * last_span))
        x = step(x, ahead, None, now=now, then=after)
        last, last_span = x_0, span
    return x


def _log_ratio(level: tuple[float, float]) -> float:
    """Logarithm of the signal-to-noise ratio alpha / sigma, infinite at both ends."""
    alpha, sigma = level
    return math.log(alpha / sigma) if alpha and sigma else math.copysign(math.inf, alpha - sigma)


def heun(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Sequence[float], /) -> Tensor:
    """Heun's method on x_0: a step, and the step again with the mean of the estimates at its two ends.

    Second order, with two evaluations a step, one in the last (as in Karras et al. 2022, algorithm 1, which averages
    epsilon instead and so cannot start where there is no signal at all).
    """
    x = noise[0]
    for t, then in pairwise(times):
        now, after = schedule.at(t), schedule.at(then)
        x_0 = denoise(x, t)
        if after[1] > 0:
            x_0 = (x_0 + denoise(step(x, x_0, None, now=now, then=after), then)) / 2
        x = step(x, x_0, None, now=now, then=after)
    return x


def from_diffusers(name: str, **options: Any) -> Sampler:
    """Any scheduler of diffusers by its class name, with its own spacing of the times and its own step rule.

    Only schedules with betas serve it. A stochastic scheduler draws from one generator a row, seeded from that row's
    noise, so that a row does not depend on the others. `options` go to the scheduler.

    Raises ValueError for a class or an option that there is not, and for schedulers that take no betas.
    """
    scheduler_class = _scheduler_class(name)
    known = set(inspect.signature(scheduler_class).parameters)
    if not {"trained_betas", "prediction_type"} <= known:
        raise ValueError(f"a sampler must be a scheduler of diffusers that takes betas, {name} does not: use ddim")
    free = known - {"num_train_timesteps", "trained_betas", "prediction_type"}  # these are given below
    for option in options:
        if option not in free:
            raise ValueError(f"{name} has no option {option!r}: {nearest(option, free)}")
    if "clip_sample" in known:
        options = {"clip_sample": False} | options  # the denoiser has clipped already
    from .schedule import DiscreteSchedule

    def sample(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Sequence[float], /) -> Tensor:
        if not (isinstance(schedule, DiscreteSchedule) and schedule.preserves_variance):
            raise ValueError(f"{name} needs a noise schedule that is made of betas: use ddim, or schedule=cosine")
        if list(times) != list(schedule.spacing(len(times) - 1)):
            raise ValueError(f"{name} spaces its times itself and begins with noise alone: use a sampler of recede")
        with warnings.catch_warnings():  # of numpy, about how diffusers turns tensors into arrays
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            scheduler = scheduler_class(  # our denoisers answer with x_0
                schedule.num_times, trained_betas=_betas(schedule), prediction_type="sample", **options
            )
            scheduler.set_timesteps(len(times) - 1, device=noise.device)
            x = noise[0] * scheduler.init_noise_sigma
            extra = _row_generators(scheduler.step, noise)
            for t in scheduler.timesteps:
                x_0 = denoise(scheduler.scale_model_input(x, t), round(t.item()))
                x = scheduler.step(x_0, t, x, **extra).prev_sample
            return x

    return sample


def _scheduler_class(name: str) -> Any:
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        known = [known for known in dir(diffusers) if known.endswith("Scheduler")]
        raise ValueError(f"a sampler must be a scheduler of diffusers, got {name!r}: {nearest(name, known)}")
    return found


def _betas(schedule: DiscreteSchedule) -> Any:
    signal = schedule.alpha.double() ** 2
    return (1 - signal[1:] / signal[:-1]).cpu().numpy()


def _row_generators(scheduler_step: Callable[..., Any], noise: Tensor) -> dict[str, list[torch.Generator]]:
    if "generator" not in inspect.signature(scheduler_step).parameters:
        return {}
    import torch

    seeds = noise[0].flatten(1)[:, 0].double().view(torch.int64).tolist()
    return {"generator": [torch.Generator(noise.device).manual_seed(seed) for seed in seeds]}
