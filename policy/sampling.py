"""Samplers: plain functions (denoise, noise, levels) -> x_0, all built on one step rule.

Ours are written with operators alone, so that they take arrays of numpy as well: an exported policy denoises by the
very same functions, and this module loads without torch.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..specification import nearest
from .levels import Levels, NoiseLevel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .interface import Denoiser, NoiseSchedule, Solver
    from .schedule import DiscreteSchedule


@dataclass(frozen=True)
class Sampler:
    """A solver, and the noise levels that it visits.

    levels: N + 1 of them, from noise to clean data. num_draws: fresh noises that the solver adds on the way, 0 if it is
    deterministic. keeps_epsilon: after an estimate of x_0 was clipped, a step keeps the epsilon of the unclipped one,
    as diffusers does unless `use_clipped_model_output` is set. runs_on_arrays: whether the solver takes numpy too.
    """

    solve: Solver
    levels: tuple[NoiseLevel, ...]
    num_draws: int = 0
    keeps_epsilon: bool = False
    runs_on_arrays: bool = True


def transition(
    x_t: Tensor, x_0: Tensor, *, now: NoiseLevel, then: NoiseLevel, eta: float = 0.0
) -> tuple[Tensor, float]:
    """Mean and standard deviation of the next, less noisy x, given x_t and an estimate of x_0.

    It keeps the direction of the noise, or draws part of it afresh: eta = 0 is DDIM and Euler, with a standard
    deviation of 0; eta = 1 is the ancestral step of DDPM (Song et al. 2021, eq. 12 and 16).
    """
    kept = now.alpha * then.sigma / (then.alpha * now.sigma)  # ratio of the two noise-to-signal ratios
    redrawn = eta**2 * (1 - kept**2)  # share of the noise variance drawn afresh
    direct = (1 - redrawn) ** 0.5
    # then.alpha x_0 + then.sigma direct epsilon, without the large terms that cancel in it if x_0 is far out of range
    mean = then.sigma / now.sigma * direct * x_t + then.alpha * (1 - kept * direct) * x_0
    return mean, then.sigma * redrawn**0.5


def step(x_t: Tensor, x_0: Tensor, *, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """The deterministic step from x_t to the next, less noisy x."""
    return transition(x_t, x_0, now=now, then=then)[0]


def keeping_epsilon(raw: Tensor, x_0: Tensor, *, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """The x_0 with which a deterministic step keeps the epsilon of `raw` but ends at the clipped estimate `x_0`.

    A step is linear in x_0, so that rule of diffusers is an estimate of its own; of no step, it is the clipped one.
    """
    kept = now.alpha * then.sigma / (then.alpha * now.sigma)
    return x_0 if then == now else x_0 + kept / (1 - kept) * (x_0 - raw)


def ddim(denoise: Denoiser, noise: Tensor, levels: Levels, /, *, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021): deterministic if eta is 0; otherwise stochastic and fed by noise[1:].

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
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x_0 is extrapolated from its last two estimates.

    Second order in the logarithm of the signal-to-noise ratio, with one evaluation a step. The first step and the last,
    which ends at clean data, have nothing to extrapolate over.
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

    Second order from noise to data, with two evaluations a step and one in the last (as Karras et al. 2022, algorithm
    1, who average epsilon, which no estimate determines at pure noise). Divided by alpha + sigma, a sample of any
    schedule is one of a flow in the time `NoiseLevel.share`, with the velocity (x_0 - x) / (1 - share).
    """
    x = noise[0]
    for now, then in pairwise(levels):
        x_0 = denoise(x, now, then)
        if then.sigma > 0:
            ahead = step(x, x_0, now=now, then=then)
            velocity = (denoise(ahead, then, then) - ahead / (then.alpha + then.sigma)) / (1 - then.share)
            from_end = x / (now.alpha + now.sigma) + (1 - now.share) * velocity
            x_0 = (x_0 + from_end) / 2
        x = step(x, x_0, now=now, then=then)
    return x


def from_diffusers(name: str, schedule: NoiseSchedule, num_steps: int, **options: Any) -> Sampler:
    """Any scheduler of diffusers by its class name, with its own spacing of the times and its own step rule.

    Only schedules with betas serve it. A stochastic scheduler draws from one generator a row, seeded from that row's
    noise, so that a row does not depend on the others. `options` go to the scheduler.

    Raises ValueError for a class or an option that does not exist, and for a scheduler that takes no betas.
    """
    from .schedule import DiscreteSchedule

    scheduler_class = _scheduler_class(name)
    known = set(inspect.signature(scheduler_class).parameters)
    if not {"trained_betas", "prediction_type"} <= known:
        raise ValueError(f"a sampler must be a scheduler of diffusers that takes betas, {name} does not: use ddim")
    free = known - {"num_train_timesteps", "trained_betas", "prediction_type"}  # these are given below
    for option in options:
        if option not in free:
            raise ValueError(f"{name} has no option {option!r}: {nearest(option, free)}")
    if not (isinstance(schedule, DiscreteSchedule) and schedule.preserves_variance):
        raise ValueError(f"{name} needs a noise schedule that is made of betas: use ddim, or schedule=cosine")
    if "clip_sample" in known:
        options = {"clip_sample": False} | options  # the denoiser has clipped already

    def make() -> Any:
        with warnings.catch_warnings():  # of numpy, about how diffusers turns tensors into arrays
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            scheduler = scheduler_class(  # our denoisers answer with x_0
                schedule.num_times, trained_betas=_betas(schedule), prediction_type="sample", **options
            )
            scheduler.set_timesteps(num_steps)
        return scheduler

    times = sorted({round(t) for t in make().timesteps.tolist()}, reverse=True)
    levels = (*(schedule.levels[t + 1] for t in times), schedule.levels[0])

    def solve(denoise: Denoiser, noise: Tensor, given: Levels, /) -> Tensor:
        if tuple(given) != levels:
            raise ValueError(f"{name} begins with noise alone: use a sampler of recede for a warm start")
        scheduler = make()
        x = noise[0] * scheduler.init_noise_sigma
        extra = _row_generators(scheduler.step, noise)
        visited = [schedule.levels[round(t) + 1] for t in scheduler.timesteps.tolist()] + [schedule.levels[0]]
        for t, now, then in zip(scheduler.timesteps, visited[:-1], visited[1:], strict=True):
            x_0 = denoise(scheduler.scale_model_input(x, t), now, then)
            x = scheduler.step(x_0, t, x, **extra).prev_sample
        return x

    return Sampler(solve, levels, runs_on_arrays=False)


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
