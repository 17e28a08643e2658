"""The diffusion policy: an encoder conditions a network that denoises chunks of actions (Chi et al. 2023).

Behaviour cloning by regression is the case of one noise level: the network answers with x_0 at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..specification import Horizons, Specification
from .denoising.guidance import Guidance, Sampling, check_guidance, sample
from .denoising.interface import Denoiser, NoiseSchedule, Space
from .denoising.levels import NoiseLevel
from .denoising.prediction import Prediction, estimate
from .denoising.sampling import Sampler
from .inputs import check_observation
from .interface import Encoder, Lesson, Network, Objective, Observation
from .normalizer import Normalizer
from .space import NormalisedActions


class DiffusionPolicy(nn.Module):
    """Encoder, network, noise schedule, prediction, objective, sampler and normalizer, in one module.

    sampler: a solver with the levels of the schedule that it visits. clip: bound of the estimate of x_0, in normalised
    units, at every step. objective: what the network is trained to do. space: where chunks are denoised, normalised
    actions if it is not given. has_noise: whether denoising starts from noise; if not, it starts from an empty chunk,
    and a prediction draws nothing.

    Raises ValueError if the objective does not suit the schedule and the prediction.
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
        clip: float,
        objective: Objective,
        has_noise: bool,
        space: Space | None = None,
    ) -> None:
        super().__init__()
        self.specification, self.horizons = specification, horizons
        self.normalizer, self.encoder, self.network = normalizer, encoder, network
        self.schedule, self.prediction, self.sampler = schedule, prediction, sampler
        self.objective = objective
        self.space: Space = NormalisedActions(normalizer, horizons) if space is None else space
        self.clip, self.has_noise = clip, has_noise
        self.objective.check(schedule, prediction)
        self._rows: dict[tuple[float, float], Tensor] | None = None

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction: where it starts, and what the sampler adds."""
        return (1 + self.sampler.num_draws if self.has_noise else 0, *self.space.shape)

    @property
    def num_uniforms(self) -> int:
        """U; see `Policy.num_uniforms`."""
        return self.objective.num_uniforms

    @property
    def has_teacher(self) -> bool:
        """Whether the objective learns from another policy."""
        return self.objective.has_teacher

    def encode(self, observation: Observation) -> Tensor:
        """Conditioning (B, S, Dc) of an observation in the units of the specification."""
        check_observation(observation, self.specification, self.horizons)
        return self.encoder(self.normalizer.observation(observation))

    def start(self, noise: Tensor) -> Tensor:
        """What denoising starts from: the noise, or nothing."""
        return noise if self.has_noise else torch.zeros_like(noise)

    def loss(self, lesson: Lesson) -> Tensor:
        """The loss of the objective per step, (K, B, L); see `Policy.loss`."""
        num_draws = len(lesson.noise)
        check_observation(lesson.observation, self.specification, self.horizons, crop=self.encoder.crop)
        conditioning = self.encoder(self.normalizer.observation(lesson.observation))
        conditioning = repeat(conditioning, "b ... -> (k b) ...", k=num_draws)
        x_0 = repeat(self.space.encode(lesson.action), "b t d -> (k b) t d", k=num_draws)
        return rearrange(self.objective.loss(self, x_0, conditioning, lesson), "(k b) t -> k b t", k=num_draws)

    def denoiser(self, conditioning: Tensor) -> Denoiser:
        """The clipped estimate of x_0. The network meets the conditioning and the times here, once a chunk."""
        return self.conditioned(self.network.condition(conditioning))

    def conditioned(self, condition: Tensor) -> Denoiser:
        """The denoiser for what the network has made of the conditioning."""
        rows = self._embed(self.sampler.steps[0]) if self._rows is None else self._rows
        keeps_epsilon = self.sampler.keeps_epsilon
        read = partial(estimate, prediction=self.prediction, clip=self.clip, keeps_epsilon=keeps_epsilon)

        def denoise(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
            if (now.time, then.time) not in rows:  # few solvers ask for steps of no length
                rows.update(self._embed(next(steps for steps in self.sampler.steps if (now, then) in steps)))
            time = rows[now.time, then.time]
            output = self.network.denoise(x_t, time.expand(len(x_t), *time.shape), condition)
            return read(output, x_t, now=now, then=then)

        return denoise

    def embedded(self) -> dict[tuple[float, float], Tensor]:
        """The times of every step that the sampler may ask for -> what the network makes of them, (...)."""
        rows = dict[tuple[float, float], Tensor]()
        for steps in self.sampler.steps:
            rows |= self._embed(steps)
        return rows

    def _embed(self, steps: Sequence[tuple[NoiseLevel, NoiseLevel]]) -> dict[tuple[float, float], Tensor]:
        times = [(now.time, then.time) for now, then in steps]
        now, then = torch.tensor(times, device=self.normalizer.action_std.device).unbind(dim=1)
        return dict(zip(times, self.network.embed(now, then), strict=True))

    @torch.no_grad()
    def hold_times(self) -> None:
        """Compute once what the network makes of the times: its weights do not change any more."""
        self._rows = self.embedded()

    @torch.no_grad()
    def predict(self, observation: Observation, noise: Tensor, guidance: Sequence[Guidance] = ()) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification; see `Policy.predict`."""
        check_guidance(guidance, noise)
        condition = self.network.condition(self.encode(observation))
        sampling = Sampling(condition, self.conditioned, self.space, self.clip)
        return self.space.decode(sample(sampling, noise, sampler=self.sampler, guidance=guidance))
