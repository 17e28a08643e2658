"""What looks wrong in single episodes of demonstrations, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations
from .films import Film
from .quality import FEW, IDLE_S, JERK, JUMP, LATE, LIVELY, OUTLIER, STILL, Measures
from .similarity import Ways, near_duplicates, ways

ALIKE_STARTS = 0.01
"""Starts that differ by less than this share of the ranges in every dimension, standard deviation, are one start."""

REPEATS = 0.2
"""Repeated images in this share of the moving steps are many, where they are few in most episodes."""

FROZEN_S = 1.0
"""A film that stands still for so long while something moves is frozen, s."""

SLOW = 0.9
"""A stream is slow if its measured rate is below this share of the control rate."""

HARD = 2.5
"""An error of a policy is large if it is so many times the median of the episodes."""

MOST_NAMED = 8
"""A remedy that leaves episodes out names at most so many."""


class Remark(NamedTuple):
    """What looks wrong in some episodes, and what to do about it."""

    title: str
    text: str
    remedy: str
    episodes: tuple[int, ...]
    """Their indices, ascending; empty if it concerns all."""

    def __str__(self) -> str:
        return f"{self.title}: {self.text}: {self.remedy}"


def remarks(
    demonstrations: Demonstrations,
    measures: Measures,
    films: Sequence[Film] = (),
    errors: NDArray[np.float64] | None = None,
) -> list[Remark]:
    """All that looks wrong. errors: of a policy in each episode (n,), if there is one."""
    judge = _Judge(demonstrations, measures)
    return [
        *judge.outcomes(),
        *judge.idle(),
        *judge.outliers(),
        *judge.still(),
        *judge.skew(),
        *judge.timing(),
        *(remark for film in films for remark in judge.film(film)),
        *judge.starts(),
        *judge.duplicates(),
        *([] if errors is None else judge.errors(errors)),
    ]


def ways_of(measures: Measures) -> Ways | None:
    """Two ways in which the task is done, if there seem to be two."""
    return ways(measures.paths, measures.is_action, measures.steps)


def in_any(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,): whether a mask (n, D) is true in any dimension."""
    return np.logical_or.reduce(mask, axis=1)


class _Judge(NamedTuple):
    demonstrations: Demonstrations
    measures: Measures

    def numbers(self, episodes: Sequence[int]) -> str:
        """The episodes as they are numbered in the store."""
        names = [str(self.demonstrations.episode_numbers[episode]) for episode in episodes[:MOST_NAMED]]
        more = f" and {len(episodes) - MOST_NAMED} more" if len(episodes) > MOST_NAMED else ""
        return f"{'episode' if len(episodes) == 1 else 'episodes'} {', '.join(names)}{more}"

    def left_out(self, episodes: Sequence[int]) -> str:
        """A condition that leaves episodes out, if they are few."""
        if len(episodes) > MOST_NAMED:
            return "leave them out"
        names = self.demonstrations.episode_numbers[list(episodes)]
        return f'leave them out (episodes="{" and ".join(f"episode!={name}" for name in names)}")'

    def remark(self, title: str, text: str, remedy: str, mask: NDArray[np.bool_]) -> Iterator[Remark]:
        """A remark about the episodes of a mask (n,), if there are any; {} in its texts stands for their numbers."""
        episodes = np.flatnonzero(mask).tolist()
        if episodes:
            names, without = self.numbers(episodes), self.left_out(episodes)
            yield Remark(title, text.replace("{}", names), remedy.replace("{out}", without), tuple(episodes))

    def outcomes(self) -> Iterator[Remark]:
        is_failure = np.array([facts.outcome == "failure" for facts in self.demonstrations.episode_facts], dtype=bool)
        yield from self.remark(
            "Failures",
            "{} ended in failure",
            'train with episodes="outcome!=failure", or the policy learns to fail',
            is_failure,
        )

    def idle(self) -> Iterator[Remark]:
        if not self.measures.dimensions:
            return  # they are all still, and reported as such
        for title, seconds, when in (
            ("Idle start", self.measures.idle_start, "before anything moves"),
            ("Idle end", self.measures.idle_end, "after the last motion"),
        ):
            yield from self.remark(
                title,
                f"{IDLE_S:g} s or longer {when} in {{}}, at most {seconds.max():.1f} s",
                "cut the wait off (recede edit trim_idle=true), or {out}: the policy would learn to wait",
                seconds >= IDLE_S - 1e-9,
            )

    def outliers(self) -> Iterator[Remark]:
        """Jerks and jumps beyond those of the other episodes."""
        if len(self.demonstrations) < FEW:
            return
        measures, jerk = self.measures, self.measures.jerk
        is_jumpy = measures.jump > np.maximum(JUMP, OUTLIER * np.quantile(measures.steps, 0.9, axis=0))
        is_jerky = (jerk > np.maximum(JERK, OUTLIER * np.quantile(jerk, 0.9, axis=0))) & ~is_jumpy
        yield from self.remark(
            "Jumps",
            f"in {{}}, {self._first(is_jumpy)}",
            "look for lost steps or a sensor that slipped, and {out}",
            in_any(is_jumpy),
        )
        yield from self.remark(
            "Jerks",
            f"{self._labels(is_jerky)} in {{}}, at least {OUTLIER:g} times as jerky as nine of ten episodes",
            "look for a loose sensor or a shaking hand, and {out}",
            in_any(is_jerky),
        )

    def _first(self, mask: NDArray[np.bool_]) -> str:
        """Where the first jump of a mask (n, D) is."""
        if not mask.any():
            return ""
        episode, dimension = np.argwhere(mask)[0]
        share, step = self.measures.jump[episode, dimension], self.measures.jump_at[episode, dimension]
        return (
            f"the first {self.measures.dimensions[dimension].label} by {share:.0%} of its range at step {step} of "
            f"episode {self.demonstrations.episode_numbers[episode]}"
        )

    def _labels(self, mask: NDArray[np.bool_]) -> str:
        labels = [self.measures.dimensions[index].label for index in np.flatnonzero(mask.any(axis=0))]
        return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")

    def still(self) -> Iterator[Remark]:
        """Dimensions of the action, such as a gripper, that never move in an episode but do in nearly all others."""
        if len(self.demonstrations) < FEW:
            return
        reach = self.measures.reach
        is_lively = self.measures.is_action & (np.quantile(reach, 0.1, axis=0) > LIVELY)
        is_still = (reach < STILL) & is_lively
        yield from self.remark(
            "Never moves",
            f"{self._labels(is_still)} in {{}}, but it does in nearly all others",
            "see whether the task is done there at all, or {out}",
            in_any(is_still),
        )

    def skew(self) -> Iterator[Remark]:
        """Episodes in which the observations follow the action later or earlier than usual."""
        delays, dt = self.measures.delays, self.demonstrations.specification.control_dt
        yield from self.remark(
            "Skew",
            f"in {{}} the observations do not follow the action after the usual {delays.usual * dt:.3g} s, but {LATE} "
            "steps or more earlier or later",
            "see whether their clocks agree and no step was lost, and {out}",
            delays.unusual(),
        )

    def timing(self) -> Iterator[Remark]:
        """Rates and delays that were measured while recording."""
        facts, dt = self.demonstrations.episode_facts, self.demonstrations.specification.control_dt
        spreads = np.array([max(e.delays.values()) - min(e.delays.values()) if e.delays else 0 for e in facts])
        slow = np.array([min(entry.rates.values()) if entry.rates else np.inf for entry in facts])
        yield from self.remark(
            "Skew of clocks",
            f"in {{}} the measured delays of streams differ by up to {spreads.max():.3g} s, and a step takes {dt:g} s",
            "give the alignment the delay of each stream when you record",
            spreads > dt,
        )
        yield from self.remark(
            "Slow streams",
            f"in {{}} a stream came at {slow.min():.3g} Hz, below the control rate of {1 / dt:.3g} Hz",
            "record at the rate of the slowest stream, or find what slows it down",
            slow < SLOW / dt,
        )

    def film(self, film: Film) -> Iterator[Remark]:
        """Frozen, repeating and late images."""
        is_frozen = np.nan_to_num(film.frozen) >= FROZEN_S
        if is_frozen.any():
            yield from self.remark(
                "Frozen images",
                f"{film.camera} stands still for up to {np.nanmax(film.frozen):.1f} s in {{}} while something moves",
                "see to the camera and its cable, and {out}",
                is_frozen,
            )
        usual = float(np.nanmedian(film.repeats)) if np.isfinite(film.repeats).any() else 1.0
        if usual < REPEATS / 4:
            yield from self.remark(
                "Repeated images",
                f"{film.camera} repeats images in {REPEATS:.0%} or more of the moving steps of {{}}",
                "see whether the camera was slow there, and {out}",
                (np.nan_to_num(film.repeats) >= REPEATS) & ~is_frozen,
            )
        dt, lag = self.demonstrations.specification.control_dt, film.delays.usual
        if film.delays.is_shifted:
            yield Remark(
                "Late camera" if lag > 0 else "Early camera",
                f"{film.camera} {'follows' if lag > 0 else 'leads'} the other observations by {abs(lag) * dt:.3g} s",
                "give the alignment the delay of the camera and record again, or shift its images",
                (),
            )
        yield from self.remark(
            "Skewed images",
            f"{film.camera} is {LATE} steps or more earlier or later than usual in {{}}",
            "see whether images were lost or buffered, and {out}",
            film.delays.unusual(),
        )

    def starts(self) -> Iterator[Remark]:
        """Whether all episodes begin in the same state."""
        first = self.measures.paths[:, 0][:, ~self.measures.is_action].astype(np.float64)
        if len(first) >= FEW and first.shape[1] and first.std(axis=0).max() < ALIKE_STARTS:
            yield Remark(
                "One start",
                f"all {len(first)} episodes begin in the same state",
                "vary the start between episodes, or the policy fails wherever it begins elsewhere",
                (),
            )

    def duplicates(self) -> Iterator[Remark]:
        groups = near_duplicates(self.measures.paths)
        if not groups:
            return
        extra = sorted(episode for group in groups for episode in group[1:])
        numbers = self.demonstrations.episode_numbers
        examples = "; ".join(" = ".join(str(numbers[episode]) for episode in group[:4]) for group in groups[:3])
        yield Remark(
            "Near duplicates",
            f"{self.numbers(extra)} repeat others almost exactly ({examples}{'; ...' if len(groups) > 3 else ''})",
            f"{self.left_out(extra)}: they count twice, and flatter the held-out error",
            tuple(sorted(episode for group in groups for episode in group)),
        )

    def errors(self, errors: NDArray[np.float64]) -> Iterator[Remark]:
        """Episodes whose actions a policy predicts much worse than those of the others."""
        if np.isfinite(errors).sum() < FEW:
            return
        usual = float(np.nanmedian(errors))
        yield from self.remark(
            "Hard to predict",
            f"in {{}} the policy errs by at least {HARD:g} times the median, {usual:.1%} of the ranges",
            "watch them first: they are mistakes, or rare situations of which you need more",
            np.nan_to_num(errors) >= HARD * usual,
        )
