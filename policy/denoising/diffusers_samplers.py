"""Schedulers of diffusers as samplers.

A scheduler is tried when its sampler is built: two Gaussians with known denoisers must come out.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...specification import nearest
from .levels import Levels, NoiseLevel, check_num_steps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .interface import Denoiser, NoiseSchedule
from .sampling import Sampler, ddim


def diffusers_sampler(name: str, schedule: NoiseSchedule, num_steps: int, **options: Any) -> Sampler:
    """A scheduler of diffusers by its class name, with its own spacing of the times and its own step rule.

    The schedule must be made of betas, and the class must take betas and estimates of x_0. It is tried here: two
    Gaussians, whose denoisers are known, must come out roughly as they are. A stochastic scheduler draws from one
    generator a row, seeded from that row's noise, so that a row does not depend on the others. Between two times of the
    schedule, the denoiser is asked at the nearer one. `options` go to the scheduler.

    Raises ValueError for a class or an option that does not exist, and for a class that cannot serve.
    """
    scheduler_class = _scheduler_class(name)
    _check_options(scheduler_class, options)
    if not _has_betas(schedule):
        raise ValueError(f"{name} needs a noise schedule that is made of betas: use ddim, or schedule=cosine")
    check_num_steps(schedule.levels, num_steps)
    try:
        with warnings.catch_warnings():  # some classes mix tensors with arrays of numpy in a way that numpy deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            sampler = _around(_scheduler(scheduler_class, schedule, num_steps, options), schedule)
            _check_gaussians(sampler)
    except Exception as error:  # whatever a class that is not ours raises is a reason to refuse it
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        given = f" with {options}" if options else ""
        raise ValueError(
            f"{name} cannot sample in {num_steps} steps{given}: {reason}: change the options or the number of steps, "
            "or use a sampler of recede, such as dpm_solver_2m"
        ) from error
    return sampler


def _scheduler_class(name: str) -> Any:
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.import_utils import DummyObject

    found = getattr(diffusers, name, None)
    if isinstance(found, DummyObject):
        packages = [package for package in found._backends or () if find_spec(package) is None]
        raise ValueError(f"{name} needs packages that are not installed: pip install {' '.join(packages)}")
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        known = [known for known in dir(diffusers) if known.endswith("Scheduler")]
        raise ValueError(f"a sampler must be a scheduler of diffusers, got {name!r}: {nearest(name, known)}")
    return found


def _check_options(scheduler_class: Any, options: dict[str, Any]) -> None:
    known, name = set(inspect.signature(scheduler_class).parameters), scheduler_class.__name__
    if not {"trained_betas", "prediction_type"} <= known:
        raise ValueError(f"a sampler must be a scheduler of diffusers that takes betas, {name} does not: use ddim")
    free = known - {"num_train_timesteps", "trained_betas", "prediction_type"}  # the policy gives these
    for option in options:
        if option not in free:
            raise ValueError(f"{name} has no option {option!r}: {nearest(option, free)}")


def _has_betas(schedule: NoiseSchedule) -> bool:
    from .schedule import DiscreteSchedule

    return isinstance(schedule, DiscreteSchedule) and schedule.preserves_variance


def _scheduler(scheduler_class: Any, schedule: NoiseSchedule, num_steps: int, options: dict[str, Any]) -> Any:
    """The scheduler, ready for its first step. Raises ValueError if its noise levels are not those of the schedule."""
    import torch

    betas = [1 - (after.alpha / before.alpha) ** 2 for before, after in pairwise(schedule.levels)]
    if "clip_sample" in inspect.signature(scheduler_class).parameters:
        options = {"clip_sample": False} | options  # the denoiser has clipped already
    scheduler = scheduler_class(len(betas), trained_betas=betas, prediction_type="sample", **options)
    signal = torch.tensor([alpha**2 for _, alpha, _ in schedule.levels[1:]])
    if not torch.allclose(scheduler.alphas_cumprod.to(signal), signal, rtol=1e-3, atol=1e-5):
        raise ValueError("it changes the noise levels that the policy was trained at")
    scheduler.set_timesteps(num_steps)
    return scheduler


def _around(prepared: Any, schedule: NoiseSchedule) -> Sampler:
    """A sampler that takes the steps of this scheduler, anew for each chunk."""
    times = sorted({round(t) for t in prepared.timesteps.tolist()}, reverse=True)
    levels = (*(schedule.levels[t + 1] for t in times), schedule.levels[0])
    order = [schedule.levels[round(t) + 1] for t in prepared.timesteps.tolist()]
    visited = tuple(pairwise([*order, schedule.levels[0]]))

    def solve(denoise: Denoiser, noise: Tensor, given: Levels, /) -> Tensor:
        if tuple(given) != levels:
            name = type(prepared).__name__
            raise ValueError(f"{name} begins with noise alone: use a sampler of recede for a warm start")
        scheduler = copy.deepcopy(prepared)
        x = noise[0] * scheduler.init_noise_sigma
        extra = _row_generators(scheduler.step, noise)
        for t, (now, then) in zip(scheduler.timesteps, visited, strict=True):
            x_0 = denoise(scheduler.scale_model_input(x, t), now, then)
            x = scheduler.step(x_0, t, x, **extra).prev_sample
        return x

    return Sampler(solve, levels, runs_on_arrays=False, visited=visited)


def _row_generators(scheduler_step: Callable[..., Any], noise: Tensor) -> dict[str, list[torch.Generator]]:
    """One generator a row, if a step of the scheduler takes generators; its seed is a hash of all bits of the row."""
    if "generator" not in inspect.signature(scheduler_step).parameters:
        return {}
    import torch

    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8) for row in noise[0].float().cpu().numpy()]
    seeds = [int.from_bytes(hash.digest(), "little") for hash in hashes]
    return {"generator": [torch.Generator(noise.device).manual_seed(seed) for seed in seeds]}


def _check_gaussians(sampler: Sampler) -> None:
    """Raise ValueError unless two Gaussians come out of their exact denoisers with roughly their mean and spread.

    Few steps narrow them, so the least spread is half of what DDIM leaves along the same levels.
    """
    import torch

    mean, std = 0.3, torch.tensor([[[0.2]], [[0.5]]], dtype=torch.float32)

    def denoise(x: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        gain = now.alpha * std**2 / (now.alpha**2 * std**2 + now.sigma**2)
        return mean + gain * (x - now.alpha * mean)

    quantiles = torch.special.ndtri((torch.arange(256, dtype=torch.float32) + 0.5) / 256)
    noise = quantiles[:, None].expand(1, 2, 256, 1)
    with torch.random.fork_rng(devices=[]):
        samples = sampler.solve(denoise, noise, sampler.levels)
    for x, plain, wanted in zip(
        samples, ddim(denoise, noise, sampler.levels, eta=0.0), std.flatten().tolist(), strict=True
    ):
        center, spread, least = x.mean().item(), x.std().item(), plain.std().item() / 2 - 0.02 * wanted
        if not (abs(center - mean) < 0.2 * wanted and least < spread < 1.25 * wanted):
            raise ValueError(
                f"a Gaussian with mean {mean:.2g} and standard deviation {wanted:.2g} comes out with mean {center:.2g} "
                f"and standard deviation {spread:.2g}"
            )
