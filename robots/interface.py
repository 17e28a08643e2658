"""The interface between a robot and the control loop.

A driver implements `Robot`; `robots.check.check_robot` checks every promise of it.

Shapes: Da size of the action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification

Answer = TypeVar("Answer")

TOLERANCE_S = 1e-6
"""Times that differ by less count as equal, because sums of periods are not exact."""


class Reading(NamedTuple):
    """One step of a stream: its value, in the shape and dtype of the stream, and the time of its capture, s."""

    value: NDArray[Any]
    time: float


class Robot(Protocol):
    """A robot that the control loop reads and commands. All times are seconds on the clock of the loop.

    `read`, `position` and `command` return at once. They raise RuntimeError before `start`, and ConnectionError if the
    robot is lost.
    """

    specification: Specification
    """Its observation streams and its action."""
    rate: float
    """Commands per second that it expects."""
    actuation_delay: float
    """Time from a command to its effect, s."""

    def start(self) -> None:
        """Connect, or after `stop` accept commands again. From now on readings arrive.

        Raises ConnectionError if the robot cannot be reached, and TimeoutError if it does not answer.
        """
        ...

    def read(self) -> Mapping[str, Reading]:
        """The newest reading of every stream that has arrived so far; none at first."""
        ...

    def position(self) -> NDArray[Any] | None:
        """The current position (Da,) as an action: commanding it means staying there. None if it is unknown."""
        ...

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Execute an action (Da,), commanded at `at_time`, s. Commands after `stop` are ignored until `start`."""
        ...

    def stop(self) -> None:
        """Come to rest at the last command that was passed on and hold it, or do nothing if there was none.

        Nothing moves to a reading, which may be wrong. May be called at any time, any number of times, also after the
        connection is lost.
        """
        ...

    def close(self) -> None:
        """Release the connection for good."""
        ...


@runtime_checkable
class Queueing(Protocol):
    """A robot that also keeps the readings that a late loop has missed, so that a recording has all of them."""

    def unread(self) -> Mapping[str, Sequence[Reading]]:
        """The readings of every stream since the last call, in order. Returns at once."""
        ...


def checked_action(action: ArrayLike, at_time: float, specification: Specification) -> NDArray[Any]:
    """A copy of a command (Da,), rounded to the dtype of the action (`Stream.cast`).

    Raises ValueError for another shape, or if the action or its time is not finite.
    """
    stream = specification.action
    command = stream.cast(action)
    if command.shape != stream.shape or not np.isfinite(command).all() or not math.isfinite(at_time):
        raise ValueError(
            f"a command must be {stream.size} finite numbers at a finite time, got {command.tolist()} at {at_time}"
        )
    return command


def call_robot(method: Callable[..., Answer], *arguments: Any) -> Answer:
    """The answer of a method of a robot. Raises ConnectionError, which names the error, if the driver has failed."""
    try:
        return method(*arguments)
    except OSError:  # a driver that knows what happened
        raise
    except Exception as error:
        name = getattr(method, "__name__", "call")
        raise ConnectionError(f"the robot failed in {name}(): {type(error).__name__}: {error}") from error
