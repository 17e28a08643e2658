"""The diffusion policy: an encoder conditions a network that denoises chunks of actions (Chi et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..specification import Horizons, Prefix, Specification
from .guidance import sample
from .inputs import check_observation, check_prefix
from .interface import Denoiser, Encoder, Network, NoiseSchedule, Observation, Weighting
from .levels import NoiseLevel
from .normalizer import Normalizer
from .prediction import Prediction
from .sampling import Sampler, keeping_epsilon
from .weighting import uniform


class DiffusionPolicy(nn.Module):
    """Encoder, network, noise schedule, prediction, sampler and normalizer, in one module.

    sampler: a solver with the levels of the schedule that it visits. clip: bound of the estimate of x_0, in normalised
    units, at every step.
    weighting: how much each noise level counts in the loss; see `policy.weighting`.

    Raises ValueError if the prediction or the weighting does not suit the schedule.
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        normalizer: Normalizer,
        encoder: Encoder,
        network: Network,
        schedule: NoiseSchedule,
        prediction: Prediction,
        sampler: Sampler,
        clip: float = 1.0,
        weighting: Weighting = uniform,
    ) -> None:
        super().__init__()
        check_weights(schedule, prediction, weighting)
        self.specification, self.horizons = specification, horizons
        self.normalizer, self.encoder, self.network = normalizer, encoder, network
        self.schedule, self.prediction, self.sampler = schedule, prediction, sampler
        self.clip, self.weighting = clip, weighting

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, Tp, Da) of one prediction: where it starts, and what the sampler adds."""
        return 1 + self.sampler.num_draws, self.horizons.prediction, self.specification.action.size

    def encode(self, observation: Observation) -> Tensor:
        """Conditioning (B, S, Dc) of an observation in the units of the specification."""
        check_observation(observation, self.specification, self.horizons)
        return self.encoder(self.normalizer.observation(observation))

    def loss(self, observation: Observation, action: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Weighted squared error of the network's output per step, (K, B, Tp); see `Policy.loss`."""
        num_draws = len(noise)
        check_observation(observation, self.specification, self.horizons, crop=self.encoder.crop)
        conditioning = self.encoder(self.normalizer.observation(observation))
        conditioning = repeat(conditioning, "b ... -> (k b) ...", k=num_draws)
        x_0 = repeat(self.normalizer.action(action), "b t d -> (k b) t d", k=num_draws)
        epsilon, t = noise.flatten(0, 1), self.schedule.time(level).flatten()
        alpha, sigma = (coefficient[:, None, None] for coefficient in self.schedule(t))
        output = self.network(alpha * x_0 + sigma * epsilon, t, conditioning)
        error = (output - self.prediction.target(x_0, epsilon, alpha, sigma)).square().mean(dim=-1)
        error = error * relative_weight(self.prediction, self.weighting, alpha[:, 0], sigma[:, 0])
        return rearrange(error, "(k b) t -> k b t", k=num_draws)

    def denoiser(self, conditioning: Tensor) -> Denoiser:
        """The clipped estimate of x_0. The network meets the conditioning and the times here, once a chunk."""
        return self.conditioned(self.network.condition(conditioning))

    def conditioned(self, condition: Tensor) -> Denoiser:
        """The same from what the network has made of the conditioning."""
        times = [level.time for level in self.sampler.levels[:-1]]
        embedded = dict(zip(times, self.embed(times, condition.device), strict=True))

        def denoise(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
            time = embedded[now.time]
            output = self.network.denoise(x_t, time.expand(len(x_t), *time.shape), condition)
            raw = self.prediction.clean(output, x_t, now.alpha, now.sigma)
            x_0 = clipped(raw, self.clip)
            return keeping_epsilon(raw, x_0, now=now, then=then) if self.sampler.keeps_epsilon else x_0

        return denoise

    def embed(self, times: Sequence[float], device: torch.device) -> Tensor:
        """What the network makes of N times: (N, ...)."""
        return self.network.embed(torch.tensor(times, device=device))

    @torch.no_grad()
    def predict(self, observation: Observation, noise: Tensor, prefix: Prefix | None = None) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification; see `Policy.predict`."""
        planned = None
        if prefix is not None:
            check_prefix(prefix, noise)
            planned = self.normalizer.action(prefix.actions)
        chunk = sample(
            self.denoiser(self.encode(observation)),
            noise,
            sampler=self.sampler,
            clip=self.clip,
            prefix=prefix,
            planned=planned,
            std=self.normalizer.action_std,
        )
        return self.normalizer.unnormalised_action(chunk)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        return x.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def clipped(x: Tensor, bound: float) -> Tensor:
    """Clip the values of x to [-bound, bound], but not its gradient, which guidance needs at the bound too."""
    return _Clip.apply(x, bound)  # type: ignore[return-value]


MOST_WEIGHT = 1e6
"""The most that the squared error of an output may be weighed by: beyond it one noise level is nearly all of a loss."""


def relative_weight(prediction: Prediction, weighting: Weighting, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the squared error of the network's output is multiplied by, so that that of x_0 has the wanted weight."""
    own = torch.as_tensor(prediction.weight(alpha, sigma))
    return weighting((alpha / sigma) ** 2, own) / own


def check_weights(schedule: NoiseSchedule, prediction: Prediction, weighting: Weighting) -> None:
    """Raise ValueError unless the prediction determines x_0, and its weight is finite, at all times of training."""
    t = schedule.time(torch.linspace(0, 1, 10_000)).unique()
    alpha, sigma = schedule(t)
    blind = t[torch.as_tensor(prediction.weight(alpha, sigma)).broadcast_to(t.shape) == 0].tolist()
    if blind:
        raise ValueError(
            f"the prediction must determine x_0 at every noise level, but at time {blind[0]} of this schedule it says "
            "nothing about x_0: choose another policy.prediction, such as sample or velocity"
        )
    largest = relative_weight(prediction, weighting, alpha, sigma).max().item()
    if not largest <= MOST_WEIGHT:
        raise ValueError(
            f"the weight of every noise level must be at most {MOST_WEIGHT:g} times the one of the prediction itself, "
            f"got {largest:.3g}: choose policy/weighting=uniform or min_snr, or policy.prediction=v"
        )
