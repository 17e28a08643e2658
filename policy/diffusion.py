"""The diffusion policy: an encoder conditions a network that denoises chunks of actions (Chi et al. 2023)."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..specification import Horizons, Specification, nearest
from .interface import Denoiser, NoiseSchedule, Observation, Sampler
from .normalizer import Normalizer
from .prediction import Prediction


def check_observation(observation: Observation, specification: Specification, horizons: Horizons) -> None:
    """Raise ValueError unless there is every stream of the specification, each of shape (B, To, ...)."""
    for name in observation:
        names = [stream.name for stream in specification.observations]
        if name not in names:
            raise ValueError(f"the policy does not know the observation {name!r}: {nearest(name, names)}")
    for stream in specification.observations:
        if stream.name not in observation:
            raise ValueError(f"the policy needs the observation {stream.name!r}, got {sorted(observation)}")
        shape = tuple(observation[stream.name].shape)
        if shape[1:] != (horizons.observation, *stream.shape):
            raise ValueError(
                f"observation {stream.name!r} must have shape (B, {horizons.observation}, "
                f"{', '.join(map(str, stream.shape))}), got {shape}"
            )


class DiffusionPolicy(nn.Module):
    """Encoder, network, noise schedule, prediction, sampler and normalizer, in one module.

    times: the denoising steps of `sampler`, from `schedule.spacing`. num_draws: fresh noises that the sampler takes on
    its way, 0 where it is deterministic. clip: bound of the estimate of x_0, in normalised units, at every step.
    """

    times: Tensor

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        normalizer: Normalizer,
        encoder: nn.Module,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Prediction,
        sampler: Sampler,
        num_steps: int,
        num_draws: int,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.specification, self.horizons = specification, horizons
        self.normalizer, self.encoder, self.network = normalizer, encoder, network
        self.schedule, self.prediction, self.sampler = schedule, prediction, sampler
        self.num_draws, self.clip = num_draws, clip
        self.register_buffer("times", schedule.spacing(num_steps), persistent=False)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, Tp, Da) of one prediction: where it starts, and what the sampler adds."""
        return 1 + self.num_draws, self.horizons.prediction, self.specification.action.size

    def encode(self, observation: Observation) -> Tensor:
        """Conditioning (B, Dc) of an observation in the units of the specification."""
        check_observation(observation, self.specification, self.horizons)
        return self.encoder(self.normalizer.observation(observation))

    def loss(self, observation: Observation, action: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Squared error of the network's output per step, (K, B, Tp) (Ho et al. 2020, eq. 14); see `Policy.loss`."""
        num_draws = len(noise)
        conditioning = repeat(self.encode(observation), "b ... -> (k b) ...", k=num_draws)
        x_0 = repeat(self.normalizer.action(action), "b t d -> (k b) t d", k=num_draws)
        epsilon, t = noise.flatten(0, 1), self.schedule.time(level).flatten()
        alpha, sigma = (coefficient[:, None, None] for coefficient in self.schedule(t))
        output = self.network(alpha * x_0 + sigma * epsilon, t, conditioning)
        error = (output - self.prediction.target(x_0, epsilon, alpha, sigma)).square().mean(dim=-1)
        return rearrange(error, "(k b) t -> k b t", k=num_draws)

    def denoiser(self, conditioning: Tensor) -> Denoiser:
        """(x_t, t) -> the estimate of x_0, clipped."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (coefficient[:, None, None] for coefficient in self.schedule(t))
            output = self.network(x_t, t, conditioning)
            return self.prediction.clean(output, x_t, alpha, sigma).clamp(-self.clip, self.clip)

        return denoise

    @torch.no_grad()
    def predict(self, observation: Observation, noise: Tensor) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification; see `Policy.predict`."""
        denoise = self.denoiser(self.encode(observation))
        return self.normalizer.unnormalised_action(self.sampler(denoise, noise, self.schedule, self.times))
