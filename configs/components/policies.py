"""Policies: plain values whose `build` makes an untrained `Policy`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...policy.denoising.prediction import PREDICTIONS
from ...specification import Horizons, Specification, nearest
from ..checks import positive
from .encoders import LowdimEncoderConfig

if TYPE_CHECKING:
    from ...policy.denoising.interface import Weighting
    from ...policy.diffusion import DiffusionPolicy
    from ...policy.interface import Objective
    from ...policy.normalizer import Normalizer
from .denoising import CosineConfig, DDIMConfig, OneLevelConfig, UniformConfig
from .networks import UNet1dConfig


@dataclass(kw_only=True)
class HorizonsConfig:
    """Steps seen, generated and executed."""

    observation: int = 2
    prediction: int = 16
    action: int = 8

    def build(self) -> Horizons:
        """The checked horizons."""
        return Horizons(self.observation, self.prediction, self.action)


class _PolicyConfig:
    """What the configurations of our policies share: they differ in what may be chosen."""

    encoder: Any
    network: Any
    schedule: Any
    sampler: Any
    objective: Any
    weighting: Any
    prediction: Any
    clip: Any
    has_noise: ClassVar[bool]

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> DiffusionPolicy:
        """An untrained policy."""
        from ...policy.diffusion import DiffusionPolicy

        schedule, encoder = self.schedule.build(), self.encoder.build(specification, horizons)
        network = self.network.build(
            action_size=specification.action.size,
            num_steps=horizons.prediction,
            conditioning_shape=encoder.conditioning_shape,
        )
        return DiffusionPolicy(
            specification,
            horizons,
            normalizer=normalizer,
            encoder=encoder,
            network=network,
            schedule=schedule,
            prediction=PREDICTIONS[self.prediction],
            sampler=self.sampler.build(schedule),
            clip=self.clip,
            objective=self.objective.build(self.weighting.build()),
            has_noise=self.has_noise,
        )


@dataclass(kw_only=True)
class DenoisingConfig:
    """Predict the chunk, the noise, or a mixture of them at every noise level."""

    def build(self, weighting: Weighting) -> Objective:
        """The objective. weighting: of the noise levels."""
        from ...policy.objective import Denoising

        return Denoising(weighting)


@dataclass(kw_only=True)
class RegressionConfig(_PolicyConfig):
    """Plain behaviour cloning with the same network: one noise level, reached without noise, and one step."""

    schedule: ClassVar[Any] = OneLevelConfig()
    sampler: ClassVar[Any] = DDIMConfig(num_steps=1)
    objective: ClassVar[Any] = DenoisingConfig()
    weighting: ClassVar[Any] = UniformConfig()
    prediction: ClassVar[Any] = "sample"
    clip: ClassVar[Any] = math.inf
    has_noise: ClassVar[bool] = False
    encoder: Any = field(default_factory=LowdimEncoderConfig)
    network: Any = field(default_factory=UNet1dConfig)


@dataclass(kw_only=True)
class DiffusionConfig(_PolicyConfig):
    """The diffusion policy. prediction: what the network answers with, epsilon, sample, v or velocity. clip: bound of
    the estimate of x_0 at every denoising step, in normalised units.
    """

    has_noise: ClassVar[bool] = True
    encoder: Any = field(default_factory=LowdimEncoderConfig)
    network: Any = field(default_factory=UNet1dConfig)
    schedule: Any = field(default_factory=CosineConfig)
    sampler: Any = field(default_factory=DDIMConfig)
    objective: Any = field(default_factory=DenoisingConfig)
    weighting: Any = field(default_factory=UniformConfig)
    prediction: str = "sample"
    clip: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "clip")
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"policy.prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}: "
                + nearest(self.prediction, PREDICTIONS)
            )
