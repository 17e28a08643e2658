"""What a network is trained to do: one class per choice. The other parts of a policy do not depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .denoising.interface import NoiseSchedule, Weighting
    from .denoising.prediction import Prediction
    from .interface import Denoised, Lesson

MOST_WEIGHT = 1e6
"""Largest weight of the squared error of an output. With a larger weight, one noise level would dominate the loss."""


@dataclass(frozen=True)
class Denoising:
    """Predict x_0, the noise or a mixture of both at every noise level (Ho et al. 2020, algorithm 1)."""

    weighting: Weighting
    """How much each noise level counts in the loss; see `policy.denoising.weighting`."""
    num_uniforms: int = 1
    """One number per draw chooses the noise level."""
    has_teacher: bool = False
    """Denoising needs no teacher."""

    def check(self, schedule: NoiseSchedule, prediction: Prediction) -> None:
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

    def loss(self, policy: Denoised, x_0: Tensor, conditioning: Tensor, lesson: Lesson) -> Tensor:
        """Weighted squared error of the network's output at each step, (K B, L); see `Objective.loss`."""
        epsilon = policy.start(lesson.noise).flatten(0, 1)
        t = policy.schedule.time(lesson.uniform[..., 0]).flatten()
        alpha, sigma = (coefficient[:, None, None] for coefficient in policy.schedule(t))
        output = policy.network(alpha * x_0 + sigma * epsilon, t, conditioning)
        error = (output - policy.prediction.target(x_0, epsilon, alpha, sigma)).square().mean(dim=-1)
        return error * relative_weight(policy.prediction, self.weighting, alpha[:, 0], sigma[:, 0])


def relative_weight(prediction: Prediction, weighting: Weighting, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The factor of the squared error of the output that gives the squared error of x_0 its weight."""
    own = torch.as_tensor(prediction.weight(alpha, sigma))
    return weighting((alpha / sigma) ** 2, own) / own
