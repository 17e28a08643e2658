"""What a network is trained to do: one class per choice. The other parts of a policy do not depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .denoising.levels import NoiseLevel

if TYPE_CHECKING:
    from .denoising.interface import NoiseSchedule, Weighting
    from .denoising.prediction import Prediction
    from .denoising.sampling import Sampler
    from .interface import Denoised, Lesson

MOST_WEIGHT = 1e6
"""Largest weight of the squared error of an output. With a larger weight, one noise level would dominate the loss."""


@dataclass(frozen=True)
class Denoising:
    """Predict x_0, the noise or a mixture of both at every noise level (Ho et al. 2020, algorithm 1)."""

    weighting: Weighting
    """How much each noise level counts in the loss; see `policy.denoising.weighting`."""
    num_uniforms = 1
    """One number per draw chooses the noise level."""
    has_teacher = False

    def check(self, schedule: NoiseSchedule, prediction: Prediction, sampler: Sampler) -> None:
        """Raise ValueError unless the prediction determines x_0 at all training times and no weight is too large."""
        t = schedule.time(torch.linspace(0, 1, 10_000)).unique()
        alpha, sigma = schedule(t)
        blind = t[torch.as_tensor(prediction.weight(alpha, sigma)).broadcast_to(t.shape) == 0].tolist()
        if blind:
            raise ValueError(
                f"the prediction must determine x_0 at every noise level, but at time {blind[0]} of this schedule it "
                "says nothing about x_0: choose another policy.prediction, such as sample or velocity"
            )
        largest = relative_weight(prediction, self.weighting, alpha, sigma).max().item()
        if not largest <= MOST_WEIGHT:
            raise ValueError(
                f"the weight of every noise level must be at most {MOST_WEIGHT:g} times the weight that the prediction "
                f"implies, got {largest:.3g}: choose policy/weighting=uniform or min_snr, or policy.prediction=v"
            )

    def check_teacher(self, policy: Denoised, teacher: Any) -> None:
        """Denoising has no teacher."""

    def loss(self, policy: Denoised, x_0: Tensor, conditioning: Tensor, lesson: Lesson) -> Tensor:
        """Weighted squared error of the network's output at each step, (K B, L); see `Objective.loss`."""
        now = levels_at(policy.schedule, policy.schedule.time(lesson.uniform[..., 0]).flatten())
        epsilon = policy.start(lesson.noise).flatten(0, 1)
        target = policy.prediction.target(x_0, epsilon, now.alpha, now.sigma)
        return self.error(policy, now.alpha * x_0 + now.sigma * epsilon, conditioning, now=now, then=now, target=target)

    def error(
        self, policy: Denoised, x_t: Tensor, conditioning: Tensor, *, now: Any, then: Any, target: Tensor
    ) -> Tensor:
        """Weighted squared error of the network's output, (K B, L), in steps from `now` to `then`.

        target: of the output. now, then: `levels_at` the times of each row.
        """
        network = policy.network
        output = network.denoise(x_t, network.embed(now.time, then.time), network.condition(conditioning))
        error = (output - target).square().mean(dim=-1)
        return error * relative_weight(policy.prediction, self.weighting, now.alpha[:, 0], now.sigma[:, 0])


def levels_at(schedule: NoiseSchedule, t: Tensor) -> Any:
    """The `NoiseLevel` of each row, at times (B,): alpha and sigma are (B, 1, 1)."""
    alpha, sigma = (coefficient[:, None, None] for coefficient in schedule(t))
    return NoiseLevel(t, alpha, sigma)  # type: ignore[arg-type]


def relative_weight(prediction: Prediction, weighting: Weighting, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The factor of the squared error of the output that gives the squared error of x_0 its weight."""
    own = torch.as_tensor(prediction.weight(alpha, sigma))
    return weighting((alpha / sigma) ** 2, own) / own
