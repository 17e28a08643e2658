"""The stages of a training, and its learning rate.

A training has one stage, unless a later command asks for another number of steps or adds demonstrations to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..configs.training import TrainConfig


class Stage(NamedTuple):
    """A part of a training in which the number of steps and the demonstrations stayed the same."""

    start: int
    """Updates before it."""
    steps: int
    """Updates that the training was to have in all."""
    episodes: int
    """Demonstrations, held out or not."""


def stages_of(manifest: dict[str, Any] | None, *, steps: int, episodes: int) -> list[Stage]:
    """The stages of a training, whose last one has `steps` and `episodes`.

    manifest: of the checkpoint that the training resumes from, None at its beginning.
    """
    if manifest is None:
        return [Stage(0, steps, episodes)]
    stages = [Stage(*stage) for stage in manifest["stages"]]
    if stages[-1][1:] == (steps, episodes):
        return stages
    return [*stages, Stage(manifest["step"], steps, episodes)]


def learning_rate(step: int, config: TrainConfig, stages: Sequence[Stage]) -> float:
    """A linear warm-up over `warmup` steps, then half a cosine down to 0 at the last step.

    Another number of steps begins both again, at the first step of its stage: the rate rises from where it was, 0
    after a finished training, to the peak, and falls to 0 at the new last step.
    """
    restarts = [stage for index, stage in enumerate(stages) if not index or stage.steps != stages[index - 1].steps]
    return _rate(step, config, restarts)


def _rate(step: int, config: TrainConfig, restarts: Sequence[Stage]) -> float:
    *before, (start, steps, _) = restarts
    done, peak = step - start, config.learning_rate
    if done < config.warmup:
        first = _rate(start, config, before) if before else 0.0
        return first + (peak - first) * (done + 1) / config.warmup
    progress = (done - config.warmup) / max(steps - start - config.warmup, 1)
    return peak * (1 + math.cos(math.pi * progress)) / 2
