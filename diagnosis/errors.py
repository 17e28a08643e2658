"""The error of a policy in each dimension of the action, beside that of predictions that know nothing.

Shapes: Da size of the action; Ta action horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.demonstrations import Demonstrations
from ..datasets.normalisation import TOLERANCE
from ..evaluation.surprise import compared
from ..policy.engines.interface import Engine
from ..specification import Stream
from .report import Finding

USELESS = 0.9
"""An error of this share of that of the mean action, or more, says that nothing was learned."""


class Errors(NamedTuple):
    """Mean absolute errors of the executed actions, (Da,) in units."""

    policy: NDArray[np.float64]
    mean: NDArray[np.float64]
    """Of the mean of all recorded actions."""
    hold: NDArray[np.float64]
    """Of the action before the chunk, or of zero in dimensions that are zero without a command."""
    span: NDArray[np.float64]
    """The range of the recorded actions."""
    chunks: int
    """How many chunks were compared."""

    @property
    def is_moving(self) -> NDArray[np.bool_]:
        """(Da,): the dimensions that the demonstrations move."""
        return self.span > 0

    def share(self, errors: NDArray[np.float64]) -> float:
        """Errors (Da,) as a share of the range, mean over the dimensions that move; NaN if none does."""
        is_moving = self.is_moving
        return float((errors[is_moving] / self.span[is_moving]).mean()) if is_moving.any() else np.nan

    def to_json(self, action: Stream) -> dict[str, Any]:
        """The errors of each dimension by its label."""
        names = [action.label(index) for index in range(action.size)]
        rows = {"policy": self.policy, "mean": self.mean, "hold": self.hold, "span": self.span}
        table = {name: dict(zip(names, values.tolist(), strict=True)) for name, values in rows.items()}
        return {**table, "chunks": self.chunks}


def measure_errors(engine: Engine, demonstrations: Demonstrations, whole: Demonstrations, *, windows: int) -> Errors:
    """Predict `windows` chunks of each episode and compare.

    whole: the demonstrations whose actions have the range and the mean, of which these are some. Raises ValueError if
    no episode is as long as Ta.
    """
    action, actions = whole.specification.action, whole.read("action").astype(np.float64)
    span = np.ptp(actions, axis=0)
    span = np.where(span > TOLERANCE * np.abs(actions).max(axis=0).clip(min=1e-6), span, 0.0)
    middle, is_zero = actions.mean(axis=0), np.array([hold == "zero" for hold in action.hold] or False)
    sums, chunks = np.zeros((3, action.size)), 0
    for episode, step, predicted, recorded in compared(engine, demonstrations, seed=0, windows=windows):
        before = max(step - 1, demonstrations.bounds(episode)[0])
        (last,) = demonstrations.read("action", before, before + 1).astype(np.float64)
        guesses = predicted, middle, np.where(is_zero, 0.0, last)
        sums += np.stack([np.abs(guess - recorded).mean(axis=0) for guess in guesses])
        chunks += 1
    if not chunks:
        raise ValueError(
            f"{demonstrations.path}: every episode is shorter than the {engine.horizons.action} steps of the action "
            "horizon: give longer episodes"
        )
    policy, mean, hold = sums / chunks
    return Errors(policy, mean, hold, span, chunks)


def of_dimensions(errors: Errors, action: Stream) -> Iterator[Finding]:
    """The error in each dimension that moves."""
    for index in np.flatnonzero(errors.is_moving).tolist():
        units = f" {action.units[index]}" if action.units else ""
        policy, span = errors.policy[index], errors.span[index]
        what = (
            f"{action.label(index)}: {policy:.3g}{units}, {policy / span:.1%} of its range; holding the last action "
            f"errs by {errors.hold[index] / span:.1%}, the mean action by {errors.mean[index] / span:.1%}"
        )
        if policy < USELESS * errors.mean[index]:
            yield Finding("ok", what)
        else:
            yield Finding("note", what, "it has not learned this dimension")


def in_words(errors: Errors) -> str:
    """The errors over all dimensions that move, as shares of the ranges."""
    policy, mean, hold = (errors.share(values) for values in (errors.policy, errors.mean, errors.hold))
    return (
        f"errs by {policy:.1%} of the ranges; holding the last action errs by {hold:.1%}, the mean action by {mean:.1%}"
    )
