"""The worst episodes of a policy, filmed at a few moments.

Frames exist only while an episode runs, and nobody knows before its end that it is one of the worst. So these few are
rolled out once more: an episode depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .episode import Outcome
from .results import Measurement

MOST = 4
"""The most failed episodes that are shown of a policy."""

NUM_MOMENTS = 6
"""Frames of an episode."""


class Worst(NamedTuple):
    """The worst episodes of a policy."""

    shown: Sequence[Outcome]
    """With the frames of even moments."""
    missing: Sequence[str]
    """Which cannot be shown and why, in a few words each."""


def worst(outcomes: Sequence[Outcome], *, most: int = MOST) -> list[Outcome]:
    """The failed episodes of the lowest scores; the slowest episode if all succeeded.

    Those that broke off are left out, because they may break off again.
    """
    whole = [outcome for outcome in outcomes if outcome.fault is None]
    failed = sorted((outcome for outcome in whole if not outcome.success), key=lambda outcome: outcome.score)
    return failed[:most] or sorted(whole, key=lambda outcome: -outcome.num_steps)[:1]


def even_moments(num_steps: int) -> frozenset[int]:
    """Control steps at even distances, from the reset to the last one.

    >>> sorted(even_moments(12))
    [0, 2, 5, 7, 10, 12]
    """
    return frozenset(np.linspace(0, num_steps, NUM_MOMENTS).round().astype(int).tolist())


def film_worst(measurement: Measurement) -> Worst:
    """Film the worst episodes at even moments; those that are filmed already are not rolled out again."""
    before = {outcome.seed: outcome for outcome in worst(measurement.evaluation.outcomes)}
    moments = {seed: even_moments(outcome.num_steps) for seed, outcome in before.items()}
    unfilmed = {seed: moments[seed] for seed, outcome in before.items() if not outcome.frames}
    filmed = before | {outcome.seed: outcome for outcome in (measurement.again(unfilmed) if unfilmed else ())}
    shown, missing = list[Outcome](), list[str]()
    for seed, outcome in filmed.items():
        if (cause := outcome.fault or outcome.unfilmed) is not None:
            missing.append(str(cause))
        elif _ending(outcome) != _ending(before[seed]):
            missing.append(f"seed {seed}: it went otherwise when it was rolled out again; the seed does not decide all")
        else:
            frames = {step: frame for step, frame in outcome.frames.items() if step in moments[seed]}
            shown.append(replace(outcome, frames=frames))
    return Worst(shown, missing)


def _ending(outcome: Outcome) -> tuple[bool, float, int]:
    return outcome.success, outcome.score, outcome.num_steps
