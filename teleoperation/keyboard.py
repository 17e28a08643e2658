"""The keys of the terminal as the hands: two keys for each dimension of the action, and each press is a small step.

A terminal does not say when a key is released, so a held key moves by its repetition. Space lets the robot go, and
takes it again. While a policy controls the robot, the keyboard is let go at first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..robots.interface import Reading
from ..specification import Stream
from .axes import axis_names
from .interface import Order, Status

KEYS = ("qa", "ws", "ed", "rf", "tg", "yh", "uj")
"""For each dimension of the action, the key that raises it and the key that lowers it."""


class Keyboard:
    """A relative input: the sum of all steps so far. step: of one key press, (Da,) in the units of the action.

    Raises ValueError if the action has more dimensions than there are keys.
    """

    kind = "relative"

    def __init__(self, action: Stream, step: ArrayLike) -> None:
        if action.size > len(KEYS):
            raise ValueError(f"a keyboard drives at most {len(KEYS)} dimensions, got {action.size}: use another input=")
        self.axes = axis_names(action)
        self._step = np.broadcast_to(np.asarray(step, np.float64), action.shape)
        self._ways = np.zeros(action.size)
        self._is_held, self._part = True, ("", 0)

    def start(self) -> None:
        """Say which keys move what."""
        pairs = (f"{up} {down} {name}" for (up, down), name in zip(KEYS, self.axes, strict=False))
        print(f"keys that drive: {', '.join(pairs)}; Space lets the robot go, and takes it again")

    def read(self, now: float) -> Reading | None:
        """The way so far."""
        return Reading(self._ways.copy(), now) if self._is_held else None

    def orders(self, status: Status) -> Sequence[Order]:
        """None; takes the keys that were typed."""
        if (part := (status.phase, status.num_episodes)) != self._part:
            self._is_held, self._part = status.phase != "controlled", part
        for key in status.keys.decode(errors="ignore").lower():
            self._is_held ^= key == " "
            for index, (up, down) in enumerate(KEYS[: len(self.axes)]):
                self._ways[index] += self._step[index] * ((key == up) - (key == down))
        return []

    def close(self) -> None:
        """Nothing is to be released."""
