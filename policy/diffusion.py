"""The diffusion policy: an encoder conditions a network that denoises chunks of actions (Chi et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..specification import Horizons, Prefix, Specification, nearest
from .guidance import inpainting
from .interface import Denoiser, Encoder, Network, NoiseSchedule, Observation, Sampler
from .normalizer import Normalizer
from .prediction import Prediction


def check_observation(
    observation: Observation,
    specification: Specification,
    horizons: Horizons,
    *,
    crop: tuple[int, int] | None = None,
) -> None:
    """Raise ValueError unless there is every stream of the specification, each of shape (B, To, ...).

    crop: (h, w) that images may have instead of their own size, as augmentation leaves them.
    """
    for name in observation:
        names = [stream.name for stream in specification.observations]
        if name not in names:
            raise ValueError(f"the policy does not know the observation {name!r}: {nearest(name, names)}")
    for stream in specification.observations:
        if stream.name not in observation:
            raise ValueError(f"the policy needs the observation {stream.name!r}, got {sorted(observation)}")
        found = observation[stream.name]
        if stream.is_image and found.dtype != torch.uint8:
            raise ValueError(
                f"observation {stream.name!r} must hold images of uint8, as the camera gives them, got {found.dtype}: "
                f"do not scale or normalise the pixels, the policy does"
            )
        wanted, shape = (horizons.observation, *stream.shape), tuple(found.shape)
        is_cropped = stream.is_image and crop is not None and shape[1:] == (wanted[0], *crop, wanted[-1])
        if shape[1:] != wanted and not is_cropped:
            raise ValueError(
                f"observation {stream.name!r} must have shape (B, {', '.join(map(str, wanted))}), got {shape}"
            )


def check_prefix(prefix: Prefix, noise: Tensor) -> None:
    """Raise ValueError unless there is a planned action for each that is predicted from this noise."""
    if prefix.actions.shape != noise.shape[1:]:
        raise ValueError(
            f"the planned actions must have the shape of the chunks, {tuple(noise.shape[1:])}, "
            f"got {tuple(prefix.actions.shape)}"
        )


class DiffusionPolicy(nn.Module):
    """Encoder, network, noise schedule, prediction, sampler and normalizer, in one module.

    times: the denoising steps of `sampler`, from `schedule.spacing`. num_draws: fresh noises that the sampler takes on
    its way, 0 where it is deterministic. clip: bound of the estimate of x_0, in normalised units, at every step.
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
        num_steps: int,
        num_draws: int,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.specification, self.horizons = specification, horizons
        self.normalizer, self.encoder, self.network = normalizer, encoder, network
        self.schedule, self.prediction, self.sampler = schedule, prediction, sampler
        self.num_draws, self.clip = num_draws, clip
        self.times = schedule.spacing(num_steps)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, Tp, Da) of one prediction: where it starts, and what the sampler adds."""
        return 1 + self.num_draws, self.horizons.prediction, self.specification.action.size

    def encode(self, observation: Observation) -> Tensor:
        """Conditioning (B, S, Dc) of an observation in the units of the specification."""
        check_observation(observation, self.specification, self.horizons)
        return self.encoder(self.normalizer.observation(observation))

    def loss(self, observation: Observation, action: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Squared error of the network's output per step, (K, B, Tp) (Ho et al. 2020, eq. 14); see `Policy.loss`."""
        num_draws = len(noise)
        check_observation(observation, self.specification, self.horizons, crop=self.encoder.crop)
        conditioning = self.encoder(self.normalizer.observation(observation))
        conditioning = repeat(conditioning, "b ... -> (k b) ...", k=num_draws)
        x_0 = repeat(self.normalizer.action(action), "b t d -> (k b) t d", k=num_draws)
        epsilon, t = noise.flatten(0, 1), self.schedule.time(level).flatten()
        alpha, sigma = (coefficient[:, None, None] for coefficient in self.schedule(t))
        output = self.network(alpha * x_0 + sigma * epsilon, t, conditioning)
        error = (output - self.prediction.target(x_0, epsilon, alpha, sigma)).square().mean(dim=-1)
        return rearrange(error, "(k b) t -> k b t", k=num_draws)

    def denoiser(self, conditioning: Tensor) -> Denoiser:
        """(x_t, t) -> the estimate of x_0, clipped. The network meets the conditioning and the times here, once."""
        condition = self.network.condition(conditioning)
        embedded = dict(zip(self.times[:-1], self._embed(self.times[:-1], condition.device), strict=True))

        def denoise(x_t: Tensor, t: float) -> Tensor:
            alpha, sigma = self.schedule.at(t)
            time = embedded[t] if t in embedded else self._embed([t], x_t.device)[0]  # where a sampler spaces itself
            output = self.network.denoise(x_t, time.expand(len(x_t), *time.shape), condition)
            return self.prediction.clean(output, x_t, alpha, sigma).clamp(-self.clip, self.clip)

        return denoise

    def _embed(self, times: Sequence[float], device: torch.device) -> Tensor:
        return self.network.embed(torch.tensor(times, device=device))

    @torch.no_grad()
    def predict(self, observation: Observation, noise: Tensor, prefix: Prefix | None = None) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification; see `Policy.predict`."""
        denoise, times = self.denoiser(self.encode(observation)), self.times
        if prefix is not None:
            check_prefix(prefix, noise)
            planned = self.normalizer.action(prefix.actions)
            denoise = self._guided(denoise, planned, prefix)
            skipped = len(times) - 1 - max(1, round(prefix.start * (len(times) - 1)))
            times = times[skipped:]
            if skipped:
                alpha, sigma = self.schedule.at(times[0])
                noise = torch.cat([(alpha * planned + sigma * noise[0])[None], noise[1 + skipped :]])
        return self.normalizer.unnormalised_action(self.sampler(denoise, noise, self.schedule, times))

    def _guided(self, denoise: Denoiser, planned: Tensor, prefix: Prefix) -> Denoiser:
        """A denoiser whose estimates go on from what is planned, and stay within the same bounds."""
        guided = inpainting(denoise, self.schedule, planned, prefix.weights, limit=prefix.limit, exact=prefix.exact)
        return lambda x_t, t: guided(x_t, t).clamp(-self.clip, self.clip)
