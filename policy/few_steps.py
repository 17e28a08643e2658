"""Objectives of policies that sample in few steps: their networks learn where whole steps land.

A step is linear in x_0 (`denoising.sampling.step`). A network that answers every step with the x_0 that makes it land
where many small steps would is a flow map, and DDIM runs it as it runs a denoiser.

Shapes: R rows, which are K B; L rows of size Dz of x_0, which is denoised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .denoising.levels import spaced
from .denoising.sampling import Sampler, ddim, step
from .diffusion import DiffusionPolicy
from .objective import Denoising, levels_at

if TYPE_CHECKING:
    from .denoising.interface import NoiseSchedule
    from .denoising.prediction import Prediction
    from .interface import Denoised, Lesson

PLAIN = 0.5
"""Share of the rows in which a shortcut model learns plain denoising, a step of no length."""


@dataclass(frozen=True)
class WholeSteps(Denoising):
    """What the objectives share whose networks learn where steps land."""

    num_steps: int
    """Most steps that the policy takes."""

    @property
    def counts(self) -> list[int]:
        """The numbers of steps that are learned."""
        return [self.num_steps]

    def check(self, schedule: NoiseSchedule, prediction: Prediction, sampler: Sampler) -> None:
        """Raise ValueError as `Denoising` does, and unless the sampler goes along learned steps, and nowhere else."""
        super().check(schedule, prediction, sampler)
        if getattr(sampler.solve, "func", None) is not ddim or sampler.num_draws or sampler.keeps_epsilon:
            raise ValueError(
                "the policy has learned where its steps lead, and only one sampler goes there: choose sampler=ddim "
                "with eta=0 and keeps_epsilon=false"
            )
        if sampler.levels not in [spaced(schedule.levels, count, "trailing") for count in self.counts]:
            raise ValueError(
                f"the policy has learned to sample in {', '.join(map(str, self.counts))} steps with spacing=trailing, "
                f"got {len(sampler.levels) - 1}: choose sampler.num_steps={self.counts[0]}, or train for others with "
                "policy.objective.num_steps"
            )

    def landing(
        self, policy: Denoised, x_t: Tensor, conditioning: Tensor, *, now: Any, then: Any, x_0: Tensor
    ) -> Tensor:
        """The `error` of a step that lands where a step towards `x_0` (R, L, Dz) does."""
        epsilon = (x_t - now.alpha * x_0) / now.sigma
        target = policy.prediction.target(x_0, epsilon, now.alpha, now.sigma)
        return self.error(policy, x_t, conditioning, now=now, then=then, target=target)


@dataclass(frozen=True)
class Shortcut(WholeSteps):
    """One network for 1, 2, 4, ... steps: a step lands where two of half its length do (Frans et al. 2024, section 3).

    The halves of the shortest steps are plain denoising, which half of the rows learn.
    """

    num_uniforms = 4
    knows_ends = True

    @property
    def counts(self) -> list[int]:
        """The powers of 2 up to `num_steps`, which is one."""
        return [2**power for power in range(self.num_steps.bit_length())]

    def loss(self, policy: Denoised, x_0: Tensor, conditioning: Tensor, lesson: Lesson) -> Tensor:
        """Weighted squared error of the network's output at each step, (R, L)."""
        level, power, place, share = lesson.uniform[..., :4].flatten(0, 1).unbind(dim=-1)
        count = 2.0 ** (power * len(self.counts)).floor()
        left, is_plain = count - (place * count).floor(), share < PLAIN

        def after(halves: int) -> Any:
            time = grid_time(policy.schedule, 2 * left - halves, 2 * count)
            return levels_at(policy.schedule, torch.where(is_plain, policy.schedule.time(level), time))

        now, middle, then = after(0), after(1), after(2)
        x_t = now.alpha * x_0 + now.sigma * lesson.noise.flatten(0, 1)
        is_shortest = count == self.num_steps
        with torch.no_grad():
            denoise, x = policy.by_row(conditioning), x_t
            for first, second in ((now, middle), (middle, then)):
                end = second._replace(time=torch.where(is_shortest, first.time, second.time))
                x = step(x, denoise(x, first, end), now=first, then=second)
            towards = torch.where(is_plain[:, None, None], x_0, implied(x_t, x, now=now, then=then))
        return self.landing(policy, x_t, conditioning, now=now, then=then, x_0=towards)


@dataclass(frozen=True)
class Progressive(WholeSteps):
    """A step lands where several of the teacher's do; where two do, as published (Salimans & Ho 2022, algorithm 2).

    DDIM samples the teacher, whatever its own sampler is.
    """

    teacher_steps: int
    """Steps of the teacher from noise to clean data, a multiple of `num_steps`."""
    has_teacher = True

    def check_teacher(self, policy: Any, teacher: Any) -> None:
        """Raise ValueError unless the teacher denoises the same chunks, and has learned its steps."""
        if not isinstance(teacher, DiffusionPolicy):
            raise ValueError(f"the teacher must be a DiffusionPolicy, got {type(teacher).__name__}: name another run")
        own, other = (torch.cat(list(made.normalizer.affine("action"))).cpu() for made in (policy, teacher))
        parts = {
            "noise schedule": (
                policy.schedule.levels == teacher.schedule.levels,
                "choose the policy/schedule of the teacher, which must be a diffusion policy",
            ),
            "horizons": (policy.horizons == teacher.horizons, "choose those of the teacher"),
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
        """Weighted squared error of the network's output at each step, (R, L)."""
        teacher: Any = lesson.teacher
        count, ratio = self.teacher_steps, self.teacher_steps // self.num_steps
        left = count - ratio * (lesson.uniform[..., 0].flatten() * self.num_steps).floor()
        levels = [levels_at(policy.schedule, grid_time(policy.schedule, left - i, count)) for i in range(ratio + 1)]
        now, then = levels[0], levels[-1]
        x_t = now.alpha * x_0 + now.sigma * lesson.noise.flatten(0, 1)
        with torch.no_grad():
            denoise = teacher.by_row(teacher.conditioning(lesson, drop_context=policy.drop_context))
            towards = implied(x_t, ddim(denoise, x_t[None], levels, eta=0.0), now=now, then=then)
        return self.landing(policy, x_t, conditioning, now=now, then=then, x_0=towards)


def implied(x_t: Tensor, landed: Tensor, *, now: Any, then: Any) -> Tensor:
    """The x_0 of the step from x_t that lands at `landed`: the inverse of `denoising.sampling.step`."""
    kept = now.alpha * then.sigma / (then.alpha * now.sigma)
    return (landed - then.sigma / now.sigma * x_t) / (then.alpha * (1 - kept))


def grid_time(schedule: NoiseSchedule, left: Tensor, count: Any) -> Tensor:
    """The times (R,) at which some of `count` steps with trailing spacing are left; see `levels.trailing`."""
    return (left * (len(schedule.levels) - 1) / count).round().long() - 1
