"""What a policy may be made of: plain values whose `build` makes the real objects, and the one table of choices.

Dimensions come from the data and the task, never from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from ..specification import Horizons, Specification, nearest

if TYPE_CHECKING:
    from torch import nn

    from ..policy.interface import NoiseSchedule, Policy, Sampler
    from ..policy.normalizer import Normalizer


def positive(config: object, *names: str) -> None:
    """Raises ValueError unless every one of these fields is above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")


def filled(config: object, *slots: str, of: str = "") -> None:
    """Raises ValueError unless one of the `CHOICES` fills every one of these slots of `config`."""
    for slot in slots:
        if not is_dataclass(value := getattr(config, slot)):
            path = f"{of}{slot}"
            raise ValueError(
                f"{path} must be chosen as {path}=name, got {value!r}: {nearest(str(value), CHOICES[path])}"
            )


@dataclass(kw_only=True)
class UNet1dConfig:
    """The temporal U-Net; one entry of `channels` for each level, the finest first."""

    channels: list[int] = field(default_factory=lambda: [64, 128, 256])
    kernel_size: int = 5
    groups: int = 8
    time_size: int = 128

    def __post_init__(self) -> None:
        positive(self, "kernel_size", "groups", "time_size")

    def build(self, *, action_size: int, conditioning_size: int) -> nn.Module:
        """A network for chunks of `action_size` numbers a step."""
        from ..policy.networks.unet1d import UNet1d

        return UNet1d(
            action_size=action_size,
            conditioning_size=conditioning_size,
            channels=self.channels,
            kernel_size=self.kernel_size,
            groups=self.groups,
            time_size=self.time_size,
        )


@dataclass(kw_only=True)
class CosineConfig:
    """The squared-cosine noise schedule."""

    num_times: int = 100

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ..policy.schedule import cosine

        return cosine(self.num_times)


@dataclass(kw_only=True)
class DiffusersScheduleConfig:
    """A beta schedule of diffusers, by its name there."""

    beta_schedule: str = "linear"
    num_times: int = 100
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ..policy.schedule import from_diffusers

        return from_diffusers(self.beta_schedule, self.num_times, self.beta_start, self.beta_end)


@dataclass(kw_only=True)
class DDIMConfig:
    """DDIM in `num_steps` denoising steps; `eta` = 0 is deterministic, 1 draws all the noise of DDPM."""

    num_steps: int = 10
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 (DDIM) and 1 (DDPM), got {self.eta}")

    def build(self) -> Sampler:
        """The sampler."""
        from ..policy.sampling import ddim

        return partial(ddim, eta=self.eta)

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way."""
        return self.num_steps if self.eta else 0


@dataclass(kw_only=True)
class DDPMConfig:
    """Ancestral sampling in `num_steps` denoising steps."""

    num_steps: int = 100

    def build(self) -> Sampler:
        """The sampler."""
        from ..policy.sampling import ddpm

        return ddpm

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way."""
        return self.num_steps


@dataclass(kw_only=True)
class DiffusersSamplerConfig:
    """Any scheduler of diffusers, by its class name there, with its own options."""

    name: str = "DPMSolverMultistepScheduler"
    num_steps: int = 10
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Sampler:
        """The sampler."""
        from ..policy.sampling import from_diffusers

        return from_diffusers(self.name, **self.options)

    @property
    def num_draws(self) -> int:
        """It draws for itself."""
        return 0


class PredictionType(Enum):
    """What the network predicts; the values name the constants of `policy.prediction`."""

    epsilon = "EPSILON"
    sample = "SAMPLE"
    v = "V"


@dataclass(kw_only=True)
class HorizonsConfig:
    """Steps seen, generated and executed."""

    observation: int = 2
    prediction: int = 16
    action: int = 8

    def build(self) -> Horizons:
        """The checked horizons."""
        return Horizons(self.observation, self.prediction, self.action)


@dataclass(kw_only=True)
class RegressionConfig:
    """Plain behaviour cloning with the same network."""

    network: Any = field(default_factory=UNet1dConfig)

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> Policy:
        """An untrained policy."""
        from ..policy.encoders.lowdim import LowdimEncoder
        from ..policy.regression import RegressionPolicy

        filled(self, "network", of="policy/")
        encoder = LowdimEncoder(specification, horizons)
        network = self.network.build(action_size=specification.action.size, conditioning_size=encoder.conditioning_size)
        return RegressionPolicy(specification, horizons, normalizer=normalizer, encoder=encoder, network=network)


@dataclass(kw_only=True)
class DiffusionConfig:
    """The diffusion policy. clip: bound of the estimate of x_0 at every denoising step, in normalised units."""

    network: Any = field(default_factory=UNet1dConfig)
    schedule: Any = field(default_factory=CosineConfig)
    sampler: Any = field(default_factory=DDIMConfig)
    prediction: PredictionType = PredictionType.epsilon
    clip: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "clip")

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> Policy:
        """An untrained policy."""
        from ..policy import prediction
        from ..policy.diffusion import DiffusionPolicy
        from ..policy.encoders.lowdim import LowdimEncoder

        filled(self, "network", "schedule", "sampler", of="policy/")
        encoder = LowdimEncoder(specification, horizons)
        return DiffusionPolicy(
            specification,
            horizons,
            normalizer=normalizer,
            encoder=encoder,
            network=self.network.build(
                action_size=specification.action.size, conditioning_size=encoder.conditioning_size
            ),
            schedule=self.schedule.build(),
            prediction=getattr(prediction, self.prediction.value),
            sampler=self.sampler.build(),
            num_steps=self.sampler.num_steps,
            num_draws=self.sampler.num_draws,
            clip=self.clip,
        )


CHOICES: dict[str, dict[str, Any]] = {
    "policy": {"diffusion": DiffusionConfig, "regression": RegressionConfig},
    "policy/network": {"unet1d": UNet1dConfig},
    "policy/schedule": {"cosine": CosineConfig, "diffusers": DiffusersScheduleConfig},
    "policy/sampler": {"ddim": DDIMConfig, "ddpm": DDPMConfig, "diffusers": DiffusersSamplerConfig},
}
"""Slot -> name -> what fills it. A slot is a Hydra config group, and its path in the run configuration."""
