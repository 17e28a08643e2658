"""Training only on what a person did while a policy ran (`only=interventions`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..configs.training import TrainConfig
from ..datasets.led import led_digests, led_steps
from ..datasets.windows import Windows
from .resuming import check_episodes
from .sources import Sources


class Led(NamedTuple):
    """Who led the steps of demonstrations."""

    steps: NDArray[np.bool_] | None
    """For each step, whether a person led it; None if all are learnt."""
    digests: list[str]
    """A digest for each episode; none if all are learnt."""


def who_led(config: TrainConfig, sources: Sources, begun: Mapping[str, Any] | None) -> Led:
    """Who led, if that decides what is learnt. begun: the manifest of the run that goes on.

    Raises ValueError if no episode notes it, or if other steps of that run were led.
    """
    if config.only is None:
        return Led(None, [])
    demonstrations = sources.demonstrations
    if not any("led" in facts.notes for facts in demonstrations.episode_facts):
        raise ValueError(
            f"{config.place} does not note which steps a person led: use demonstrations of `recede record`, or of "
            "`recede control` with takeover="
        )
    steps = np.concatenate([led_steps(part) for part in sources.parts])
    led = Led(steps, led_digests(demonstrations, steps))
    if begun is not None:
        check_episodes(config, begun, led.digests, what="led", pieces=sources.pieces)
    return led


def only_led(
    config: TrainConfig, windows: Windows, is_led: NDArray[np.bool_] | None, *, can_be_empty: bool = False
) -> Windows:
    """The windows whose executed steps a person led; all if `is_led` is None. Raises ValueError if there are none."""
    chosen = windows if is_led is None else windows.where(is_led)
    if not len(chosen) and not can_be_empty:
        steps = windows.horizons.action
        if not len(windows):
            raise ValueError(f"{config.place}: no episode has the {steps} steps of the action horizon")
        raise ValueError(
            f"{config.place}: nowhere did a person lead the {steps} steps of the action horizon on end: take over "
            "for longer, or give a smaller horizons.action"
        )
    return chosen
