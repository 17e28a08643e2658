"""Confidence intervals of rates and mean scores, over episodes and over trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float]

NUM_RESAMPLES = 10_000

MIN_TRAININGS = 3
"""The fewest trainings that show how much trainings differ."""


def wilson(successes: int, episodes: int) -> Interval:
    """The 95 % confidence interval of a success rate (Wilson 1927).

    >>> [round(bound, 3) for bound in wilson(45, 50)]
    [0.786, 0.957]
    """
    bounds = stats.binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(bounds.low), float(bounds.high)


def difference(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """The 95 % confidence interval of the first success rate minus the second, of different episodes.

    Each rate is (successes, episodes). It joins both intervals of Wilson (Newcombe 1998, method 10).

    >>> [round(bound, 3) for bound in difference((56, 70), (48, 80))]
    [0.052, 0.334]
    """
    (p, low, high), (q, other_low, other_high) = (
        (successes / episodes, *wilson(successes, episodes)) for successes, episodes in (first, second)
    )
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


def bootstrap(scores: Sequence[float]) -> Interval:
    """The 95 % confidence interval of the mean of scores in [0, 1]: a percentile bootstrap with a 0 and a 1 added.

    Percentiles of the scores alone ignore rare failures: a few episodes may show none, and the interval of a perfect
    sample would have no width. Scores are bounded, so one more of either extreme bounds what was missed. Agresti and
    Coull (1998) do the same to a rate, with two of each.

    Raises ValueError if there is no score, or if a score is outside [0, 1].

    >>> [round(bound, 2) for bound in bootstrap([1.0] * 20)]
    [0.86, 1.0]
    """
    if not len(scores) or not all(0 <= score <= 1 for score in scores):
        wrong = [score for score in scores if not 0 <= score <= 1]
        raise ValueError(
            f"scores must be at least one number, all in [0, 1], got {wrong[:3] if wrong else 'none'}: "
            "scale them to [0, 1]"
        )
    values = np.array([*scores, 0.0, 1.0])
    means = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def over_trainings(means: Sequence[float], over_episodes: Interval) -> Interval:
    """The 95 % confidence interval of a recipe's mean over all seeds of training.

    It is Student's t interval of the trainings' means, cut at 0 and 1 and then widened to include `over_episodes`, the
    interval over the episodes of all trainings: episodes do not get more certain if trainings happen to agree.

    means: the rate or mean score of each training, in [0, 1]. Raises ValueError for fewer than `MIN_TRAININGS`.

    >>> [round(bound, 3) for bound in over_trainings([0.40, 0.46, 0.22], wilson(54, 150))]
    [0.05, 0.67]
    """
    if len(means) < MIN_TRAININGS:
        raise ValueError(
            f"an interval over trainings needs at least {MIN_TRAININGS} trainings, got {len(means)}: "
            "train with more seeds"
        )
    centre, error = float(np.mean(means)), float(np.std(means, ddof=1)) / len(means) ** 0.5
    margin = float(stats.t.ppf(0.975, len(means) - 1)) * error
    low, high = over_episodes
    return min(low, max(centre - margin, 0.0)), max(high, min(centre + margin, 1.0))
