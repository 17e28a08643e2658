"""A simulated task as a robot in its own process, in real time."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from functools import partial
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ..envs.faults import own_frames
from ..envs.promises import PromiseError
from ..envs.task import Task, check_picklable
from ..realtime import Channel, Child, Layouts, MonotonicClock
from ..specification import Specification
from .filming import film_layouts
from .interface import Reading, checked_action
from .simulation import UNREAD, Disturbances, Episode, Options, Simulation, command_rate

START_S = 60.0
"""Time for a process to start and make its environment, s."""

OWED = 1000
"""Most commands that wait for a process that falls behind."""

ANSWER_S = 10.0
"""Time for a started simulation to begin an episode, s."""

STATUS, FAULT = "(episode)", "(fault)"
"""Names of the messages with the state of the episode, and with what ended it. They are no valid names of streams."""

FAULT_BYTES = 2000
"""Longest description of a fault."""


class SimulatedRobot:
    """A `Simulation` in its own process, which runs in real time whatever the controller does.

    Its clock is the monotonic clock of the machine. Only `start` and `reset` wait for the process. A command or a
    `stop` that does not fit into the channel is sent by the next calls; a command counts from its time on. The process
    ends with the process that started it. A simulation that is slower than real time falls behind, as the times of its
    readings show.

    task: the task to simulate.
    first_seed: seed of the first episode.
    rate: commands per second that it expects; None for one per control period.
    options: see `Disturbances`.
    """

    def __init__(
        self, task: Task, *, first_seed: int = 0, rate: float | None = None, **options: Unpack[Options]
    ) -> None:
        check_picklable(task, f"task {task.name!r}, which the process of the simulation gets")
        self.task, self.specification = task, task.specification
        self.rate = command_rate(task, rate)
        self.actuation_delay = Disturbances(task.specification, **options).actuation_delay
        self._options: Options = options
        self._episode = Episode(first_seed)
        self._child: Child | None = None
        self._readings: dict[str, Reading] = {}
        self._unread: dict[str, deque[Reading]] = {}
        self._owed: deque[tuple[float, NDArray[Any]]] = deque(maxlen=OWED)
        self._fault = ""
        self._num_requests, self._answered = 0, 0  # so far, and the number of the last answered one
        self._is_stopped, self._is_stop_owed, self._is_closed = False, False, False
        self._film: socket.socket | None = None
        self.began = -np.inf
        """The time of the reset that began the episode, s; its first readings have this time."""

    def film(self, end: socket.socket) -> None:
        """Send every reset and every step of the simulation to a `Twin` at the other end. Call it before `start`."""
        if self._child is not None or self._is_closed:
            raise RuntimeError("film() the robot before start()")
        self._film = end

    def start(self) -> None:
        """Start the process and its first episode, or after `stop` accept commands again.

        Raises TimeoutError if the process does not answer, and ConnectionError if it has ended.
        """
        if self._child is None and not self._is_closed:
            self._open()
        if not self._answered:
            self._request("start", START_S, self._episode.seed)
        elif self._is_stopped:
            self._request("continue", ANSWER_S)

    def reset(self, seed: int) -> None:
        """Begin another episode and drop readings and commands on their way. Before `start`, only set the first seed.

        Raises TimeoutError if the process does not answer, and ConnectionError if it has ended.
        """
        if self._child is None and not self._is_closed:
            self._episode = Episode(seed)
        else:
            self._request("reset", ANSWER_S, seed)

    def read(self) -> dict[str, Reading]:
        """The newest reading of every stream that has arrived so far in this episode."""
        self._receive()
        return dict(self._readings)

    def unread(self) -> dict[str, list[Reading]]:
        """The readings of every stream since the last call, at most the last `UNREAD`, in order."""
        self._receive()
        unread, self._unread = self._unread, {}
        return {name: list(readings) for name, readings in unread.items()}

    def position(self) -> NDArray[Any] | None:
        """The newest reading of `Task.position`, in the dtype of the action."""
        reading = self.read().get(self.task.position or "")
        return None if reading is None else self.specification.action.cast(reading.value)

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Send an action (Da,), commanded at `at_time`, s. Raises ValueError if it is no finite action."""
        action = checked_action(action, at_time, self.specification)
        self._receive()
        if not self._is_stopped:
            self._owed.append((at_time, action))
            self._send_owed()

    def stop(self) -> None:
        """Hold the last command that has arrived when the process reads this. Drops commands on their way."""
        if self._child is not None and not self._is_closed:
            self._is_stop_owed = self._is_stop_owed or not self._is_stopped
            self._owed.clear()
            self._is_stopped = True
            with contextlib.suppress(ConnectionError):
                self._receive()

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        if self._film is not None:
            self._film.close()
        if self._child is not None:
            self._child.close()

    @property
    def pid(self) -> int:
        """The id of the process. Raises RuntimeError before `start`."""
        return self._started().pid

    @property
    def episode(self) -> Episode:
        """The newest state of the episode that has arrived."""
        if self._child is not None:
            with contextlib.suppress(ConnectionError):
                self._receive()
        return self._episode

    def _open(self) -> None:
        self._child = Child(_serve, *layouts(self.specification), self.task, self._options, self._film)
        if self._film is not None:  # the process has it now, and its end is noticed
            self._film.close()

    def _request(self, name: str, seconds: float, *values: Any) -> None:
        """Send a request and wait for its answer. Earlier readings are dropped."""
        until = time.monotonic() + seconds
        self._num_requests += 1
        is_sent = False
        while self._answered < self._num_requests:
            is_sent = is_sent or self._send(name, self._num_requests, *values)
            self._receive()
            if time.monotonic() > until:
                raise TimeoutError(f"the simulation of {self.task.name!r} did not {name} within {seconds:g} s")
            if self._answered < self._num_requests:
                self._connection().wait(min(until - time.monotonic(), self.specification.control_dt))
        self._is_stopped = self._is_stop_owed = False

    def _send(self, name: str, *values: Any) -> bool:
        try:
            return self._connection().send(name, *values)
        except ConnectionError:
            raise self._lost() from None

    def _receive(self) -> None:
        """Take all messages that have arrived, and send the commands and the `stop` that are still owed."""
        self._send_owed()
        if self._is_stop_owed and self._send("stop"):
            self._is_stop_owed = False
        try:
            for name, record in self._connection().receive():
                if name == STATUS:
                    self._take(*record.tolist())
                elif name == FAULT:
                    self._fault = record["text"].decode(errors="replace")
                else:
                    self._readings[name] = Reading(np.array(record["value"]), float(record["time"]))
                    self._unread.setdefault(name, deque(maxlen=UNREAD)).append(self._readings[name])
        except ConnectionError:
            raise self._lost() from None

    def _send_owed(self) -> None:
        while self._owed and self._send("command", *self._owed[0]):
            self._owed.popleft()

    def _take(self, answered: int, began: float, *episode: Any) -> None:
        if answered != self._answered:
            self._readings.clear()
            self._unread.clear()
            self._owed.clear()
        self._answered, self.began, self._episode = answered, began, Episode(*episode)

    def _connection(self) -> Channel:
        if self._is_closed:
            raise ConnectionError
        return self._started().channel

    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("start() the robot first")
        return self._child

    def _lost(self) -> ConnectionError:
        if self._is_closed:
            return ConnectionError(f"the simulation of {self.task.name!r} is closed: make another one")
        with contextlib.suppress(ConnectionError):  # what it sent before its end
            for name, record in self._started().channel.receive():
                self._fault = record["text"].decode(errors="replace") if name == FAULT else self._fault
        if self._fault:
            return ConnectionError(f"the simulation of {self.task.name!r} failed with {self._fault}")
        code = self._started().exitcode
        how = "" if code is None else f" with exit code {code}"
        return ConnectionError(f"the process that simulates {self.task.name!r} has ended{how}: make another one")


def layouts(specification: Specification) -> tuple[Layouts, Layouts]:
    """The messages to a simulation and from it. Requests are numbered; every status names the newest one."""
    action = specification.action
    requests = {
        "command": np.dtype([("time", "f8"), ("action", action.dtype, action.shape)]),
        "stop": np.dtype([]),
        "continue": np.dtype([("number", "i8")]),
        "start": np.dtype([("number", "i8"), ("seed", "i8")]),
        "reset": np.dtype([("number", "i8"), ("seed", "i8")]),
    }
    status = [("seed", "i8"), ("success", "?"), ("score", "f8"), ("num_steps", "i8"), ("is_over", "?")]
    answers = {
        STATUS: np.dtype([("number", "i8"), ("began", "f8"), *status]),
        FAULT: np.dtype([("text", f"S{FAULT_BYTES}")]),
        **{s.name: np.dtype([("time", "f8"), ("value", s.dtype, s.shape)]) for s in specification.observations},
    }
    return requests, answers


def _serve(channel: Channel, task: Task, options: Options, film: socket.socket | None) -> None:
    """The process of a `SimulatedRobot`. Runs until the other end is closed, or until the user's own code or this
    machine fails.
    """
    simulation = Simulation(task, MonotonicClock(), **options)
    with contextlib.closing(simulation), contextlib.ExitStack() as stack:
        if film is not None:
            twin = Channel(film, film_layouts(task.specification), {"none": np.dtype([])})
            stack.enter_context(contextlib.closing(twin))
            simulation.tell = partial(_tell, twin)
        try:
            _run(channel, simulation)
        except Exception as error:
            # Those of this machine, such as a package that is missing, name their remedy.
            is_of_machine = isinstance(error, ImportError | OSError) and not isinstance(error, ConnectionError)
            is_ours = not own_frames(error) and not isinstance(error, PromiseError) and not is_of_machine
            if is_ours or not channel.send(FAULT, str(simulation.fault(error)).encode()[:FAULT_BYTES]):
                raise


def _tell(twin: Channel, name: str, *values: Any) -> None:
    with contextlib.suppress(OSError):  # the simulation goes on without pictures
        twin.send(name, *values)


def _run(channel: Channel, simulation: Simulation) -> None:
    number, owed = 0, dict[str, deque[Reading]]()
    while True:
        before = number
        for name, record in channel.receive():
            number = _obey(simulation, name, record, number)
        if number == 0:
            channel.wait(START_S)
            continue
        if number != before:  # a request may have begun another episode
            owed.clear()
        for name, readings in simulation.unread().items():
            owed.setdefault(name, deque(maxlen=UNREAD)).extend(readings)
        if any(owed.values()) or number != before:
            channel.send(STATUS, number, simulation.began, *simulation.episode)
        for name, readings in owed.items():
            while readings and channel.send(name, readings[0].time, readings[0].value):
                readings.popleft()
        channel.wait(simulation.due - simulation.clock.now())


def _obey(simulation: Simulation, name: str, record: Any, number: int) -> int:
    """Execute a message. Returns the number of the last request."""
    if name == "command":
        simulation.command(record["action"], float(record["time"]))
        return number
    if name == "stop":
        simulation.stop()
        return number
    if name == "continue":
        simulation.start()
    else:
        simulation.reset(int(record["seed"]))
        simulation.start()
    return int(record["number"])
