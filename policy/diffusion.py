"""The diffusion policy: an encoder conditions a network that denoises action chunks (Chi et al. 2023).

Plain behaviour cloning (regression) is the special case of one noise level: the network predicts x_0 in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..specification import Horizons, Specification
from .denoising.guidance import WHOLE_STEPS, Guidance, Sampling, check_guidance, sample
from .denoising.interface import Denoiser, NoiseSchedule, Space
from .denoising.levels import NoiseLevel
from .denoising.prediction import Prediction, estimate
from .denoising.sampling import Sampler
from .inputs import check_observation
from .interface import Encoder, Lesson, Network, Objective, Observation
from .networks.cpu_inference import predicting
from .normalizer import Normalizer
from .representation import Representation, RepresentedActions
from .space import NormalisedActions


class DiffusionPolicy(nn.Module):
    """Encoder, network, noise schedule, prediction, objective, sampler and normalizer, in one module.

    prediction: what the network predicts. sampler: a solver with the levels of the schedule that it visits. clip: bound
    of the estimate of x_0 at every step, in normalised units. objective: what the network is trained to do. has_noise:
    whether denoising starts from noise; if not, it starts from an empty chunk, and a prediction needs no noise. space:
    where chunks are denoised; None means normalised actions. representation: how streams are learned; None means as
    they are in the data. drop_context: the share of the windows in training whose context is unknown (Ho & Salimans
    2022, algorithm 1).

    Raises ValueError if the objective does not suit the schedule, the prediction or the sampler.
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
        drop_context: float,
        space: Space | None = None,
        representation: Representation | None = None,
    ) -> None:
        super().__init__()
        self.specification, self.horizons = specification, horizons
        self.normalizer, self.encoder, self.network = normalizer, encoder, network
        self.schedule, self.prediction, self.sampler = schedule, prediction, sampler
        self.objective = objective
        self.representation = representation or Representation(specification, {})
        is_plain = self.representation.is_plain
        self.represented = None if is_plain else Normalizer.empty(self.representation.learned)
        normalised = NormalisedActions(self.learned, horizons)
        default = normalised if is_plain else RepresentedActions(normalised, self.representation)
        self.space: Space = default if space is None else space
        self.clip, self.has_noise = clip, has_noise
        self.drop_context = drop_context if encoder.num_context else 0.0
        self.objective.check(schedule, prediction, sampler)
        self._rows: dict[tuple[float, float], Tensor] | None = None
        self._times: dict[Any, Tensor] = {}

    @property
    def learned(self) -> Normalizer:
        """The normalizer of the streams as they are learned: `normalizer`, or in a representation one of its own."""
        return self.normalizer if self.represented is None else self.represented

    def encoder_input(self, observation: Observation) -> dict[str, Tensor]:
        """An observation in units -> as the encoder takes it."""
        return self.learned.observation(self.representation.observation(observation))

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction: one draw to start from, and the draws that the sampler adds."""
        return (1 + self.sampler.num_draws if self.has_noise else 0, *self.space.shape)

    @property
    def num_uniforms(self) -> int:
        """U; see `Policy.num_uniforms`. The last number chooses whether the context is unknown, if it may be."""
        return self.objective.num_uniforms + bool(self.drop_context)

    @property
    def has_teacher(self) -> bool:
        """Whether the objective needs a teacher."""
        return self.objective.has_teacher

    def encode(self, observation: Observation) -> Tensor:
        """An observation in the units of the specification -> conditioning (B, S, Dc)."""
        check_observation(observation, self.specification, self.horizons)
        return self.encoder(self.encoder_input(observation))

    def start(self, noise: Tensor) -> Tensor:
        """Where denoising starts: the noise, or zeros."""
        return noise if self.has_noise else torch.zeros_like(noise)

    def loss(self, lesson: Lesson) -> Tensor:
        """The objective's loss of each step, (K, B, L); see `Policy.loss`."""
        num_draws, conditioning = len(lesson.noise), self.conditioning(lesson, drop_context=self.drop_context)
        x_0 = repeat(self.space.at(lesson.observation).encode(lesson.action), "b t d -> (k b) t d", k=num_draws)
        return rearrange(self.objective.loss(self, x_0, conditioning, lesson), "(k b) t -> k b t", k=num_draws)

    def conditioning(self, lesson: Lesson, *, drop_context: float) -> Tensor:
        """The conditioning (K B, S, Dc) of a lesson; its last uniform number says whether the context is unknown."""
        check_observation(lesson.observation, self.specification, self.horizons, crop=self.encoder.crop)
        conditioning = self.encoder(self.encoder_input(lesson.observation))
        conditioning = repeat(conditioning, "b ... -> (k b) ...", k=len(lesson.noise))
        if drop_context:
            is_unknown = lesson.uniform[..., -1].flatten() < drop_context
            conditioning = self.encoder.without_context(conditioning, is_unknown)
        return conditioning

    def _blind(self, conditioning: Tensor) -> Tensor:
        """The embedded conditioning (B, S, Dc) without its context."""
        is_unknown = torch.ones(len(conditioning), dtype=torch.bool, device=conditioning.device)
        return self.network.condition(self.encoder.without_context(conditioning, is_unknown))

    def denoiser(self, conditioning: Tensor) -> Denoiser:
        """The denoiser for this conditioning (B, S, Dc). The network embeds the conditioning here, once per chunk."""
        return self.conditioned(self.network.condition(conditioning))

    def conditioned(self, condition: Tensor) -> Denoiser:
        """The denoiser for an embedded conditioning, `network.condition(...)`. Its estimates of x_0 are clipped."""
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

    def by_row(self, conditioning: Tensor) -> Denoiser:
        """The denoiser for this conditioning (B, S, Dc) whose rows have a step each, as in training.

        Its levels are those of `levels_at`. Its estimates are clipped.
        """
        condition = self.network.condition(conditioning)
        read = partial(estimate, prediction=self.prediction, clip=self.clip, keeps_epsilon=False)

        def denoise(x_t: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
            time = self.network.embed(now.time, then.time)  # type: ignore[arg-type]
            return read(self.network.denoise(x_t, time, condition), x_t, now=now, then=then)

        return denoise

    def embedded(self) -> dict[tuple[float, float], Tensor]:
        """(time of now, time of then) of every step of `Sampler.steps` -> its row of `network.embed`."""
        rows = dict[tuple[float, float], Tensor]()
        for steps in self.sampler.steps:
            rows |= self._embed(steps)
        return rows

    def _embed(self, steps: Sequence[tuple[NoiseLevel, NoiseLevel]]) -> dict[tuple[float, float], Tensor]:
        times = tuple((now.time, then.time) for now, then in steps)
        now, then = self._on_device(times).unbind(dim=1)
        return dict(zip(times, self.network.embed(now, then), strict=True))

    def _on_device(self, times: tuple[tuple[float, float], ...]) -> Tensor:
        """The times (N, 2) on the device of the policy; they are uploaded once."""
        key = times, self.normalizer.action_std.device
        if key not in self._times:
            with torch.inference_mode(False):  # a later gradient may need them
                self._times[key] = torch.tensor(times, device=key[1])
        return self._times[key]

    @torch.no_grad()
    def hold_times(self) -> None:
        """Embed the times once for all chunks. Call it only if the weights no longer change."""
        self._rows = self.embedded()

    @torch.no_grad()
    def predict(self, observation: Observation, noise: Tensor, guidance: Sequence[Guidance] = ()) -> Tensor:
        """An action chunk (B, Tp, Da) in units; see `Policy.predict`."""
        check_guidance(guidance, (noise.shape[1], self.horizons.prediction, *self.specification.action.shape))
        if self.has_teacher and any(guide.needs_mean for guide in guidance):
            raise ValueError(WHOLE_STEPS)
        conditioning, space = self.encode(observation), self.space.at(observation)
        sampling = Sampling(
            self.network.condition(conditioning),
            self.conditioned,
            space,
            self.clip,
            partial(self._blind, conditioning),
            observation,
        )
        with predicting():
            return space.decode(sample(sampling, noise, sampler=self.sampler, guidance=guidance))
