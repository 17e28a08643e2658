"""How often each noise level of a table is drawn in training: one function per choice. Plain numbers.

A function maps the noisy levels of a table to the shares (T,) of the draws.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .levels import Levels

MOST_BEYOND = 0.05
"""Largest share of the draws of a distribution of noise that may lie beyond the noise levels of the schedule."""

MOST_OF_ONE = 0.5
"""Largest share of the draws that one noise level may have."""


def log_normal(levels: Levels, *, mean: float, std: float) -> NDArray[np.float64]:
    """ln(sigma / alpha) is normal (Karras et al. 2022, table 1).

    A level has the draws that are nearer to it than to the others, in the share of the signal. Raises ValueError if
    more than `MOST_BEYOND` of the draws lie beyond the levels.
    """
    share = np.array([level.share for level in levels])
    middle = (share[1:] + share[:-1]) / 2
    log_ratio = np.concatenate([[-math.inf], np.log((1 - middle) / middle), [math.inf]])
    least, most = -levels[0].log_snr, -levels[-1].log_snr
    beyond = 1 - _normal((most - mean) / std) + _normal((least - mean) / std)
    if beyond > MOST_BEYOND:
        raise ValueError(
            f"policy/times=log_normal draws {100 * beyond:.0f} % of its noise beyond the noise levels of the schedule, "
            f"whose ln(sigma / alpha) is {least:.3g} to {most:.3g}, got mean={mean:g} and std={std:g}: change them, or "
            "the schedule"
        )
    return np.diff([_normal((x - mean) / std) for x in log_ratio])


def beta(levels: Levels, *, a: float, b: float) -> NDArray[np.float64]:
    """The time, from 0 at clean data to 1 at pure noise, has a Beta distribution (Black et al. 2024, appendix B)."""
    from scipy.special import betainc

    return np.diff(betainc(a, b, np.linspace(0, 1, len(levels) + 1)))


def check_shares(shares: NDArray[np.float64]) -> None:
    """Raise ValueError if one of several noise levels has most of the draws."""
    if len(shares) > 1 and shares.max() > MOST_OF_ONE:
        raise ValueError(
            f"policy.times must draw no noise level more often than {MOST_OF_ONE:.0%}, but draws level "
            f"{shares.argmax()} of {len(shares)} in {shares.max():.0%} of the cases: choose a wider distribution"
        )


def _normal(x: float) -> float:
    """The distribution function of the standard normal law."""
    return (1 + math.erf(x / math.sqrt(2))) / 2
