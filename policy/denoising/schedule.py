"""Noise schedules: how signal turns into noise as time goes from data to noise.

A schedule maps times to (alpha, sigma) with x_t = alpha x_0 + sigma epsilon. In training it maps tensors of times. In
sampling all rows share a time, and `levels` is its table of plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .levels import Levels, NoiseLevel


class DiscreteSchedule(nn.Module):
    """A table of noise levels. Times are the integers from 0 to T - 1; time -1 is clean data.

    alpha, sigma: (T + 1,) float64, for the times from -1 on. The buffers have torch's default dtype.

    Raises ValueError unless the table starts with clean data and every time is noisier than the one before.
    """

    levels: Levels
    """The table as plain numbers, for the times from -1 on."""
    alpha: Tensor
    sigma: Tensor
    cumulative: Tensor | None
    """(T,), the share of the training draws up to each noisy level. None: all levels are drawn equally often."""

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        super().__init__()
        ratio = sigma / alpha
        if (alpha[0], sigma[0]) != (1, 0) or len(alpha) < 2 or not bool((ratio.diff() > 0).all()):
            raise ValueError(
                "noise levels must start with clean data (alpha 1, sigma 0) and become noisier with every time, got "
                f"alpha {alpha.tolist()} and sigma {sigma.tolist()}"
            )
        self.levels = tuple(map(NoiseLevel, range(-1, len(alpha) - 1), alpha.tolist(), sigma.tolist()))
        self.register_buffer("alpha", alpha.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sigma", sigma.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("cumulative", None, persistent=False)

    @property
    def num_times(self) -> int:
        """T, the number of noisy times."""
        return len(self.alpha) - 1

    @property
    def preserves_variance(self) -> bool:
        """Whether alpha^2 + sigma^2 = 1 at all times, so that betas can describe the schedule."""
        return all(abs(alpha**2 + sigma**2 - 1) < 1e-6 for _, alpha, sigma in self.levels)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients alpha and sigma at integer times t from -1 to T - 1.

        Raises ValueError for times that are not integers, and on the CPU IndexError for times outside the table.
        """
        if t.is_floating_point():
            raise ValueError(f"times must be integers from -1 to {self.num_times - 1}, got {t.dtype}: round them")
        index = (t + 1).flatten()
        return self.alpha.index_select(0, index).view(t.shape), self.sigma.index_select(0, index).view(t.shape)

    def time(self, level: Tensor) -> Tensor:
        """See `NoiseSchedule.time`. All times are equally frequent, unless `draw` changed it."""
        if self.cumulative is not None:
            return torch.searchsorted(self.cumulative, level, right=True).clamp_(max=self.num_times - 1)
        return (level * self.num_times).long().clamp_(max=self.num_times - 1)

    def draw(self, shares: Sequence[float]) -> None:
        """Draw each noisy level in training in its share (T,) of the cases; see `policy.denoising.times`."""
        cumulative = torch.tensor(shares, dtype=torch.float64).cumsum(dim=0)
        self.cumulative = cumulative.to(torch.get_default_dtype())


def from_betas(betas: Tensor) -> DiscreteSchedule:
    """The variance-preserving chain of DDPM, computed in float64 (Ho et al. 2020, eq. 4).

    alpha_t^2 = prod_{s <= t} (1 - beta_s) and sigma_t^2 = 1 - alpha_t^2.
    """
    if betas.ndim != 1 or not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(f"betas must be one list of numbers between 0 and 1, got {betas.tolist()}")
    signal = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas.double(), dim=0)])
    return DiscreteSchedule(signal.sqrt(), (1 - signal).sqrt())


def rectified_flow(num_times: int) -> DiscreteSchedule:
    """The straight path from data to noise, alpha = 1 - sigma, with sigma rising evenly (Liu et al. 2022, eq. 1)."""
    sigma = torch.linspace(0, 1, num_times + 1, dtype=torch.float64)
    return DiscreteSchedule(1 - sigma, sigma)


def cosine(num_times: int) -> DiscreteSchedule:
    """The squared-cosine schedule (Nichol & Dhariwal 2021, eq. 17), with betas capped at 0.999 as they advise."""
    grid = torch.linspace(0, 1, num_times + 1, dtype=torch.float64)
    signal = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
    return from_betas((1 - signal[1:] / signal[:-1]).clamp(max=0.999))


def karras(num_times: int, sigma_min: float, sigma_max: float, rho: float) -> DiscreteSchedule:
    """The noise levels of EDM, sigma^(1 / rho) rising evenly (Karras et al. 2022, eq. 5), for x of unit variance.

    EDM adds the noise to x_0 and divides by sqrt(sigma^2 + 1) before the network. Here x is divided from the start, so
    alpha = 1 / sqrt(sigma^2 + 1), and the prediction v is the preconditioned network of EDM for data of variance 1.
    """
    noise = (
        torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_times, dtype=torch.float64).flip(0) ** rho
    )
    noise = torch.cat([torch.zeros(1, dtype=torch.float64), noise])
    scale = (noise**2 + 1).rsqrt()
    return DiscreteSchedule(scale, noise * scale)


def one_level() -> DiscreteSchedule:
    """Clean data and one level without any signal: the network predicts x_0 in one step, as in regression."""
    return DiscreteSchedule(*torch.tensor([[1, 0], [0, 1]], dtype=torch.float64))


def from_diffusers(beta_schedule: str, num_times: int, beta_start: float, beta_end: float) -> DiscreteSchedule:
    """A beta schedule of `diffusers.DDPMScheduler` by its name, such as "linear" or "scaled_linear"."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    try:
        scheduler = DDPMScheduler(num_times, beta_start, beta_end, beta_schedule)  # type: ignore[arg-type]
    except NotImplementedError as error:
        raise ValueError(f"beta_schedule must be a name that diffusers knows, got {beta_schedule!r}: {error}") from None
    return from_betas(scheduler.betas)
