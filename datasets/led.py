"""Which steps of demonstrations a person led: `notes.led` of each episode, as intervals [first, first after]."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations


def led_steps(demonstrations: Demonstrations) -> NDArray[np.bool_]:
    """For each step of all episodes, whether a person led it, or another demonstrator.

    An episode without the note is a whole demonstration: `recede control` notes who led, so no policy led it.

    Raises ValueError if a note is no list of intervals within its episode.
    """
    is_led, numbers = np.zeros(demonstrations.num_steps, dtype=bool), demonstrations.episode_numbers
    for episode, facts in enumerate(demonstrations.episode_facts):
        start, stop = demonstrations.bounds(episode)
        intervals: Any = facts.notes.get("led", [[0, stop - start]])
        for interval in intervals if isinstance(intervals, list | tuple) else [intervals]:
            match interval:
                case [int(first), int(after)] if 0 <= first < after <= stop - start:
                    is_led[start + first : start + after] = True
                case _:
                    raise ValueError(
                        f"{demonstrations.path}: notes.led of episode {numbers[episode]} must hold intervals [first, "
                        f"first after] within its {stop - start} steps, got {interval!r}: restore it, or leave the "
                        "episode out with episodes="
                    )
    return is_led


def led_within(intervals: Any, first: int, after: int) -> list[list[int]]:
    """What is left of intervals in the steps first .. after of their episode, counted from `first`.

    >>> led_within([[0, 4], [8, 9]], 3, 8)
    [[0, 1]]
    """
    clipped = ([max(start, first) - first, min(stop, after) - first] for start, stop in intervals)
    return [[start, stop] for start, stop in clipped if start < stop]


def led_digests(demonstrations: Demonstrations, is_led: NDArray[np.bool_]) -> list[str]:
    """A digest of the led steps of each episode."""
    episodes = (slice(*demonstrations.bounds(episode)) for episode in range(len(demonstrations)))
    return [hashlib.sha256(is_led[steps].tobytes()).hexdigest()[:16] for steps in episodes]
