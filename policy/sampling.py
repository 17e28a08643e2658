"""Samplers: plain functions (denoise, noise, schedule, times) -> x_0, all built on one step rule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..specification import nearest
from .interface import Denoiser, NoiseSchedule, Sampler
from .schedule import DiscreteSchedule


def step(
    x_t: Tensor,
    x_0: Tensor,
    noise: Tensor | None,
    *,
    now: tuple[Tensor, Tensor],
    then: tuple[Tensor, Tensor],
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
    return next_alpha * x_0 + next_sigma * ((1 - redrawn).sqrt() * epsilon + redrawn.sqrt() * noise)


def ddim(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Tensor, /, *, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021): deterministic where eta is 0; stochastic and fed by noise[1:] otherwise.

    For a rectified flow this is the Euler method.
    """
    x, (alphas, sigmas) = noise[0], schedule(times)
    levels = list(zip(alphas.to(x), sigmas.to(x), strict=True))
    for index, (now, then) in enumerate(pairwise(levels)):
        x_0 = denoise(x, times[index].expand(len(x)))
        x = step(x, x_0, noise[index + 1] if eta else None, now=now, then=then, eta=eta)
    return x


def ddpm(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Tensor, /) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, with the smaller of the two posterior variances)."""
    return ddim(denoise, noise, schedule, times, eta=1.0)


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

    def sample(denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Tensor, /) -> Tensor:
        if not isinstance(schedule, DiscreteSchedule):
            raise ValueError(f"{name} needs a schedule of discrete times, got {type(schedule).__name__}: use ddim")
        with warnings.catch_warnings():  # of numpy, about how diffusers turns tensors into arrays
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            scheduler = scheduler_class(  # our denoisers answer with x_0
                schedule.num_times, trained_betas=_betas(schedule), prediction_type="sample", **options
            )
            scheduler.set_timesteps(len(times) - 1, device=noise.device)
            x = noise[0] * scheduler.init_noise_sigma
            extra = _row_generators(scheduler.step, noise)
            for t in scheduler.timesteps:
                x_0 = denoise(scheduler.scale_model_input(x, t), t.round().long().expand(len(x)))
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
    seeds = noise[0].flatten(1)[:, 0].double().view(torch.int64).tolist()
    return {"generator": [torch.Generator(noise.device).manual_seed(seed) for seed in seeds]}
