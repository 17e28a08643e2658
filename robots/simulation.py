"""Simulated tasks as robots, in this process on any clock. `simulated.py` runs them in their own process.

An episode is divided into control periods. At the beginning of each period the state is captured, and the environment
is stepped with the newest command that has arrived. A command that arrives within a period waits for the next period.

Like a real robot, a simulation may delay readings and commands, and lose readings.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from ..envs.faults import Fault, RunningEnv
from ..envs.promises import outcome
from ..envs.task import Task
from ..realtime import Clock
from ..specification import Specification, nearest
from .interface import TOLERANCE_S, Reading, checked_action

UNREAD = 16
"""Most readings of a stream that are kept for a late caller."""


class Episode(NamedTuple):
    """The state of an episode. score: best score of any step, in [0, 1]. num_steps: control steps so far."""

    seed: int
    success: bool = False
    score: float = 0.0
    num_steps: int = 0
    is_over: bool = False


class Options(TypedDict, total=False):
    """The disturbances between a robot and its controller; see `Disturbances`."""

    sensor_delay: float | Mapping[str, float]
    actuation_delay: float
    jitter: float
    dropped: float
    seed: int


def command_rate(task: Task, rate: float | None) -> float:
    """Commands per second: `rate`, or one per control period. Raises ValueError for less than one per period."""
    slowest = 1 / task.specification.control_dt
    if rate is not None and not rate >= slowest * (1 - 1e-9):
        raise ValueError(f"the rate must be at least one command a control period, {slowest:g} a second, got {rate}")
    return slowest if rate is None else rate


def check_controllable(task: Task) -> None:
    """Raise ValueError if the control loop cannot control a simulation of the task.

    It brakes at the robot's position, so it must know which stream holds it. Without it a `Simulation` still runs, for
    readers of its streams.
    """
    if task.position is None:
        shape = task.specification.action.shape
        suitable = [stream.name for stream in task.specification.observations if stream.shape == shape]
        streams = " or ".join(repr(name) for name in suitable) or f"none of its streams has the shape {shape}"
        raise ValueError(
            f"task {task.name!r} must say which stream holds the robot's position in the units of the action, because "
            f"control brakes there: give the Task position=... ({streams}), or measure the policy with `recede "
            "evaluate`, which needs none"
        )


class Disturbances:
    """Delays and losses between a robot and its controller. They depend on the seeds and the order of calls alone.

    sensor_delay: time from the capture of a reading to its arrival, s; for all streams, or by name (default 0).
    actuation_delay: time from a command to its arrival, s.
    jitter: upper bound of a uniformly random time that is added to each delay, s.
    dropped: fraction of the readings that are lost, in [0, 1).
    seed: seed of delays and losses, combined with the seed of the episode.

    Raises ValueError for a negative delay, an impossible fraction, and an unknown stream.
    """

    def __init__(
        self,
        specification: Specification,
        *,
        sensor_delay: float | Mapping[str, float] = 0.0,
        actuation_delay: float = 0.0,
        jitter: float = 0.0,
        dropped: float = 0.0,
        seed: int = 0,
    ) -> None:
        names = [stream.name for stream in specification.observations]
        delays = sensor_delay if isinstance(sensor_delay, Mapping) else dict.fromkeys(names, sensor_delay)
        for name in delays:
            if name not in names:
                raise ValueError(f"sensor_delay must name observation streams, got {name!r}: {nearest(name, names)}")
        named = {f"sensor_delay of {name!r}": delay for name, delay in delays.items()}
        for what, delay in {**named, "actuation_delay": actuation_delay, "jitter": jitter}.items():
            if not (math.isfinite(delay) and delay >= 0):
                raise ValueError(f"{what} must be 0 seconds or more, got {delay}")
        if not 0 <= dropped < 1:
            raise ValueError(f"dropped must be a fraction of the readings, at least 0 and below 1, got {dropped}")
        self.sensor_delay = {name: float(delays.get(name, 0.0)) for name in names}
        self.actuation_delay, self.jitter, self.dropped, self.seed = float(actuation_delay), jitter, dropped, seed
        self.reset(0)

    def reset(self, episode_seed: int) -> None:
        """Begin an episode."""
        sequences = np.random.SeedSequence([self.seed, episode_seed]).spawn(2)
        self._readings, self._commands = (np.random.default_rng(sequence) for sequence in sequences)

    def visible_at(self, name: str, captured: float) -> float | None:
        """The time when the next reading of a stream arrives, s; None if it is lost."""
        late, lot = self._readings.random(2)
        return None if lot < self.dropped else captured + self.sensor_delay[name] + self.jitter * late

    def arrives_at(self, commanded: float) -> float:
        """The time when the next command arrives, s."""
        return commanded + self.actuation_delay + self.jitter * self._commands.random()


class Simulation:
    """A task as a robot in this process. Every call first steps it through all control periods that are over.

    The readings of a stream keep their order. Before the first command arrives, the robot holds its position, and
    after `stop` the last command; for a task without `Task.position` the environment is not stepped instead. The
    environment is not stepped after the end of the episode either, but readings still arrive. `reset` begins a new
    episode.

    task, clock: the task to simulate, and its time.
    first_seed: seed of the first episode.
    rate: commands per second that it expects, at least one per control period; None for one.
    options: see `Disturbances`.
    """

    def __init__(
        self, task: Task, clock: Clock, *, first_seed: int = 0, rate: float | None = None, **options: Unpack[Options]
    ) -> None:
        self.task, self.clock, self.specification = task, clock, task.specification
        self.rate = command_rate(task, rate)
        self._disturbances = Disturbances(task.specification, **options)
        self.actuation_delay = self._disturbances.actuation_delay
        self._env = RunningEnv(task.make, task.specification)
        self._episode = Episode(first_seed)
        self._is_started, self._is_closed = False, False
        self._origin = -math.inf
        self.tell: Callable[..., object] | None = None
        """Called after every reset and step with the values of `filming.film_layouts`; None if nobody follows."""

    def start(self) -> None:
        """Begin the first episode, or after `stop` accept commands again."""
        self._require(is_started=False)
        if not self._is_started:
            self._is_started = True
            self._begin(self._episode.seed)
        self._is_stopped = False

    def reset(self, seed: int) -> None:
        """Begin another episode and drop what is on its way. Before `start`, only set the seed of the first episode."""
        self._require(is_started=False)
        if self._is_started:
            self._begin(seed)
        else:
            self._episode = Episode(seed)

    def read(self) -> dict[str, Reading]:
        """The newest reading of every stream that has arrived so far in this episode."""
        self._advance()
        return dict(self._newest)

    def unread(self) -> dict[str, list[Reading]]:
        """The readings of every stream since the last call, at most the last `UNREAD`, in order."""
        self._advance()
        unread, self._unread = self._unread, {}
        return {name: list(readings) for name, readings in unread.items()}

    def position(self) -> NDArray[Any] | None:
        """The newest reading of `Task.position`, in the dtype of the action."""
        self._advance()
        reading = self._newest.get(self.task.position or "")
        return None if reading is None else self.specification.action.cast(reading.value)

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Send an action (Da,) at `at_time`, s. Raises ValueError if it is no finite action."""
        action = checked_action(action, at_time, self.specification)
        self._advance(at_time)  # a process that falls behind gets its commands late, and they count all the same
        if not self._is_stopped:
            self._commands.append((self._disturbances.arrives_at(at_time), action))

    def stop(self) -> None:
        """Hold the last command that has arrived, or stay if there was none. Drops commands on their way."""
        if self._is_started and not self._is_closed and not self._is_stopped:
            self._advance()
            if self.task.position is not None:  # other actions would move it
                self._held = self._arrived(self.clock.now())
            self._is_stopped, self._commands = True, []

    def close(self) -> None:
        """Close the environment."""
        if not self._is_closed:
            self._is_closed = True
            self._env.close()

    def fault(self, error: Exception) -> Fault:
        """Describe an error of the environment."""
        return self._env.fault(error)

    @property
    def episode(self) -> Episode:
        """The state of the episode."""
        if self._is_started and not self._is_closed:
            self._advance()
        return self._episode

    @property
    def began(self) -> float:
        """The time of the reset that began the episode, s; its first readings have this time."""
        return self._origin

    @property
    def due(self) -> float:
        """The time of the next event, s: the end of a period, or the arrival of a reading."""
        coming = [readings[0][0] for readings in self._coming.values() if readings]
        return min([self._moment(self._num_periods + 1), *coming])

    def _require(self, *, is_started: bool = True) -> None:
        if self._is_closed:
            raise ConnectionError(f"the simulation of {self.task.name!r} is closed: make another one")
        if is_started and not self._is_started:
            raise RuntimeError("start() the simulation first")

    def _begin(self, seed: int) -> None:
        self._disturbances.reset(seed)
        self._state, info = self._env.reset(seed)
        self._episode = Episode(seed, *outcome(info, "reset()"))
        self._is_stopped, self._held = False, self._here()
        self._commands: list[tuple[float, NDArray[Any]]] = []  # arrival times and actions, in the order of the calls
        self._newest: dict[str, Reading] = {}
        self._unread: dict[str, deque[Reading]] = {}
        self._coming: dict[str, deque[tuple[float, Reading]]] = {
            stream.name: deque() for stream in self.specification.observations
        }
        self._origin, self._num_periods = self.clock.now(), 0
        if self.tell is not None:
            self.tell("reset", self._origin, seed)
        self._capture()
        self._announce()

    def _moment(self, period: int) -> float:
        return self._origin + period * self.specification.control_dt

    def _advance(self, until: float = math.inf) -> None:
        """Step through all control periods that are over at `until`, s."""
        self._require()
        now, before = min(self.clock.now(), until), self._num_periods
        while self._moment(self._num_periods + 1) <= now + TOLERANCE_S:
            self._step(self._moment(self._num_periods))
            self._num_periods += 1
            self._capture()
            self._show(now)
        self._show(now)
        if self._num_periods > before:
            self._announce()

    def _announce(self) -> None:
        """Tell which action the step under way has so far."""
        begin = self._moment(self._num_periods)
        if self.tell is None or self._episode.is_over or (action := self._arrived(begin)) is None:
            return
        self.tell("ahead", begin, self._episode.num_steps, action)

    def _step(self, begin: float) -> None:
        action = self._arrived(begin)
        if action is None or self._episode.is_over:
            return
        self._state, terminated, truncated, info = self._env.step(action)
        seed, success, score, num_steps, _ = self._episode
        is_success, step_score = outcome(info, "step()")
        self._episode = Episode(
            seed,
            success or is_success,
            max(score, step_score),
            num_steps + 1,
            terminated or truncated,
        )
        if self.tell is not None:
            self.tell("step", begin + self.specification.control_dt, num_steps + 1, action)

    def _arrived(self, moment: float) -> NDArray[Any] | None:
        """The newest command that has arrived. Drops the earlier ones."""
        for index in reversed(range(len(self._commands))):
            if self._commands[index][0] <= moment + TOLERANCE_S:
                del self._commands[:index]
                return self._commands[0][1]
        return self._held

    def _here(self) -> NDArray[Any] | None:
        if self.task.position is None:
            return None
        return self.specification.action.cast(self._state[self.task.position])

    def _capture(self) -> None:
        moment = self._moment(self._num_periods)
        for name, coming in self._coming.items():
            visible = self._disturbances.visible_at(name, moment)
            if visible is not None:
                coming.append((visible, Reading(self._state[name], moment)))

    def _show(self, now: float) -> None:
        for name, coming in self._coming.items():
            while coming and coming[0][0] <= now + TOLERANCE_S:  # a late reading holds back the readings behind it
                self._newest[name] = coming.popleft()[1]
                self._unread.setdefault(name, deque(maxlen=UNREAD)).append(self._newest[name])
