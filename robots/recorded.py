"""A recorded episode as a robot: it replays the observations, and keeps the new commands beside the recorded actions.

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
    """An action (Da,) and the time of its command, s."""

    action: NDArray[Any]
    time: float


class ReplayRobot:
    """Replays one episode step by step from `start` on, whatever is commanded, and then repeats its last reading.

    demonstrations: where the episode is recorded.
    episode: its index.
    position: the stream with the position of the robot in the units of the action, see `Task.position`; None if there
        is none or it is unknown.

    Raises ValueError if the episode does not exist, or no stream `position` has the shape of the action.
    """

    actions: NDArray[Any]
    """The recorded actions (L, Da)."""
    commands: list[Command]
    """The new commands, in order."""

    def __init__(
        self, demonstrations: Demonstrations, episode: int, clock: Clock, *, position: str | None = None
    ) -> None:
        self.specification, self.clock = demonstrations.specification, clock
        if position is not None:
            check_position(position, self.specification)
        self.rate, self.actuation_delay = 1 / self.specification.control_dt, 0.0
        self._streams = demonstrations.episode(episode)
        self.actions = self._streams.pop("action")
        self.commands = []
        self._position = position
        self._origin: float | None = None
        self._is_stopped, self._is_closed = False, False

    def start(self) -> None:
        """Begin with the first step, or after `stop` accept commands again."""
        if self._is_closed:
            raise ConnectionError("the replay is closed: make another one")
        self._is_stopped = False
        if self._origin is None:
            self._origin = self.clock.now()

    def read(self) -> dict[str, Reading]:
        """Every stream at the current step, captured at the beginning of that step."""
        step = min(self._step, len(self.actions) - 1)
        captured = self._moments[step]
        return {name: Reading(rows[step], float(captured)) for name, rows in self._streams.items()}

    def position(self) -> NDArray[Any] | None:
        """The recorded position at the current step, in the dtype of the action."""
        readings = self.read()
        return None if self._position is None else self.specification.action.cast(readings[self._position].value)

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Keep an action (Da,) and its time. Raises ValueError if it is no finite action."""
        action = checked_action(action, at_time, self.specification)
        self._require()
        if not self._is_stopped:
            self.commands.append(Command(action, at_time))

    def stop(self) -> None:
        """Ignore commands until `start`; the replay goes on."""
        self._is_stopped = True

    def close(self) -> None:
        """Refuse all calls from now on."""
        self._is_closed = True

    @property
    def is_over(self) -> bool:
        """Whether the last step is over."""
        return self._step >= len(self.actions)

    def commanded(self) -> NDArray[Any]:
        """The last command at the beginning of each step (L, Da), to compare with `actions`; NaN before the first."""
        rows = np.full(self.actions.shape, np.nan)
        for command in self.commands:
            rows[self._moments >= command.time - TOLERANCE_S] = command.action
        return rows

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
