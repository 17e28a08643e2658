"""Noise levels, and the choice of the levels that a sampler visits. Plain numbers; this module loads without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...specification import nearest


class NoiseLevel(NamedTuple):
    """A level of noise: x_t = alpha x_0 + sigma epsilon at `time`. Clean data has alpha 1 and sigma 0."""

    time: float
    alpha: float
    sigma: float

    @property
    def share(self) -> float:
        """The share of the signal, alpha / (alpha + sigma). The time of a flow: 0 at pure noise, 1 at clean data."""
        return self.alpha / (self.alpha + self.sigma)

    @property
    def log_snr(self) -> float:
        """log(alpha / sigma), half the logarithm of the signal-to-noise ratio. Infinite at both ends."""
        if self.alpha and self.sigma:
            return math.log(self.alpha / self.sigma)
        return math.copysign(math.inf, self.alpha - self.sigma)


Levels = Sequence[NoiseLevel]
"""Noise levels in order: a schedule's from clean data to noise, a sampler's from noise to clean data."""


def trailing(table: Levels, num_steps: int) -> list[int]:
    """The last level of each of N equal intervals of time (Lin et al. 2023, table 2).

    Sampling starts from pure noise.
    """
    last = len(table) - 1
    return [round(step * last / num_steps) for step in range(num_steps, 0, -1)]


def leading(table: Levels, num_steps: int) -> list[int]:
    """The first level of each of N intervals of T // N times, as in diffusers (Lin et al. 2023, table 2).

    Sampling starts short of pure noise. Raises ValueError for a single step, which would start from almost no noise.
    """
    stride = (len(table) - 1) // num_steps
    if num_steps == 1 < stride:
        raise ValueError("spacing=leading needs 2 steps or more, got 1: choose spacing=trailing")
    return [1 + step * stride for step in range(num_steps - 1, -1, -1)]


def linspace(table: Levels, num_steps: int) -> list[int]:
    """Evenly from the last level to the first noisy one, both included (Lin et al. 2023, table 2)."""
    last, gaps = len(table) - 1, max(num_steps - 1, 1)
    return [1 + round((last - 1) * (gaps - step) / gaps) for step in range(num_steps)]


def log_snr(table: Levels, num_steps: int) -> list[int]:
    """Evenly in the logarithm of the signal-to-noise ratio (Lu et al. 2022, section 6.1)."""
    return _even(table, num_steps, lambda value: value)


def karras(table: Levels, num_steps: int) -> list[int]:
    """Evenly in (sigma / alpha)^(1 / 7) (Karras et al. 2022, eq. 5)."""
    return _even(table, num_steps, lambda value: -math.exp(-value / 7))


MOST_NOISE = 20.0
"""Levels with a larger sigma / alpha count as this one: actions hardly show there, and steps would be wasted."""


def _even(table: Levels, num_steps: int, scale: Callable[[float], float]) -> list[int]:
    """The levels nearest to even steps of `scale`, an increasing function of log_snr.

    From the last level to the first noisy level; no level is visited twice.
    """
    values = [scale(max(level.log_snr, -math.log(MOST_NOISE))) for level in table[1:]]
    step = (values[0] - values[-1]) / max(num_steps - 1, 1)
    positions = [len(values)]
    for index in range(num_steps):
        target = values[-1] + index * step
        closest = min(reversed(range(len(values))), key=lambda position: abs(values[position] - target))
        positions.append(max(min(closest, positions[-1] - 1), num_steps - 1 - index))
    return [1 + position for position in positions[1:]]


SPACINGS: dict[str, Callable[[Levels, int], list[int]]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "karras": karras,
    "log_snr": log_snr,
}
"""Name -> function (table, N) -> indices of N noisy levels of the table, the noisiest first."""


def spaced(table: Levels, num_steps: int, spacing: str) -> tuple[NoiseLevel, ...]:
    """The N + 1 levels of a sampler with N steps, from noise to clean data.

    table: the levels of a schedule, clean data first. spacing: one of `SPACINGS`. Raises ValueError if the spacing does
    not exist, or if there are more steps than noisy levels.
    """
    check_spacing(spacing)
    check_num_steps(table, num_steps)
    return (*(table[index] for index in SPACINGS[spacing](table, num_steps)), table[0])


MOST_CHURN = math.sqrt(2) - 1
"""The largest share by which sigma / alpha is raised in one step (Karras et al. 2022, algorithm 2)."""


def churned(levels: Levels, table: Levels, *, churn: float, low: float, high: float) -> tuple[NoiseLevel, ...]:
    """The levels of a sampler, with a noisier one behind each that is raised (Karras et al. 2022, algorithm 2).

    sigma / alpha is raised by a share of churn / N, at most `MOST_CHURN`, where it lies in [low, high]: to the nearest
    level of the table, so that the network knows it. churn = 0 raises none.
    """
    factor, path = 1 + min(churn / (len(levels) - 1), MOST_CHURN), list[NoiseLevel]()
    for level in levels:
        path.append(level)
        if level.alpha and level.sigma and low <= level.sigma / level.alpha <= high:
            raised = min(table[1:], key=lambda other: abs(level.log_snr - math.log(factor) - other.log_snr))
            path += [raised] if raised.log_snr < level.log_snr else []
    return tuple(path)


def check_num_steps(table: Levels, num_steps: int) -> None:
    """Raise ValueError unless the schedule has a noisy level for every step."""
    if not 1 <= num_steps < len(table):
        raise ValueError(
            f"the number of denoising steps must be between 1 and the {len(table) - 1} noise levels "
            f"of the schedule, got {num_steps}"
        )


def check_spacing(spacing: str) -> None:
    """Raise ValueError if the spacing does not exist."""
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}: {nearest(spacing, SPACINGS)}")
