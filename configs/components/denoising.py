"""Noise schedules, samplers and loss weights: plain values whose `build` makes the real object."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...policy.denoising.diffusers_samplers import diffusers_sampler
from ...policy.denoising.levels import NoiseLevel, check_spacing, spaced
from ...policy.denoising.sampling import Sampler, ddim, ddpm, dpm_solver_2m, heun
from ..checks import positive

if TYPE_CHECKING:
    from ...policy.denoising.interface import NoiseSchedule, Solver, Weighting


@dataclass(kw_only=True)
class CosineConfig:
    """The squared-cosine noise schedule."""

    num_times: int = 100

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ...policy.denoising.schedule import cosine

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
        from ...policy.denoising.schedule import from_diffusers

        return from_diffusers(self.beta_schedule, self.num_times, self.beta_start, self.beta_end)


@dataclass(kw_only=True)
class RectifiedFlowConfig:
    """The straight path between data and noise."""

    num_times: int = 100

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ...policy.denoising.schedule import rectified_flow

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
        return diffusers_sampler(self.name, schedule, self.num_steps, **self.options)


@dataclass(kw_only=True)
class UniformConfig:
    """All noise levels count alike, in units of what the network predicts."""

    def build(self) -> Weighting:
        """The weighting."""
        from ...policy.denoising.weighting import uniform

        return uniform


@dataclass(kw_only=True)
class SNRConfig:
    """The error of x_0 counts by the signal-to-noise ratio."""

    def build(self) -> Weighting:
        """The weighting."""
        from ...policy.denoising.weighting import by_snr

        return by_snr


@dataclass(kw_only=True)
class MinSNRConfig:
    """The error of x_0 counts by the signal-to-noise ratio, at most `limit`."""

    limit: float = 5.0

    def __post_init__(self) -> None:
        positive(self, "limit")

    def build(self) -> Weighting:
        """The weighting."""
        from ...policy.denoising.weighting import min_snr

        return partial(min_snr, limit=self.limit)


@dataclass(kw_only=True)
class EDMWeightingConfig:
    """The weights of EDM; `data_std` is the standard deviation of normalised actions."""

    data_std: float = 0.5

    def __post_init__(self) -> None:
        positive(self, "data_std")

    def build(self) -> Weighting:
        """The weighting."""
        from ...policy.denoising.weighting import edm

        return partial(edm, data_std=self.data_std)


@dataclass(kw_only=True)
class OneLevelConfig:
    """No noise level but the last, at which nothing of a chunk is left."""

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ...policy.denoising.schedule import one_level

        return one_level()
