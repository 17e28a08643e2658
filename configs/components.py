"""What a policy may be made of: plain values whose `build` makes the real objects, and the one table of choices.

Dimensions come from the data and the task, never from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..policy.levels import NoiseLevel, check_spacing, spaced
from ..policy.prediction import PREDICTIONS
from ..policy.sampling import Sampler, ddim, ddpm, dpm_solver_2m, from_diffusers, heun
from ..specification import Horizons, Specification, nearest
from .checks import positive
from .deployment import ROBOTS
from .encoders import LowdimEncoderConfig, ResNetEncoderConfig, ViTEncoderConfig
from .executions import EXECUTIONS

if TYPE_CHECKING:
    from ..policy.interface import Network, NoiseSchedule, Objective, Policy, Solver, Weighting
    from ..policy.normalizer import Normalizer


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

    def build(self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int]) -> Network:
        """A network for chunks of `action_size` numbers a step; it takes any number of steps."""
        from ..policy.networks.unet1d import UNet1d

        return UNet1d(
            action_size=action_size,
            conditioning_shape=conditioning_shape,
            channels=self.channels,
            kernel_size=self.kernel_size,
            groups=self.groups,
            time_size=self.time_size,
        )


@dataclass(kw_only=True)
class TransformerConfig:
    """The transformer of Diffusion Policy, whose largest has 8 layers of size 256 and a dropout of 0.01 to 0.3."""

    num_layers: int = 4
    num_heads: int = 4
    size: int = 128
    dropout: float = 0.0
    embedding_dropout: float = 0.0

    def build(self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int]) -> Network:
        """A network for chunks of up to `num_steps` steps, `action_size` numbers each."""
        from ..policy.networks.transformer import Transformer

        return Transformer(
            action_size=action_size,
            conditioning_shape=conditioning_shape,
            num_steps=num_steps,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            size=self.size,
            dropout=self.dropout,
            embedding_dropout=self.embedding_dropout,
        )


@dataclass(kw_only=True)
class DiTConfig:
    """A diffusion transformer with adaptive layer norms and rotary positions."""

    num_layers: int = 4
    num_heads: int = 4
    size: int = 128

    def build(self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int]) -> Network:
        """A network for chunks of `action_size` numbers a step; it takes any number of steps."""
        from ..policy.networks.dit import DiT

        return DiT(
            action_size=action_size,
            conditioning_shape=conditioning_shape,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            size=self.size,
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
class RectifiedFlowConfig:
    """The straight path between data and noise."""

    num_times: int = 100

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ..policy.schedule import rectified_flow

        return rectified_flow(self.num_times)


@dataclass(kw_only=True)
class SamplerConfig:
    """What our samplers share: `num_steps` denoising steps, at levels of the noise schedule chosen by `spacing`.

    spacing: trailing, leading or linspace, which are even in time; karras; or log_snr, even in the logarithm of the
    signal-to-noise ratio. trailing ends with a long step, which loses small differences between actions; leading starts
    short of pure noise, which shifts all actions a little; karras and log_snr end with a short step.
    """

    kind: ClassVar[Any]
    num_steps: int = 10
    spacing: str = "trailing"

    def __post_init__(self) -> None:
        check_spacing(self.spacing)

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way: none, unless a sampler is stochastic."""
        return 0

    @property
    def solver(self) -> Solver:
        """The function that goes from noise to data."""
        return self.kind

    def build(self, schedule: NoiseSchedule) -> Sampler:
        """The sampler for that schedule."""
        return self.along(spaced(schedule.levels, self.num_steps, self.spacing))

    def along(self, levels: tuple[NoiseLevel, ...]) -> Sampler:
        """The sampler that visits these levels, as an exported policy keeps them; torch is not loaded."""
        return Sampler(self.solver, levels, num_draws=self.num_draws)


@dataclass(kw_only=True)
class DDIMConfig(SamplerConfig):
    """DDIM in `num_steps` denoising steps; `eta` = 0 is deterministic, 1 draws all the noise of DDPM.

    keeps_epsilon: if an estimate of x_0 is clipped, still step along the epsilon of the unclipped one, as diffusers
    does; only with eta = 0.
    """

    kind: ClassVar[Any] = staticmethod(ddim)
    eta: float = 0.0
    keeps_epsilon: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 (DDIM) and 1 (DDPM), got {self.eta}")
        if self.keeps_epsilon and self.eta:
            raise ValueError(f"keeps_epsilon needs deterministic steps, got eta={self.eta}: set eta=0, or leave it out")

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way."""
        return self.num_steps if self.eta else 0

    @property
    def solver(self) -> Solver:
        """The function that goes from noise to data."""
        return partial(self.kind, eta=self.eta)

    def along(self, levels: tuple[NoiseLevel, ...]) -> Sampler:
        """The sampler that visits these levels."""
        return replace(super().along(levels), keeps_epsilon=self.keeps_epsilon)


@dataclass(kw_only=True)
class DDPMConfig(SamplerConfig):
    """Ancestral sampling in `num_steps` denoising steps."""

    kind: ClassVar[Any] = staticmethod(ddpm)
    num_steps: int = 100

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way."""
        return self.num_steps


@dataclass(kw_only=True)
class DPMSolver2MConfig(SamplerConfig):
    """DPM-Solver++(2M), of second order with one evaluation in each of `num_steps` denoising steps."""

    kind: ClassVar[Any] = staticmethod(dpm_solver_2m)
    num_steps: int = 8
    spacing: str = "log_snr"


@dataclass(kw_only=True)
class HeunConfig(SamplerConfig):
    """Heun's method, of second order with two evaluations in each of `num_steps` denoising steps but the last."""

    kind: ClassVar[Any] = staticmethod(heun)
    num_steps: int = 5


@dataclass(kw_only=True)
class DiffusersSamplerConfig:
    """A scheduler of diffusers, by its class name there, with its own options and its own spacing; tried when built."""

    name: str = "DPMSolverMultistepScheduler"
    num_steps: int = 10
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, schedule: NoiseSchedule) -> Sampler:
        """The sampler for that schedule."""
        return from_diffusers(self.name, schedule, self.num_steps, **self.options)


@dataclass(kw_only=True)
class UniformConfig:
    """All noise levels count alike, in units of what the network predicts."""

    def build(self) -> Weighting:
        """The weighting."""
        from ..policy.weighting import uniform

        return uniform


@dataclass(kw_only=True)
class SNRConfig:
    """The error of x_0 counts by the signal-to-noise ratio."""

    def build(self) -> Weighting:
        """The weighting."""
        from ..policy.weighting import by_snr

        return by_snr


@dataclass(kw_only=True)
class MinSNRConfig:
    """The error of x_0 counts by the signal-to-noise ratio, at most `limit`."""

    limit: float = 5.0

    def __post_init__(self) -> None:
        positive(self, "limit")

    def build(self) -> Weighting:
        """The weighting."""
        from ..policy.weighting import min_snr

        return partial(min_snr, limit=self.limit)


@dataclass(kw_only=True)
class EDMWeightingConfig:
    """The weights of EDM; `data_std` is the standard deviation of normalised actions."""

    data_std: float = 0.5

    def __post_init__(self) -> None:
        positive(self, "data_std")

    def build(self) -> Weighting:
        """The weighting."""
        from ..policy.weighting import edm

        return partial(edm, data_std=self.data_std)


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

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> Policy:
        """An untrained policy."""
        from ..policy.diffusion import DiffusionPolicy

        slots = [slot.removeprefix("policy/") for slot in CHOICES if slot.startswith("policy/")]
        filled(self, *slots, of="policy/")
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
class OneLevelConfig:
    """No noise level but the last, at which nothing of a chunk is left."""

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ..policy.schedule import one_level

        return one_level()


@dataclass(kw_only=True)
class DenoisingConfig:
    """Predict the chunk, the noise, or a mixture of them at every noise level."""

    def build(self, weighting: Weighting) -> Objective:
        """The objective. weighting: of the noise levels."""
        from ..policy.objective import Denoising

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


_SAMPLERS = {
    "ddim": DDIMConfig,
    "ddpm": DDPMConfig,
    "dpm_solver_2m": DPMSolver2MConfig,
    "heun": HeunConfig,
    "diffusers": DiffusersSamplerConfig,
}

CHOICES: dict[str, dict[str, Any]] = {
    "policy": {"diffusion": DiffusionConfig, "regression": RegressionConfig},
    "policy/encoder": {"lowdim": LowdimEncoderConfig, "resnet": ResNetEncoderConfig, "vit": ViTEncoderConfig},
    "policy/network": {"unet1d": UNet1dConfig, "transformer": TransformerConfig, "dit": DiTConfig},
    "policy/schedule": {
        "cosine": CosineConfig,
        "rectified_flow": RectifiedFlowConfig,
        "diffusers": DiffusersScheduleConfig,
    },
    "policy/sampler": _SAMPLERS,
    "policy/objective": {"denoising": DenoisingConfig},
    "policy/weighting": {
        "uniform": UniformConfig,
        "snr": SNRConfig,
        "min_snr": MinSNRConfig,
        "edm": EDMWeightingConfig,
    },
    "sampler": _SAMPLERS,
    "execution": EXECUTIONS,
    "robot": ROBOTS,
}
"""Slot -> name -> what fills it. A slot is a Hydra config group, and its path in the run configuration.

In the slots of `MANY` there may be several, each under its name.
"""

MANY = ("execution",)
