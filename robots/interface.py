"""What a robot is to the control loop.

A driver keeps every promise of `Robot`; `robots.check.check_robot` says whether it does.

Shapes: Da size of the action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification

TOLERANCE_S = 1e-6
"""Moments that differ by less are the same: sums of periods are not exact."""


class Reading(NamedTuple):
    """One step of a stream: its value, in the stream's shape and dtype, and when it was captured, s."""

    value: NDArray[Any]
    time: float


class Robot(Protocol):
    """What is observed and commanded. All times are seconds on the clock of the loop.

    specification: the streams that it gives, and its action. rate: commands a second that it wants. actuation_delay:
    seconds from a command to its effect. `read`, `position` and `command` raise ConnectionError where the robot is
    lost, and RuntimeError before `start`. None of them waits for anything.
    """

    specification: Specification
    rate: float
    actuation_delay: float

    def start(self) -> None:
        """Connect, or after `stop` be ready for commands again; from now on readings come.

        Raises ConnectionError where the robot cannot be reached and TimeoutError where it does not answer.
        """
        ...

    def read(self) -> Mapping[str, Reading]:
        """The newest reading of every stream that has come so far; none at first."""
        ...

    def position(self) -> NDArray[Any] | None:
        """Where it is (Da,), in the units of the action: the command to stay there. None while that is not known."""
        ...

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Go to an action (Da,), given at that time, s. What is commanded after `stop` is left undone until `start`."""
        ...

    def stop(self) -> None:
        """Come to rest and hold: at any time, any number of times, also when the connection is lost."""
        ...

    def close(self) -> None:
        """Release what the robot holds. It cannot be started again."""
        ...


def checked_action(action: ArrayLike, at_time: float, specification: Specification) -> NDArray[Any]:
    """A copy of a command (Da,), in the dtype of the action.

    Raises ValueError for another shape, and where the action or its time is not finite.
    """
    stream = specification.action
    found = np.array(action, dtype=stream.dtype)
    if found.shape != stream.shape or not np.isfinite(found).all() or not math.isfinite(at_time):
        raise ValueError(
            f"a command must be {stream.size} finite numbers at a finite time, got {found.tolist()} at {at_time}"
        )
    return found
