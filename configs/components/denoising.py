"""Noise schedules, samplers and loss weightings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...policy.denoising.diffusers_samplers import diffusers_sampler
from ...policy.denoising.levels import NoiseLevel, check_spacing, churned, spaced
from ...policy.denoising.sampling import Sampler, ddim, ddpm, dpm_solver_2m, euler_maruyama, heun, karras, langevin
from ..checks import not_negative, positive, share
from .lazy import load, values

if TYPE_CHECKING:
    from ...policy.denoising.interface import NoiseSchedule, Solver, Weighting


MOST_LEVELS = 10_000
"""Most noise levels of a schedule."""

MOST_LOG = 20.0
"""Largest logarithm of sigma / alpha, of either sign."""

LEAST_START = 10.0
"""Least sigma / alpha of a noise level that passes for pure noise."""


@dataclass(kw_only=True)
class ScheduleConfig:
    """What the configurations of noise schedules share."""

    kind: ClassVar[str]

    def build(self) -> NoiseSchedule:
        """The schedule."""
        return load(self.kind)(**values(self))


@dataclass(kw_only=True)
class LevelsConfig(ScheduleConfig):
    """What the configurations of schedules of several noise levels share."""

    num_times: int = 100
    """Number of noise levels."""

    def __post_init__(self) -> None:
        positive(self, "num_times", most=MOST_LEVELS)


@dataclass(kw_only=True)
class CosineConfig(LevelsConfig):
    """The squared-cosine noise schedule."""

    kind: ClassVar[str] = "policy.denoising.schedule:cosine"


@dataclass(kw_only=True)
class DiffusersScheduleConfig(LevelsConfig):
    """A beta schedule of the library diffusers."""

    kind: ClassVar[str] = "policy.denoising.schedule:from_diffusers"
    beta_schedule: str = "linear"
    """Its name in diffusers."""
    beta_start: float = 1e-4
    """Beta of the first noise level."""
    beta_end: float = 0.02
    """Beta of the last noise level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "beta_start", "beta_end")


@dataclass(kw_only=True)
class RectifiedFlowConfig(LevelsConfig):
    """The straight path between data and noise."""

    kind: ClassVar[str] = "policy.denoising.schedule:rectified_flow"


@dataclass(kw_only=True)
class KarrasScheduleConfig(LevelsConfig):
    """The noise schedule of EDM (Karras et al. 2022), scaled to unit variance."""

    kind: ClassVar[str] = "policy.denoising.schedule:karras"
    sigma_min: float = 0.002
    """Least sigma / alpha."""
    sigma_max: float = 80.0
    """Most sigma / alpha. Sampling starts from pure noise, so it is at least 10."""
    rho: float = 7.0
    """sigma^(1 / rho) rises evenly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "sigma_min", most=1.0)
        positive(self, "sigma_max", most=1e4)
        positive(self, "rho", most=100.0)
        if self.sigma_max < LEAST_START:
            raise ValueError(
                f"sigma_max must be at least {LEAST_START:g}, because sampling starts from pure noise, got "
                f"{self.sigma_max:g}: choose the published 80"
            )


@dataclass(kw_only=True)
class OneLevelConfig(ScheduleConfig):
    """A single noise level, pure noise, as regression needs."""

    kind: ClassVar[str] = "policy.denoising.schedule:one_level"


@dataclass(kw_only=True)
class TimesConfig:
    """What the configurations of the training draws of noise levels share."""

    kind: ClassVar[str]

    def build(self, schedule: NoiseSchedule) -> NoiseSchedule:
        """The schedule, with its levels drawn in their shares."""
        shares = load(self.kind)(schedule.levels[1:], **values(self))
        load("policy.denoising.times:check_shares")(shares)
        draw = getattr(schedule, "draw", None)
        if draw is None:
            raise ValueError(
                f"policy.times needs a schedule that is a table of noise levels, got {type(schedule).__name__}: choose "
                "policy/times=uniform"
            )
        draw(shares.tolist())
        return schedule


@dataclass(kw_only=True)
class UniformTimesConfig(TimesConfig):
    """All noise levels are drawn equally often."""

    def build(self, schedule: NoiseSchedule) -> NoiseSchedule:
        """The schedule as it is."""
        return schedule


@dataclass(kw_only=True)
class LogNormalTimesConfig(TimesConfig):
    """The logarithm of sigma / alpha is normal, as in EDM (Karras et al. 2022)."""

    kind: ClassVar[str] = "policy.denoising.times:log_normal"
    mean: float = -1.2
    """Mean of ln(sigma / alpha)."""
    std: float = 1.2
    """Standard deviation of ln(sigma / alpha)."""

    def __post_init__(self) -> None:
        positive(self, "std", most=100.0)
        if not abs(self.mean) <= MOST_LOG:
            raise ValueError(
                f"mean must lie between -{MOST_LOG:g} and {MOST_LOG:g}, got {self.mean}: the published is -1.2"
            )


@dataclass(kw_only=True)
class BetaTimesConfig(TimesConfig):
    """The time, from 0 at clean data to 1 at pure noise, has a Beta distribution, as in pi0 (Black et al. 2024)."""

    kind: ClassVar[str] = "policy.denoising.times:beta"
    a: float = 1.5
    """Above b, noisy levels are drawn more often."""
    b: float = 1.0
    """Above a, levels of little noise are drawn more often."""

    def __post_init__(self) -> None:
        positive(self, "a", "b", most=1000.0)


@dataclass(kw_only=True)
class SamplerConfig:
    """What the configurations of recede's samplers share.

    A trailing spacing ends with a long step, which loses small differences between actions. A leading one starts short
    of pure noise, which shifts all actions a little. karras and log_snr end with a short step.
    """

    kind: ClassVar[Any]
    num_steps: int = 10
    """Number of denoising steps."""
    spacing: str = "trailing"
    """Noise levels of the steps: trailing, leading or linspace (even in time), karras, or log_snr (even in log SNR)."""

    def __post_init__(self) -> None:
        positive(self, "num_steps", most=MOST_LEVELS)
        check_spacing(self.spacing)

    @property
    def draws_per_step(self) -> int:
        """Fresh noises that the solver may add in each step along its levels: none, unless it is stochastic."""
        return 0

    @property
    def solver(self) -> Solver:
        """The function that denoises."""
        return self.kind

    def build(self, schedule: NoiseSchedule) -> Sampler:
        """The sampler for a noise schedule."""
        return self.along(spaced(schedule.levels, self.num_steps, self.spacing))

    def along(self, levels: tuple[NoiseLevel, ...]) -> Sampler:
        """The sampler that visits these levels. Does not load torch, so that exported policies can use it."""
        return Sampler(self.solver, levels, num_draws=self.draws_per_step * (len(levels) - 1))


@dataclass(kw_only=True)
class DDIMConfig(SamplerConfig):
    """DDIM, deterministic by default."""

    kind: ClassVar[Any] = staticmethod(ddim)
    eta: float = 0.0
    """Share of the noise of DDPM that is added in each step: 0 is deterministic, 1 is DDPM."""
    keeps_epsilon: bool = False
    """After clipping an estimate of x_0, step along the unclipped epsilon, as diffusers does. Needs eta=0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 (DDIM) and 1 (DDPM), got {self.eta}")
        if self.keeps_epsilon and self.eta:
            raise ValueError(f"keeps_epsilon=true needs eta=0, got eta={self.eta}: change one of them")

    @property
    def draws_per_step(self) -> int:
        """One, or none."""
        return 1 if self.eta else 0

    @property
    def solver(self) -> Solver:
        """The function that denoises."""
        return partial(self.kind, eta=self.eta)

    def along(self, levels: tuple[NoiseLevel, ...]) -> Sampler:
        """The sampler that visits these levels."""
        return replace(super().along(levels), keeps_epsilon=self.keeps_epsilon)


@dataclass(kw_only=True)
class StochasticConfig(SamplerConfig):
    """What the configurations of samplers share that may add fresh noise in every step."""

    @property
    def draws_per_step(self) -> int:
        """One."""
        return 1


@dataclass(kw_only=True)
class DDPMConfig(StochasticConfig):
    """DDPM, ancestral sampling with fresh noise in each step."""

    kind: ClassVar[Any] = staticmethod(ddpm)
    num_steps: int = 100


@dataclass(kw_only=True)
class DPMSolver2MConfig(SamplerConfig):
    """DPM-Solver++(2M), a second-order solver with one network evaluation in each step."""

    kind: ClassVar[Any] = staticmethod(dpm_solver_2m)
    num_steps: int = 8
    spacing: str = "log_snr"


@dataclass(kw_only=True)
class HeunConfig(SamplerConfig):
    """Heun's method, a second-order solver with two network evaluations in each step but the last."""

    kind: ClassVar[Any] = staticmethod(heun)
    num_steps: int = 5


@dataclass(kw_only=True)
class KarrasSamplerConfig(StochasticConfig):
    """The stochastic sampler of EDM: before each step of Heun's method, noise is added (Karras et al. 2022)."""

    kind: ClassVar[Any] = staticmethod(karras)
    num_steps: int = 10
    spacing: str = "karras"
    churn: float = 2.0
    """sigma / alpha is raised by this share, divided by num_steps, in each step; at most by 41 %."""
    low: float = 0.05
    """Lowest sigma / alpha that is raised."""
    high: float = 50.0
    """Highest sigma / alpha that is raised."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "churn", most=1000.0)
        not_negative(self, "low", "high", most=1e6)

    def build(self, schedule: NoiseSchedule) -> Sampler:
        """The sampler for a noise schedule, which must have levels to which those of the steps can be raised."""
        levels = spaced(schedule.levels, self.num_steps, self.spacing)
        path = churned(levels, schedule.levels, churn=self.churn, low=self.low, high=self.high)
        if path == levels:
            raise ValueError(
                f"sampler=karras adds no noise with churn={self.churn:g}, low={self.low:g} and high={self.high:g} at "
                f"the {len(schedule.levels) - 1} noise levels of this schedule: raise churn, or choose sampler=heun"
            )
        return self.along(path)


@dataclass(kw_only=True)
class LangevinConfig(SamplerConfig):
    """Annealed Langevin dynamics: at each noise level corrector steps with fresh noise, then a step to the next."""

    kind: ClassVar[Any] = staticmethod(langevin)
    num_steps: int = 20
    spacing: str = "log_snr"
    corrections: int = 1
    """Corrector steps at each noise level, with one network evaluation each."""
    size: float = 0.3
    """Variance of the noise of a corrector step, as a share of that of the noise level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "corrections", most=1000)
        positive(self, "size", most=2.0)

    @property
    def draws_per_step(self) -> int:
        """One for each corrector step."""
        return self.corrections

    @property
    def solver(self) -> Solver:
        """The function that denoises."""
        return partial(self.kind, corrections=self.corrections, size=self.size)


@dataclass(kw_only=True)
class EulerMaruyamaConfig(StochasticConfig):
    """The Euler-Maruyama method on the reverse stochastic differential equation, with fresh noise in each step."""

    kind: ClassVar[Any] = staticmethod(euler_maruyama)
    num_steps: int = 50
    diffusion: float = 1.0
    """Strength of the noise. Towards 0 the equation becomes that of DDIM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "diffusion", most=2.0)

    @property
    def solver(self) -> Solver:
        """The function that denoises."""
        return partial(self.kind, diffusion=self.diffusion)


@dataclass(kw_only=True)
class DiffusersSamplerConfig:
    """A scheduler of the library diffusers, with its own spacing. It is tried on known distributions when built."""

    name: str = "DPMSolverMultistepScheduler"
    """Name of its class in diffusers."""
    num_steps: int = 10
    """Number of denoising steps."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of its class."""

    def __post_init__(self) -> None:
        positive(self, "num_steps", most=MOST_LEVELS)

    def build(self, schedule: NoiseSchedule) -> Sampler:
        """The sampler for a noise schedule."""
        return diffusers_sampler(self.name, schedule, self.num_steps, **self.options)


@dataclass(kw_only=True)
class WeightingConfig:
    """What the configurations of loss weightings share."""

    kind: ClassVar[str]

    def build(self) -> Weighting:
        """The weighting."""
        return partial(load(self.kind), **values(self))


@dataclass(kw_only=True)
class UniformConfig(WeightingConfig):
    """All noise levels weigh the same, in units of the network's output."""

    kind: ClassVar[str] = "policy.denoising.weighting:uniform"


@dataclass(kw_only=True)
class SNRConfig(WeightingConfig):
    """The error of x_0 weighs as much as the signal-to-noise ratio."""

    kind: ClassVar[str] = "policy.denoising.weighting:by_snr"


@dataclass(kw_only=True)
class MinSNRConfig(WeightingConfig):
    """The error of x_0 weighs as much as the signal-to-noise ratio, up to a limit (Hang et al. 2023)."""

    kind: ClassVar[str] = "policy.denoising.weighting:min_snr"
    limit: float = 5.0
    """Largest weight."""

    def __post_init__(self) -> None:
        positive(self, "limit", most=1e9)


@dataclass(kw_only=True)
class EDMWeightingConfig(WeightingConfig):
    """The weights of EDM (Karras et al. 2022)."""

    kind: ClassVar[str] = "policy.denoising.weighting:edm"
    data_std: float = 0.5
    """Standard deviation of normalised actions."""

    def __post_init__(self) -> None:
        positive(self, "data_std", most=1e3)
