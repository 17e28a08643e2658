"""Samplers from the schedulers of diffusers.

Each scheduler is tried when its sampler is built: from exact denoisers it must sample two Gaussians correctly.
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

    The schedule must consist of betas, and the class must take betas and estimates of x_0. The scheduler is tried here
    on two Gaussians with known denoisers. A stochastic scheduler draws from one generator per row, seeded from the
    noise of that row, so rows do not depend on one another. If the scheduler asks for a time between two times of the
    schedule, the denoiser uses the nearer one. options: arguments of the scheduler class.

    Raises ValueError if the class or an option does not exist, or if the scheduler fails its trial.
    """
    scheduler_class = _scheduler_class(name)
    _check_options(scheduler_class, options)
    if not _has_betas(schedule):
        raise ValueError(f"{name} needs a noise schedule that is made of betas: use ddim, or schedule=cosine")
    check_num_steps(schedule.levels, num_steps)
    try:
        with warnings.catch_warnings():  # some classes mix tensors and numpy arrays in a way that numpy deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            sampler = _around(_scheduler(scheduler_class, schedule, num_steps, options), schedule)
            _check_gaussians(sampler)
    except Exception as error:  # a foreign class may raise anything; each error is a reason to refuse it
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        settings = f" with {options}" if options else ""
        raise ValueError(
            f"{name} cannot sample in {num_steps} steps{settings}: {reason}: change the options or the number of "
            "steps, or use a sampler of recede, such as dpm_solver_2m"
        ) from error
    return sampler


def _scheduler_class(name: str) -> Any:
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.import_utils import DummyObject

    scheduler_class = getattr(diffusers, name, None)
    if isinstance(scheduler_class, DummyObject):
        packages = [package for package in scheduler_class._backends or () if find_spec(package) is None]
        raise ValueError(f"{name} needs packages that are not installed: pip install {' '.join(packages)}")
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        names = [member for member in dir(diffusers) if member.endswith("Scheduler")]
        raise ValueError(f"a sampler must be a scheduler of diffusers, got {name!r}: {nearest(name, names)}")
    return scheduler_class


def _check_options(scheduler_class: Any, options: dict[str, Any]) -> None:
    parameters, name = set(inspect.signature(scheduler_class).parameters), scheduler_class.__name__
    if not {"trained_betas", "prediction_type"} <= parameters:
        raise ValueError(f"a sampler must be a scheduler of diffusers that takes betas, {name} does not: use ddim")
    free = parameters - {"num_train_timesteps", "trained_betas", "prediction_type"}  # the policy sets these
    for option in options:
        if option not in free:
            raise ValueError(f"{name} has no option {option!r}: {nearest(option, free)}")


def _has_betas(schedule: NoiseSchedule) -> bool:
    from .schedule import DiscreteSchedule

    return isinstance(schedule, DiscreteSchedule) and schedule.preserves_variance


def _scheduler(scheduler_class: Any, schedule: NoiseSchedule, num_steps: int, options: dict[str, Any]) -> Any:
    """The scheduler, ready for its first step. Raises ValueError if its noise levels differ from the schedule's."""
    import torch

    betas = [1 - (after.alpha / before.alpha) ** 2 for before, after in pairwise(schedule.levels)]
    if "clip_sample" in inspect.signature(scheduler_class).parameters:
        options = {"clip_sample": False} | options  # the denoiser clips
    scheduler = scheduler_class(len(betas), trained_betas=betas, prediction_type="sample", **options)
    signal = torch.tensor([alpha**2 for _, alpha, _ in schedule.levels[1:]])
    if not torch.allclose(scheduler.alphas_cumprod.to(signal), signal, rtol=1e-3, atol=1e-5):
        raise ValueError("it changes the noise levels that the policy was trained at")
    scheduler.set_timesteps(num_steps)
    return scheduler


def _around(prepared: Any, schedule: NoiseSchedule) -> Sampler:
    """A sampler that copies the prepared scheduler for each chunk and takes its steps."""
    times = sorted({round(t) for t in prepared.timesteps.tolist()}, reverse=True)
    levels = (*(schedule.levels[t + 1] for t in times), schedule.levels[0])
    order = [schedule.levels[round(t) + 1] for t in prepared.timesteps.tolist()]
    visited = tuple(pairwise([*order, schedule.levels[0]]))

    def solve(denoise: Denoiser, noise: Tensor, remaining: Levels, /) -> Tensor:
        if tuple(remaining) != levels:
            name = type(prepared).__name__
            raise ValueError(f"{name} can only start from pure noise: use a sampler of recede for a warm start")
        scheduler = copy.deepcopy(prepared)
        x = noise[0] * scheduler.init_noise_sigma
        extra = _row_generators(scheduler.step, noise)
        for t, (now, then) in zip(scheduler.timesteps, visited, strict=True):
            x_0 = denoise(scheduler.scale_model_input(x, t), now, then)
            x = scheduler.step(x_0, t, x, **extra).prev_sample
        return x

    return Sampler(solve, levels, runs_on_arrays=False, visited=visited)


def _row_generators(scheduler_step: Callable[..., Any], noise: Tensor) -> dict[str, list[torch.Generator]]:
    """One generator per row, if a step of the scheduler takes generators. Its seed is a hash of all bits of the row."""
    if "generator" not in inspect.signature(scheduler_step).parameters:
        return {}
    import torch

    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8) for row in noise[0].float().cpu().numpy()]
    seeds = [int.from_bytes(hash.digest(), "little") for hash in hashes]
    return {"generator": [torch.Generator(noise.device).manual_seed(seed) for seed in seeds]}


def _check_gaussians(sampler: Sampler) -> None:
    """Raise ValueError unless samples of two Gaussians, from exact denoisers, have roughly their mean and spread.

    Few steps narrow the spread, so half of the spread of DDIM along the same levels is enough.
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
    for x, plain, expected in zip(
        samples, ddim(denoise, noise, sampler.levels, eta=0.0), std.flatten().tolist(), strict=True
    ):
        center, spread, least = x.mean().item(), x.std().item(), plain.std().item() / 2 - 0.02 * expected
        if not (abs(center - mean) < 0.2 * expected and least < spread < 1.25 * expected):
            raise ValueError(
                f"a Gaussian with mean {mean:.2g} and standard deviation {expected:.2g} comes out with mean "
                f"{center:.2g} and standard deviation {spread:.2g}"
            )
