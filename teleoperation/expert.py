"""The scripted expert of a simulated task as the hands: it drives, begins, and decides by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..envs.task import Expert
from ..robots.interface import Reading
from ..robots.simulated import SimulatedRobot
from .axes import axis_names
from .interface import Order, Status

PROGRESS = 0.01
"""By how much the score of an episode must rise to be progress."""

MOST_FAILURES = 10
"""Episodes that may fail more often than others succeed."""


class ExpertHands:
    """Drives a simulated robot by the expert of its task, and keeps the episodes that succeed.

    It sees what the robot observes. While a policy controls the robot, the expert takes over for `seconds` whenever the
    policy has driven for `after` seconds; `if_stuck`, only if the score has not risen by `PROGRESS` in that time.

    Raises ValueError if the task has no expert, or if an expert needs more than that.
    """

    kind = "absolute"

    def __init__(
        self, robot: SimulatedRobot, *, after: float = 3.0, seconds: float = 2.0, if_stuck: bool = False
    ) -> None:
        if robot.task.expert is None:
            raise ValueError(f"task {robot.task.name!r} has no scripted expert: drive it yourself, with another input=")
        self._robot, self._make = robot, robot.task.expert
        self.axes = axis_names(robot.specification.action)
        self._names = [stream.name for stream in robot.specification.observations]
        self._seed, self._seen_at = -1, -np.inf
        self._expert: Expert | None = None
        self._reading: Reading | None = None
        self._num_kept = self._num_discarded = 0
        self._after, self._seconds, self._if_stuck, self._is_held = after, seconds, if_stuck, True
        self._now = self._since = self._best = 0.0

    def start(self) -> None:
        """Nothing is to be connected."""

    def read(self, now: float) -> Reading | None:
        """The expert's answer to the newest observation; None before there is one, and while the policy drives."""
        if not self._is_held:
            return None
        readings, seed = self._robot.read(), self._robot.episode.seed
        if any(name not in readings for name in self._names):
            return None
        if self._expert is None or seed != self._seed:
            self._expert, self._seed, self._reading = self._make(seed), seed, None
        captured = min(reading.time for reading in readings.values())
        if self._reading is None or captured > self._seen_at:
            try:
                action = self._expert({name: readings[name].value for name in self._names})
            except KeyError as error:
                raise ValueError(
                    f"the expert of task {self._robot.task.name!r} needs {error}, which the robot does not observe: "
                    "choose a task that observes it, or another input="
                ) from None
            self._seen_at, self._reading = captured, Reading(np.asarray(action, np.float64), now)
        return self._reading

    def orders(self, status: Status) -> Sequence[Order]:
        """Begin whenever the recording is ready; keep a success and discard a failure.

        Raises ValueError if the expert fails more often than it succeeds.
        """
        self._is_held = status.phase != "controlled" or self._is_turn(status.seconds)
        if status.phase == "ready":
            return [Order("begin")]
        if status.phase != "ended":
            return []
        is_success = status.outcome == "success" and not status.message
        self._num_kept += is_success
        self._num_discarded += not is_success
        if self._num_discarded > self._num_kept + MOST_FAILURES:
            raise ValueError(
                f"the expert of {self._robot.task.name!r} fails more often than not: {self._num_discarded} times of "
                f"{self._num_discarded + self._num_kept}"
            )
        return [Order("keep" if is_success else "discard")]

    def _is_turn(self, now: float) -> bool:
        """Whether the expert leads now, s into the episode, and not the policy."""
        if now < self._now:  # another episode
            self._is_held, self._since, self._best = False, 0.0, 0.0
        self._now = now
        score, was_turn = self._robot.episode.score, self._is_held
        if self._if_stuck and not was_turn and score > self._best + PROGRESS:
            self._since, self._best = now, score
        is_turn = self._after <= now - self._since < self._after + self._seconds
        if was_turn and not is_turn:
            self._since, self._best = now, score
        return is_turn

    def close(self) -> None:
        """Nothing is to be released."""
