"""Tests of two policies in the same episodes: whether they differ, by how much, and how many episodes would show it.

Both policies act in the episodes of the same seeds, so an episode is a pair. Only the pairs in which just one policy
succeeds tell the policies apart; their numbers are called b (only the first succeeds) and c (only the second).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from .intervals import NUM_RESAMPLES, Interval

LEVEL = 0.05
"""The share of comparisons of equal policies that may find a difference."""

POWER = 0.8
"""The share of comparisons that should find a difference that there is."""

_GRID = np.linspace(0, 1, 2001)
"""The means (D + 1) / 2 that `anytime_interval` tests: differences D in steps of 0.001."""

_MOST_BET = 0.5
"""The largest share of its capital that `anytime_interval` bets, as its authors advise."""


@dataclass(frozen=True)
class Pairs:
    """The episodes of two policies, in the same order of seeds."""

    first: NDArray[np.bool_]
    """(N,) whether the first policy succeeds."""
    second: NDArray[np.bool_]
    """(N,) whether the second policy succeeds."""
    scores: NDArray[np.float64]
    """(N, 2) the score of either, in [0, 1]."""

    @property
    def only_first(self) -> int:
        """b, the episodes in which only the first policy succeeds."""
        return int((self.first & ~self.second).sum())

    @property
    def only_second(self) -> int:
        """c, the episodes in which only the second policy succeeds."""
        return int((self.second & ~self.first).sum())

    @property
    def difference(self) -> float:
        """The first success rate minus the second."""
        return (self.only_first - self.only_second) / len(self.first)

    @cached_property
    def p_value(self) -> float:
        """McNemar's mid-p value, two-sided; see `mid_p`."""
        return mid_p(self.only_first, self.only_second)

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the difference of the success rates; see `bonett_price`."""
        return bonett_price(self.only_first, self.only_second, len(self.first))

    @property
    def score_interval(self) -> Interval:
        """The 95 % interval of the difference of the mean scores: a percentile bootstrap over pairs.

        One pair of either extreme, with a difference of 1 and of -1, is added, as `intervals.bootstrap` adds scores.
        """
        return bootstrap_difference(self.scores[:, 0] - self.scores[:, 1])


def bootstrap_difference(differences: NDArray[np.float64]) -> Interval:
    """The 95 % interval of the mean of differences (N,) in [-1, 1]: a percentile bootstrap with a 1 and a -1 added.

    >>> [round(bound, 2) for bound in bootstrap_difference(np.zeros(48))]
    [-0.06, 0.06]
    """
    values = np.array([*differences, 1.0, -1.0])
    means = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def sign_flip(differences: Iterable[int]) -> float:
    """The two-sided mid-p value that equal policies differ so much in total, if each difference may have either sign.

    differences: of the numbers of successes in each episode, of which several trainings may have taken part. With one
    training of each policy it is `mid_p`.

    >>> math.isclose(sign_flip([1] * 7), mid_p(7, 0))
    True
    """
    values = list(differences)
    sizes = [abs(difference) for difference in values if difference]
    if not sizes:
        return 1.0
    chances = np.ones(1)  # of each total, from -sum(sizes) on
    for size in sizes:
        spread = np.zeros(len(chances) + 2 * size)
        spread[: len(chances)] += chances / 2
        spread[2 * size :] += chances / 2
        chances = spread
    totals, total = np.abs(np.arange(len(chances)) - sum(sizes)), abs(sum(values))
    return float(chances[totals > total].sum() + chances[totals == total].sum() / 2)


def mid_p(b: int, c: int) -> float:
    """McNemar's two-sided mid-p value of b and c (Fagerland et al. 2013): 1 if no episode tells the policies apart.

    >>> round(mid_p(7, 0), 4)
    0.0078
    """
    if b + c == 0:
        return 1.0
    fewer = min(b, c)
    half = float(stats.binom.pmf(fewer, b + c, 0.5))
    if b == c:
        return 1 - half / 2
    return 2 * float(stats.binom.cdf(fewer, b + c, 0.5)) - half


def bonett_price(b: int, c: int, num_pairs: int) -> Interval:
    """The 95 % interval of a difference of paired rates (Bonett and Price 2012), (b - c) / N after one more of each.

    >>> [round(bound, 3) for bound in bonett_price(7, 0, 50)]
    [0.028, 0.242]
    """
    first, second = (b + 1) / (num_pairs + 2), (c + 1) / (num_pairs + 2)
    centre = first - second
    margin = stats.norm.ppf(1 - LEVEL / 2) * math.sqrt((first + second - centre**2) / (num_pairs + 2))
    return float(max(centre - margin, -1.0)), float(min(centre + margin, 1.0))


def pairs_needed(difference: float, discordant: float) -> int | None:
    """The episodes with which McNemar's test finds a difference of rates four times in five (Connor 1987).

    difference: of the success rates. discordant: the share of episodes in which only one policy succeeds. None if there
    is no difference.

    >>> pairs_needed(0.1, 0.2), pairs_needed(0.05, 0.15)
    (155, 469)
    """
    if difference == 0:
        return None
    sizes = stats.norm.ppf(1 - LEVEL / 2), stats.norm.ppf(POWER)
    spread = math.sqrt(discordant), math.sqrt(max(discordant - difference**2, 0.0))
    return math.ceil((sizes[0] * spread[0] + sizes[1] * spread[1]) ** 2 / difference**2)


def e_value(b: int, c: int) -> float:
    """The evidence of b and c against equal success rates, which may be looked at after every episode.

    If the policies succeed equally often, it ever reaches 1 / `LEVEL` with a probability of at most `LEVEL` (Ville
    1939). It is the likelihood of b and c under a share drawn from Beta(1/2, 1/2), over that under a share of 1/2.

    >>> round(e_value(7, 0), 1)
    26.8
    """
    return math.exp(min(special.betaln(b + 0.5, c + 0.5) - special.betaln(0.5, 0.5) + (b + c) * math.log(2), 700.0))


def anytime_interval(differences: Sequence[float] | NDArray[np.float64]) -> Interval:
    """A 95 % interval of the mean of differences in [-1, 1] that holds after all episodes at once.

    With a probability of 95 % it holds the mean of the distribution however often one looks, and whenever one stops.
    It is the hedged capital process of Waudby-Smith and Ramdas (2024, theorem 3): for each mean, one gambler bets that
    the next episode is above it, and one that it is below. A mean against which either wins too much is excluded.

    differences: one for each episode, in the order of the seeds. Time and memory grow with their number.

    >>> low, high = anytime_interval([0.0] * 500)
    >>> -0.05 < low < 0 < high < 0.05
    True
    """
    values = (np.asarray(differences, np.float64) + 1) / 2
    count = np.arange(1, len(values) + 1)
    # What is known of the mean and the variance before each episode, beginning with 1/2 and 1/4.
    means = (0.5 + np.cumsum(values)) / (count + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets = np.sqrt(2 * math.log(2 / LEVEL) / (before * count * np.log(count + 1)))
    above = np.zeros(len(_GRID))
    below, highest = above.copy(), above.copy()
    with np.errstate(divide="ignore"):
        most_above, most_below = _MOST_BET / _GRID, _MOST_BET / (1 - _GRID)
    for value, bet in zip(values, bets, strict=True):
        above += np.log1p(np.minimum(bet, most_above) * (value - _GRID))
        below += np.log1p(-np.minimum(bet, most_below) * (value - _GRID))
        np.maximum(highest, np.maximum(above, below) - math.log(2), out=highest)
    kept = _GRID[highest < math.log(1 / LEVEL)]
    if not len(kept):  # the episodes changed on the way, so no mean fits all of them: the one that fits best
        kept = _GRID[[int(highest.argmin())]]
    return float(2 * kept.min() - 1), float(2 * kept.max() - 1)


def holm(p_values: Iterable[float]) -> list[float]:
    """P values corrected for their number (Holm 1979), in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = list(p_values)
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min((len(values) - rank) * values[index], 1.0))
        corrected[index] = largest
    return corrected


def letters(names: Sequence[str], differing: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Letters for each name such that two names share a letter if and only if they do not differ (Piepho 2004).

    names: the best first. differing: the pairs that were told apart.

    >>> letters(["a", "b", "c"], [("a", "c")])
    {'a': 'A', 'b': 'AB', 'c': 'B'}
    """
    apart = {frozenset(pair) for pair in differing}
    groups = [set(names)]
    for one, other in combinations(names, 2):
        if frozenset((one, other)) not in apart:
            continue
        split = [part for group in groups for part in _without_either(group, one, other)]
        groups = [group for index, group in enumerate(split) if not _is_in_another(index, split)]
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    shared: Mapping[str, str] = {
        name: "".join(_letter(index) for index, group in enumerate(groups) if name in group) for name in names
    }
    return dict(shared)


def _without_either(group: set[str], one: str, other: str) -> list[set[str]]:
    return [group - {one}, group - {other}] if {one, other} <= group else [group]


def _is_in_another(index: int, groups: Sequence[set[str]]) -> bool:
    """Whether a group is a part of another one; of equal groups, the first one counts."""
    group = groups[index]
    return any(
        group < other or (group == other and place < index) for place, other in enumerate(groups) if place != index
    )


def _letter(index: int) -> str:
    """A, B, ..., Z, A1, B1, ...

    >>> [_letter(index) for index in (0, 25, 26)]
    ['A', 'Z', 'A1']
    """
    turn, place = divmod(index, 26)
    return f"{chr(ord('A') + place)}{turn or ''}"
