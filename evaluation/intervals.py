"""What a number of episodes says: no rate and no mean without its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def wilson(successes: int, episodes: int) -> Interval:
    """The 95 % confidence interval of a success rate (Wilson 1927).

    >>> [round(bound, 3) for bound in wilson(45, 50)]
    [0.786, 0.957]
    """
    found = stats.binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def bootstrap(scores: Sequence[float]) -> Interval:
    """The 95 % bootstrap interval of a mean score: percentiles of 10,000 resampled means."""
    if len(set(scores)) == 1:  # nothing to resample; scipy warns of it
        return scores[0], scores[0]
    found = stats.bootstrap((scores,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
