"""A recorded episode as a robot: it shows what was seen then, and keeps what it is told beside what was done then.

Shapes: L steps of the episode; Da size of the action.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.demonstrations import Demonstrations
from ..envs.task import check_position
from ..realtime import Clock
from .interface import TOLERANCE_S, Reading, checked_action


class Command(NamedTuple):
    """An action (Da,), and the time that it was given at, s."""

    action: NDArray[Any]
    time: float


class ReplayRobot:
    """One episode of a store, step by step from `start` on, whatever is commanded. It ends with its last reading.

    episode: its index. position: the stream that says where the robot is in the units of the action, see
    `Task.position`; None where there is none, or it is not known which.

    actions: what was done then, (L, Da). commands: what was commanded now, in its order.

    Raises ValueError where there is no such episode, or no such stream of the action's shape.
    """

    def __init__(
        self, demonstrations: Demonstrations, episode: int, clock: Clock, *, position: str | None = None
    ) -> None:
        self.specification, self.clock = demonstrations.specification, clock
        if position is not None:
            check_position(position, self.specification)
        self.rate, self.actuation_delay = 1 / self.specification.control_dt, 0.0
        self._streams = demonstrations.episode(episode)
        self.actions = self._streams.pop("action")
        self.commands: list[Command] = []
        self._position = position
        self._origin: float | None = None
        self._is_stopped, self._is_closed = False, False

    def start(self) -> None:
        """Begin with the first step, or after `stop` take commands again."""
        if self._is_closed:
            raise ConnectionError("the replay is closed: make another one")
        self._is_stopped = False
        if self._origin is None:
            self._origin = self.clock.now()

    def read(self) -> dict[str, Reading]:
        """Every stream at the step of this moment, captured at the beginning of that step."""
        step = min(self._step, len(self.actions) - 1)
        captured = self._moments[step]
        return {name: Reading(rows[step], float(captured)) for name, rows in self._streams.items()}

    def position(self) -> NDArray[Any] | None:
        """Where the robot was at the step of this moment, in the dtype of the action."""
        readings = self.read()
        return None if self._position is None else readings[self._position].value.astype(self.actions.dtype)

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Keep an action (Da,) and its time. Raises ValueError where it is no action."""
        action = checked_action(action, at_time, self.specification)
        self._require()
        if not self._is_stopped:
            self.commands.append(Command(action, at_time))

    def stop(self) -> None:
        """Keep no more commands; the recording goes on."""
        self._is_stopped = True

    def close(self) -> None:
        """Refuse everything from now on."""
        self._is_closed = True

    @property
    def is_over(self) -> bool:
        """Whether the last step is over."""
        return self._step >= len(self.actions)

    def commanded(self) -> NDArray[Any]:
        """The command in force at the beginning of each step, to compare with `actions`: (L, Da), NaN before the first.

        That is the last one given of those whose time had come.
        """
        found = np.full(self.actions.shape, np.nan)
        for command in self.commands:
            found[self._moments >= command.time - TOLERANCE_S] = command.action
        return found

    @property
    def _moments(self) -> NDArray[Any]:
        """The beginning of each step, s (L,)."""
        return self._require() + self.specification.control_dt * np.arange(len(self.actions))

    @property
    def _step(self) -> int:
        return math.floor((self.clock.now() - self._require() + TOLERANCE_S) / self.specification.control_dt)

    def _require(self) -> float:
        if self._is_closed:
            raise ConnectionError("the replay is closed: make another one")
        if self._origin is None:
            raise RuntimeError("start() the replay first")
        return self._origin
