"""The clutch between an input and a robot: it never jumps, whatever the input says.

| the input | the clutch |
|---|---|
| is let go (`None`), silent for `stale_s`, not finite, or of the future | opens: the robot stays where it is |
| absolute, elsewhere than the robot | stays open until the input is within `near` of the robot in every dimension |
| relative | closes at once: the way counts from where the input and the robot are now |
| a velocity | closes at once; the target stays within `step` of the robot |
| moves by more than `step` from one reading to the next | opens |

Targets stay within the limits. A relative input that goes on beyond a limit loses that way, so that its way back counts
at once.

Shapes: Da size of the action.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..robots.interface import TOLERANCE_S, Reading
from ..specification import nearest
from .axes import Axes
from .interface import KINDS

LONGEST_TICK_S = 0.1
"""The time for which a velocity counts at most, from one call to the next."""


class Clutch:
    """Turns the readings of an input into targets of a robot.

    kind: one of `KINDS`. axes: which axis of the input drives which dimension of the action, which must have limits.
    near: how near an absolute input must come to the robot, in ranges of the action.
    step: largest way of the input from one reading to the next, in ranges of the action.
    near and step are one number, or one for each dimension. stale_s: age above which a reading does not count.

    Raises ValueError for another kind, an action without limits, values that are not above 0, and an absolute input
    that does not drive every dimension.
    """

    why: str
    """Why the clutch is open; empty while it is closed, or if nobody holds the input."""

    def __init__(self, kind: str, axes: Axes, *, near: ArrayLike, step: ArrayLike, stale_s: float) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}: {nearest(kind, KINDS)}")
        action = axes.action
        if not action.low:
            raise ValueError("the action must have limits to be led by hand: give its stream low and high")
        if kind == "absolute" and not axes.is_driven.all():
            raise ValueError("an absolute input must drive every dimension of the action: name an axis for each")
        self.kind, self.axes, self.stale_s = kind, axes, stale_s
        self._low, self._high = np.array(action.low, np.float64), np.array(action.high, np.float64)
        self._range = self._high - self._low
        for name, value in (("near", near), ("step", step), ("stale_s", stale_s)):
            if np.size(value) not in (1, action.size) or not (np.asarray(value) > 0).all():
                raise ValueError(f"{name} must be above 0, one number or {action.size}, got {value}")
        self._near, self._step = np.asarray(near) * self._range, np.asarray(step) * self._range
        self.open()

    @property
    def is_closed(self) -> bool:
        """Whether the robot follows the input."""
        return self._goal is not None

    def open(self, why: str = "") -> None:
        """Let the robot go; it follows again by the rules of the clutch."""
        self.why = why
        self._goal: NDArray[np.float64] | None = None
        self._value: NDArray[np.float64] | None = None

    def target(self, reading: Reading | None, last: NDArray[np.float64], now: float) -> NDArray[np.float64] | None:
        """The target (Da,) at `now`, s; None while the clutch is open. last: the last command (Da,).

        Raises ValueError if the reading has another number of axes than the input.
        """
        if reading is None:
            self.open()
            return None
        value = self.axes(reading.value)
        if fault := self._fault(value, reading.time, now):
            self.open(fault)
            return None
        if self._goal is None and (far := self._far(value, last)):
            self.open(far)
            return None
        goal = self._next(value, last, now)
        clipped = np.clip(goal, self._low, self._high)
        if self.kind == "relative":  # what goes beyond a limit is lost
            self._base = self._base + clipped - goal
        self._goal, self._value, self._now, self.why = clipped, value, now, ""
        return clipped

    def _fault(self, value: NDArray[np.float64], time: float, now: float) -> str:
        """Why a reading cannot be followed; empty if it can."""
        if not np.isfinite(value).all():
            return f"the input must give finite numbers, got {value.tolist()}"
        if not -math.inf < time <= now + TOLERANCE_S:  # true for NaN
            return f"the input has the time {time} s and the clock is at {now:.3f} s: use one clock"
        if now - time > self.stale_s:
            return f"the input is silent for {now - time:.1f} s: it must come every {self.stale_s:g} s"
        if self._value is not None and self.kind != "velocity":
            ways = np.abs(value - self._value)
            if (ways > self._step).any():
                worst = int(np.argmax(ways / self._range))
                return f"the input jumped by {ways[worst]:.3g} in {self.axes.action.label(worst)}: move it more slowly"
        return ""

    def _far(self, value: NDArray[np.float64], last: NDArray[np.float64]) -> str:
        """Why an absolute input is too far from the robot to be followed; empty if it is near."""
        gaps = np.abs(value - last)
        if self.kind != "absolute" or (gaps <= self._near).all():
            return ""
        worst = int(np.argmax(gaps / self._range))
        return (
            f"bring the input to the robot: {self.axes.action.label(worst)} of the input is {value[worst]:.3g}, and "
            f"that of the robot {last[worst]:.3g}"
        )

    def _next(self, value: NDArray[np.float64], last: NDArray[np.float64], now: float) -> NDArray[np.float64]:
        """The goal before it is clipped to the limits."""
        if self.kind == "absolute":
            return value
        if self._goal is None:
            self._base, self._origin = last.copy(), value
            if self.kind == "velocity":
                return last.copy()
        if self.kind == "relative":
            return self._base + (value - self._origin)
        assert self._goal is not None
        ahead = self._goal + value * min(max(now - self._now, 0.0), LONGEST_TICK_S)
        return np.clip(ahead, last - self._step, last + self._step)
