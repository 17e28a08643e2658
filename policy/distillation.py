"""Progressive distillation: a policy learns to reach in one step what its teacher reaches in several.

A step is linear in x_0 (`denoising.sampling.step`). A network that answers a step with the x_0 that makes it land where
several of the teacher's steps land needs no other sampler than DDIM, and no other network.

Shapes: R rows, which are K B; L rows of size Dz of x_0, which is denoised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .denoising.levels import spaced
from .denoising.sampling import Sampler, ddim
from .diffusion import DiffusionPolicy
from .objective import Denoising, levels_at

if TYPE_CHECKING:
    from .denoising.interface import NoiseSchedule
    from .denoising.prediction import Prediction
    from .interface import Denoised, Lesson


@dataclass(frozen=True)
class Progressive(Denoising):
    """A step lands where several of the teacher's do; where two do, as published (Salimans & Ho 2022, algorithm 2).

    DDIM samples the teacher, whatever its own sampler is.
    """

    num_steps: int
    """Steps of the policy from noise to clean data."""
    teacher_steps: int
    """Steps of the teacher from noise to clean data, a multiple of `num_steps`."""
    has_teacher = True

    def check(self, schedule: NoiseSchedule, prediction: Prediction, sampler: Sampler) -> None:
        """Raise ValueError as `Denoising` does, and unless the sampler takes the steps that are learned, and no others.

        Other solvers correct estimates of x_0, but what the network answers is where its step leads.
        """
        super().check(schedule, prediction, sampler)
        is_ddim = getattr(sampler.solve, "func", None) is ddim and not sampler.num_draws and not sampler.keeps_epsilon
        if not is_ddim or sampler.levels != spaced(schedule.levels, self.num_steps, "trailing"):
            raise ValueError(
                f"the policy learns the {self.num_steps} steps of sampler=ddim with eta=0, keeps_epsilon=false and "
                f"spacing=trailing, got another sampler, of {len(sampler.levels) - 1} steps: choose "
                f"sampler.num_steps={self.num_steps}, or train another policy with policy.objective.num_steps"
            )

    def check_teacher(self, policy: Any, teacher: Any) -> None:
        """Raise ValueError unless the teacher denoises the same chunks, and has learned its steps."""
        if not isinstance(teacher, DiffusionPolicy):
            raise ValueError(f"the teacher must be a DiffusionPolicy, got {type(teacher).__name__}: name another run")
        own, other = (torch.cat(list(made.learned.affine("action"))).cpu() for made in (policy, teacher))
        parts = {
            "noise schedule": (
                policy.schedule.levels == teacher.schedule.levels,
                "choose the policy/schedule of the teacher, which must be a diffusion policy",
            ),
            "horizons": (policy.horizons == teacher.horizons, "choose those of the teacher"),
            "representation": (policy.representation == teacher.representation, "choose that of the teacher"),
            "ranges of the actions": (
                torch.equal(own, other),
                "train on the teacher's dataset, with its held_out, split_seed and normalisation",
            ),
            "drop_context": (teacher.drop_context > 0 or not policy.drop_context, "choose policy.drop_context=0"),
        }
        for name, (is_same, remedy) in parts.items():
            if not is_same:
                raise ValueError(f"the teacher must have the {name} of the policy that learns from it: {remedy}")
        grid = Sampler(partial(ddim, eta=0.0), spaced(teacher.schedule.levels, self.teacher_steps, "trailing"))
        try:
            teacher.objective.check(teacher.schedule, teacher.prediction, grid)
        except ValueError as error:
            raise ValueError(f"policy.objective.teacher_steps={self.teacher_steps}: of the teacher, {error}") from None

    def loss(self, policy: Denoised, x_0: Tensor, conditioning: Tensor, lesson: Lesson) -> Tensor:
        """Weighted squared error of the network's output at each step, (R, L); see `Objective.loss`."""
        teacher: Any = lesson.teacher
        count, ratio = self.teacher_steps, self.teacher_steps // self.num_steps
        left = count - ratio * (lesson.uniform[..., 0].flatten() * self.num_steps).floor()
        levels = [levels_at(policy.schedule, grid_time(policy.schedule, left - i, count)) for i in range(ratio + 1)]
        now, then = levels[0], levels[-1]
        x_t = now.alpha * x_0 + now.sigma * lesson.noise.flatten(0, 1)
        with torch.no_grad():
            denoise = teacher.by_row(teacher.conditioning(lesson, drop_context=policy.drop_context))
            towards = implied(x_t, ddim(denoise, x_t[None], levels, eta=0.0), now=now, then=then)
        epsilon = (x_t - now.alpha * towards) / now.sigma
        target = policy.prediction.target(towards, epsilon, now.alpha, now.sigma)
        return self.error(policy, x_t, conditioning, now=now, then=then, target=target)


def implied(x_t: Tensor, landed: Tensor, *, now: Any, then: Any) -> Tensor:
    """The x_0 of the step from x_t that lands at `landed`: the inverse of `denoising.sampling.step`."""
    kept = now.alpha * then.sigma / (then.alpha * now.sigma)
    return (landed - then.sigma / now.sigma * x_t) / (then.alpha * (1 - kept))


def grid_time(schedule: NoiseSchedule, left: Tensor, count: int) -> Tensor:
    """The times (R,) at which some of `count` steps with trailing spacing are left; see `levels.trailing`."""
    return (left * (len(schedule.levels) - 1) / count).round().long() - 1
