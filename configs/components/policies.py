"""Policies and their horizons."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...policy.denoising.coupling import COUPLINGS
from ...policy.denoising.prediction import PREDICTIONS
from ...specification import Horizons, Specification, nearest
from ..checks import MOST_CHUNK, not_negative, positive, share
from .denoising import MOST_LEVELS, CosineConfig, DDIMConfig, OneLevelConfig, UniformConfig, UniformTimesConfig
from .encoders import LowdimEncoderConfig
from .lazy import values
from .networks import UNet1dConfig
from .representations import AbsoluteConfig

if TYPE_CHECKING:
    from ...policy.denoising.interface import NoiseSchedule, Weighting
    from ...policy.denoising.sampling import Sampler
    from ...policy.diffusion import DiffusionPolicy
    from ...policy.interface import Objective
    from ...policy.normalizer import Normalizer


@dataclass(kw_only=True)
class HorizonsConfig:
    """Numbers of control steps that a policy sees, generates and executes."""

    observation: int | None = None
    """Observed steps that the policy sees, To. null is chosen from the data; in an import, 2."""
    prediction: int | None = None
    """Steps of a generated chunk, Tp. It begins at the oldest observed step. null is chosen; in an import, 16."""
    action: int | None = None
    """Steps of a chunk that are executed before the next one, Ta. null is chosen; in an import, 8."""

    def __post_init__(self) -> None:
        not_negative(self, *values(self), most=MOST_CHUNK)
        if None not in values(self).values():
            self.build()

    def build(self) -> Horizons:
        """The checked horizons; what is null is as published, 2, 16 and 8."""
        return Horizons(**{name: value for name, value in values(self).items() if value is not None})


class _PolicyConfig:
    """What the configurations of recede's policies share. They differ in what may be chosen."""

    encoder: Any
    network: Any
    representation: Any
    schedule: Any
    times: Any
    sampler: Any
    objective: Any
    weighting: Any
    prediction: Any
    clip: Any
    coupling: Any
    drop_context: Any
    has_noise: ClassVar[bool]

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> DiffusionPolicy:
        """An untrained policy. Raises ValueError if the streams cannot be learned as the representation says."""
        from ...policy.diffusion import DiffusionPolicy

        representation = self.representation.build(specification)
        schedule, learned = self.times.build(self.schedule.build()), representation.learned
        encoder = self.encoder.build(learned, horizons)
        network = self.network.build(
            action_size=learned.action.size,
            num_steps=horizons.prediction,
            conditioning_shape=encoder.conditioning_shape,
            **({"num_context": encoder.num_context} if encoder.num_context else {}),
        )
        sampler = self.sampler.build(schedule)
        if self.coupling == "optimal":
            _check_coupled(schedule, sampler)
        return DiffusionPolicy(
            specification,
            horizons,
            normalizer=normalizer,
            encoder=encoder,
            network=network,
            schedule=schedule,
            prediction=PREDICTIONS[self.prediction],
            sampler=sampler,
            clip=self.clip,
            objective=self.objective.build(self.weighting.build()),
            has_noise=self.has_noise,
            drop_context=self.drop_context,
            representation=representation,
        )


def _check_coupled(schedule: NoiseSchedule, sampler: Sampler) -> None:
    """Raise ValueError unless noise that is coupled with chunks can be learned and sampled."""
    if any(abs(level.alpha + level.sigma - 1) > 1e-6 for level in schedule.levels):
        raise ValueError(
            "policy.coupling=optimal is for flows, whose paths are straight: choose policy=flow, or "
            "policy.coupling=independent"
        )
    if sampler.num_draws:
        raise ValueError(
            "policy.coupling=optimal needs a deterministic sampler, because noise and chunk are coupled, got one "
            f"that adds {sampler.num_draws} draws of noise: choose sampler=ddim with eta=0, dpm_solver_2m or heun"
        )


@dataclass(kw_only=True)
class DenoisingConfig:
    """Denoising: predict the chunk, the noise or a mixture of both at random noise levels."""

    def build(self, weighting: Weighting) -> Objective:
        """The objective with this weighting of noise levels."""
        from ...policy.objective import Denoising

        return Denoising(weighting)


@dataclass(kw_only=True)
class ProgressiveConfig:
    """Progressive distillation (Salimans & Ho 2022): a step lands where several of the teacher's do. Needs teacher=."""

    num_steps: int = 1
    """Steps that the policy takes; policy.sampler.num_steps must be the same."""
    teacher_steps: int = 10
    """Steps in which DDIM samples the teacher, a multiple of num_steps."""

    def __post_init__(self) -> None:
        positive(self, "num_steps", "teacher_steps", most=MOST_LEVELS)
        if self.teacher_steps % self.num_steps or self.teacher_steps == self.num_steps:
            raise ValueError(
                f"policy.objective.teacher_steps must be two or more times num_steps={self.num_steps}, got "
                f"{self.teacher_steps}: give {2 * self.num_steps}"
            )

    def build(self, weighting: Weighting) -> Objective:
        """The objective with this weighting of noise levels."""
        from ...policy.distillation import Progressive

        return Progressive(weighting, **values(self))


@dataclass(kw_only=True)
class RegressionConfig(_PolicyConfig):
    """Behaviour cloning by regression with the same networks: one noise level, without noise, in one step."""

    schedule: ClassVar[Any] = OneLevelConfig()
    times: ClassVar[Any] = UniformTimesConfig()
    sampler: ClassVar[Any] = DDIMConfig(num_steps=1)
    objective: ClassVar[Any] = DenoisingConfig()
    weighting: ClassVar[Any] = UniformConfig()
    prediction: ClassVar[Any] = "sample"
    clip: ClassVar[Any] = math.inf
    coupling: ClassVar[Any] = "independent"
    drop_context: ClassVar[Any] = 0.0
    has_noise: ClassVar[bool] = False
    encoder: Any = field(default_factory=LowdimEncoderConfig)
    """Encoder of the observations."""
    network: Any = field(default_factory=UNet1dConfig)
    """Network that predicts the chunk."""
    representation: Any = field(default_factory=AbsoluteConfig)
    """How actions, rotations, angles and grippers are learned."""


@dataclass(kw_only=True)
class DiffusionConfig(_PolicyConfig):
    """A diffusion policy (Chi et al. 2023)."""

    has_noise: ClassVar[bool] = True
    encoder: Any = field(default_factory=LowdimEncoderConfig)
    """Encoder of the observations."""
    network: Any = field(default_factory=UNet1dConfig)
    """Network that denoises."""
    representation: Any = field(default_factory=AbsoluteConfig)
    """How actions, rotations, angles and grippers are learned."""
    schedule: Any = field(default_factory=CosineConfig)
    """Noise schedule."""
    times: Any = field(default_factory=UniformTimesConfig)
    """How often each noise level is drawn in training."""
    sampler: Any = field(default_factory=DDIMConfig)
    """Sampler that generates chunks. It can be changed after training."""
    objective: Any = field(default_factory=DenoisingConfig)
    """Training objective."""
    weighting: Any = field(default_factory=UniformConfig)
    """Weighting of the noise levels in the loss."""
    prediction: str = "sample"
    """Output of the network: epsilon (the noise), sample (the chunk), v or velocity."""
    clip: float = 1.0
    """Bound of each estimate of x_0 while denoising, in normalised units."""
    coupling: str = "independent"
    """Noise of a batch and its chunks: independent, or optimal, in the order of least distance, which costs success."""
    drop_context: float = 0.1
    """Share of the training windows whose context, such as a goal, is unknown. guidance=classifier_free needs some."""

    def __post_init__(self) -> None:
        positive(self, "clip")
        share(self, "drop_context")
        if self.coupling not in COUPLINGS:
            raise ValueError(
                f"policy.coupling must be one of {', '.join(COUPLINGS)}, got {self.coupling!r}: "
                + nearest(self.coupling, COUPLINGS)
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"policy.prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}: "
                + nearest(self.prediction, PREDICTIONS)
            )
