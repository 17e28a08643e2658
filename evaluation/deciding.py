"""Two policies in the same episodes until it is decided which one succeeds more often.

Episodes are rolled out in rounds, and looked at one after the other in the order of their seeds. The tests hold however
often one looks, so stopping early does not make a difference of equal policies more likely; see `pairs.e_value`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import Interval
from .pairs import LEVEL, anytime_interval, e_value
from .results import Measurement, Subject


@dataclass(frozen=True)
class Verdict:
    """What the episodes of two policies say."""

    kind: str
    """decided: one policy succeeds more often; equal: they differ by less than matters; undecided."""
    episodes: int
    """After how many episodes it was said."""
    evidence: float
    """The e-value then; 1 / `pairs.LEVEL` decides."""
    is_first_better: bool
    """Whether the first policy had more of the episodes that tell them apart then."""
    num_pairs: int
    """The episodes that were rolled out; a round ends after it is decided."""
    difference: float
    """The first success rate minus the second, in all episodes."""
    interval: Interval
    """The 95 % interval of the difference that holds after every number of episodes."""

    def sentence(self, first: str, second: str, *, indifference: float | None) -> str:
        """The verdict in words."""
        low, high = (100 * bound for bound in self.interval)
        points = f"{100 * self.difference:+.1f} points [{low:+.1f}, {high:+.1f}]"
        detail = f"e-value {self.evidence:.3g}; difference over {self.num_pairs} episodes {points}"
        if self.kind == "decided":
            better, worse = (first, second) if self.is_first_better else (second, first)
            result = f"{better} succeeds more often than {worse}"
        elif self.kind == "equal" and indifference is not None:
            result = f"{first} and {second} differ by less than {100 * indifference:g} points"
        else:
            result = f"{first} and {second} are not told apart"
        when = "undecided" if self.kind == "undecided" else "decided"
        return f"{when} after {self.episodes} episodes: {result} ({detail})"


def verdict(first: NDArray[np.bool_], second: NDArray[np.bool_], *, indifference: float | None) -> Verdict:
    """What the successes of two policies say, (N,) each in the order of the seeds.

    indifference: the largest difference of success rates that does not matter, or None. It is looked at after the last
    episode only, because its interval takes the longest to compute.
    """
    differences = first.astype(int) - second.astype(int)
    only_first, only_second = (differences > 0).cumsum(), (differences < 0).cumsum()
    interval, difference = anytime_interval(differences), float(differences.mean())
    evidence, count = 1.0, len(differences)
    for index in np.flatnonzero(differences):  # nothing is learned from the other episodes
        evidence = e_value(int(only_first[index]), int(only_second[index]))
        if evidence >= 1 / LEVEL:
            is_first = bool(only_first[index] > only_second[index])
            return Verdict("decided", int(index) + 1, evidence, is_first, count, difference, interval)
    is_equal = indifference is not None and -indifference <= interval[0] and interval[1] <= indifference
    kind = "equal" if is_equal else "undecided"
    return Verdict(kind, count, evidence, difference > 0, count, difference, interval)


def decide(
    subjects: Sequence[Subject], *, most: int, indifference: float | None, videos: int
) -> tuple[Verdict, list[Measurement]]:
    """Roll out two policies on the same seeds until they are told apart, or for `most` episodes; prints each round.

    A round has as many episodes as run at once. videos: episodes of each policy to film, from the first on.
    """
    measured = [subject.measure(min(subject.config.parallel, most), videos=videos) for subject in subjects]
    while True:
        successes = [np.array([one.success for one in whole.evaluation.outcomes]) for whole in measured]
        so_far, count = verdict(successes[0], successes[1], indifference=indifference), len(successes[0])
        rates = ", ".join(
            f"{subject.config.run} {100 * rate.mean():.0f} %" for subject, rate in zip(subjects, successes, strict=True)
        )
        print(f"{count} episodes: {rates}, e-value {so_far.evidence:.3g} (decided at {1 / LEVEL:g})")
        if so_far.kind != "undecided" or count >= most:
            return so_far, measured
        more = min(subjects[0].config.parallel, most - count)
        added = [subject.measure(more, skip=count) for subject in subjects]
        measured = [before.followed_by(after) for before, after in zip(measured, added, strict=True)]
