"""What happened in a run, kept tick by tick by a process of its own, so that no disk ever holds up the loop.

A run becomes a folder:

    demonstrations.zarr    what a policy can learn from: observations and commands, a step a control period
    ticks.zarr             how the run went: a step a command, see `tick_specification`

Both are demonstration stores, so that they can be inspected; the first can be replayed and trained on as well.

A demonstration holds steps at even moments, a control period apart, and for each of them the command that was in force
then. Where a sensor was silent, a number was not finite, or the process that writes did not keep up, one demonstration
ends and another begins: none has a hole. What is longer than `PART` steps is kept in parts, so that memory does not
grow with the length of an episode. A run that is killed keeps what it had told.

Shapes: Da size of the action.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import shutil
import signal
import socket
import time
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.store import DemonstrationStore
from ..realtime import Channel, Layouts, connected
from ..robots.interface import TOLERANCE_S
from ..specification import Specification, Stream
from .alignment import Alignment
from .loop import Tick

DEMONSTRATIONS, TICKS = "demonstrations.zarr", "ticks.zarr"
"""The stores of a run, by their names in its folder."""

SILENCE_S = 0.5
"""Readings that are further apart say nothing of what was between them."""

PART = 10_000
"""Steps that are written at once, at most."""

PART_BYTES = 2**28
"""Bytes that are written at once, at most."""

WAITING_PARTS = 2
"""Parts that may wait for a slow disk."""

WAITING = 4096
"""Messages that wait in the loop until the process takes them; of more the first are lost."""

WRITE_S = 60.0
"""Seconds within which an episode must have been written."""


class RunLog:
    """Keeps episodes in the stores of a folder, which may be there already but must hold no such stores.

    rate: commands a second. actuation_delay: s from a command to its effect.

    Raises FileExistsError where the folder holds a run, and OSError where it cannot be written.
    """

    def __init__(self, folder: Path, specification: Specification, *, rate: float, actuation_delay: float) -> None:
        self.folder, self.specification = folder, specification
        self._number, self._tick, self.num_dropped = 0, 0, 0
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        ours, theirs = connected(*layouts(specification))
        self._channel = Channel(ours, *layouts(specification))
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads of this process
        self._process: Any = context.Process(target=_serve, args=(theirs, folder, specification, actuation_delay))
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            for name, streams in ((DEMONSTRATIONS, specification), (TICKS, tick_specification(specification, rate))):
                DemonstrationStore.create(folder / name, streams)
                undo.callback(shutil.rmtree, folder / name)
            self._process.start()
            undo.pop_all()
        atexit.register(self._channel.close)  # the end of this program waits for that of the process

    def begin(self, seed: int) -> None:
        """Begin an episode; seed: of its environment, -1 where there is none."""
        self._number += 1
        self._grid: float | None = None
        self._known, self._step, self._tick, self.num_dropped = 0.0, 0, 0, 0
        self._request("begin", self._number, seed)

    def tick(self, tick: Tick, alignment: Alignment) -> None:
        """Tell what happened in a tick, and every step of which the sensors know by now. Never waits.

        Where the process has not taken what was told for long, the oldest is lost, and counted in `num_dropped`.
        """
        self._send("tick", self._tick, *tick)  # a command is in force in the moment in which it is given
        known, dt = alignment.time, self.specification.control_dt
        if self._grid is None:
            self._grid = self._known = known
        if known - self._known > SILENCE_S:
            self._step = math.ceil((known - self._grid - TOLERANCE_S) / dt)
        self._known = known
        while (moment := self._grid + self._step * dt) <= known + TOLERANCE_S:
            self._send("step", self._step, self._tick, moment, *self._observed(alignment, moment))
            self._step += 1
        self._tick += 1

    def end(self) -> int:
        """End the episode and wait until it is written; the number of demonstrations that it became.

        Raises OSError where it could not be written, and TimeoutError where that takes too long.
        """
        return self._request("end", self._number)

    def close(self) -> None:
        """End the process, which writes what it was told before. Without an episode no store is left behind."""
        self._channel.close()
        atexit.unregister(self._channel.close)
        self._process.join(WRITE_S)
        self._process.kill()
        self._process.join()
        if not self._number:
            for name in (DEMONSTRATIONS, TICKS):
                shutil.rmtree(self.folder / name)

    def _observed(self, alignment: Alignment, moment: float) -> list[NDArray[Any]]:
        seen = alignment.at(moment)
        return [seen[stream.name] for stream in self.specification.observations]

    def _send(self, name: str, *values: Any) -> None:
        """Have something told, behind what still waits."""
        self._waiting.append((name, values))
        if len(self._waiting) > WAITING:
            self._waiting.popleft()
            self.num_dropped += 1
        with contextlib.suppress(ConnectionError):  # the robot goes on; the end of the episode tells
            self._pass_on()

    def _pass_on(self) -> bool:
        """Pass on as much as the process takes; whether that is all."""
        while self._waiting and self._channel.send(self._waiting[0][0], *self._waiting[0][1]):
            self._waiting.popleft()
        return not self._waiting

    def _request(self, name: str, *values: Any) -> int:
        """Have something done, and wait until it is."""
        self._waiting.append((name, values))
        until = time.monotonic() + WRITE_S
        try:
            while True:
                is_told = self._pass_on()
                for _, record in self._channel.receive():
                    if record["number"] == self._number and is_told:
                        return int(record["count"])
                self._channel.wait(0.1 if is_told else 0.001)
                if time.monotonic() > until:
                    raise TimeoutError(f"{self.folder}: an episode must be written within {WRITE_S:g} s, but is not")
        except ConnectionError:
            raise OSError(f"{self.folder}: the run could not be written; it was said above why") from None


def tick_specification(specification: Specification, rate: float) -> Specification:
    """What the ticks of a run are: `Tick` by its fields, the command as the action; times from the episode's begin."""
    seconds = [Stream(name, (1,), "float64", units="s") for name in ("time", "late", "age", "chunk")]
    others = [Stream("seam", (1,), "float64", units="1"), Stream("events", (1,), "int64")]
    return Specification((*seconds, *others), specification.action, 1 / rate)


def layouts(specification: Specification) -> tuple[Layouts, Layouts]:
    """The messages to the process that writes, and from it."""
    action = specification.action
    streams = [(stream.name, stream.dtype, stream.shape) for stream in specification.observations]
    times = [(name, "f8") for name in ("time", "late", "age")]
    command = ("command", action.dtype, action.shape)
    told = {
        "begin": np.dtype([("number", "i8"), ("seed", "i8")]),
        "step": np.dtype([("(step)", "i8"), ("(tick)", "i8"), ("(time)", "f8"), *streams]),
        "tick": np.dtype([("(tick)", "i8"), *times, command, ("events", "i8"), ("chunk", "f8"), ("seam", "f8")]),
        "end": np.dtype([("number", "i8")]),
    }
    return told, {"done": np.dtype([("number", "i8"), ("count", "i8")])}


class _Parts:
    """Rows of one store, which a thread writes in parts while others come; where it is slow, it is waited for."""

    def __init__(self, store: DemonstrationStore, thread: Executor) -> None:
        self._store, self._thread = store, thread
        row_bytes = sum(stream.size * np.dtype(stream.dtype).itemsize for stream in store.specification.streams)
        self._most = max(1, min(PART, PART_BYTES // row_bytes))
        self.begin(-1)

    def begin(self, seed: int) -> None:
        """Begin an episode."""
        self._seed, self.num_parts = seed, 0
        self._rows: list[dict[str, Any]] = []
        self._written: deque[Future[int]] = deque()

    def add(self, row: dict[str, Any]) -> None:
        """Take the next step: a stream's name -> its value."""
        if len(self._rows) >= self._most:
            self.cut()
        self._rows.append(row)

    def cut(self) -> None:
        """Let the part end here, if it has begun."""
        if not self._rows:
            return
        while len(self._written) >= WAITING_PARTS:
            self._written.popleft().result()
        rows, self._rows = self._rows, []
        seed = -1 if self.num_parts else self._seed  # only the first one begins where the environment did
        self._written.append(self._thread.submit(self._append, rows, seed))
        self.num_parts += 1

    def end(self) -> None:
        """Wait until everything is written."""
        self.cut()
        while self._written:
            self._written.popleft().result()

    def _append(self, rows: list[dict[str, Any]], seed: int) -> int:
        return self._store.append({name: np.stack([row[name] for row in rows]) for name in rows[0]}, seed=seed)


class _Writer:
    """Makes rows of what is told of an episode."""

    def __init__(self, folder: Path, specification: Specification, actuation_delay: float) -> None:
        thread = ThreadPoolExecutor(1)
        self._demonstrations, self._ticks = (
            _Parts(DemonstrationStore.open(folder / name), thread) for name in (DEMONSTRATIONS, TICKS)
        )
        self._streams, self._delay = [stream.name for stream in specification.observations], actuation_delay
        self.begin(-1)

    def begin(self, seed: int) -> None:
        """Begin an episode."""
        self._demonstrations.begin(seed)
        self._ticks.begin(seed)
        self._last_step, self._last_tick = -1, -1
        self._origin: float | None = None
        self._commands: deque[tuple[float, NDArray[Any]]] = deque()

    def step(self, record: Any) -> None:
        """Take a step, with the command that was in force then."""
        self._follow(int(record["(tick)"]), self._last_tick)
        is_next, self._last_step = record["(step)"] == self._last_step + 1, int(record["(step)"])
        seen, command = {name: record[name] for name in self._streams}, self._in_force(float(record["(time)"]))
        is_whole = all(np.isfinite(value).all() for value in seen.values())
        if not is_next or not is_whole or command is None:
            self._demonstrations.cut()
        if is_whole and command is not None:
            self._demonstrations.add({**seen, "action": command})

    def tick(self, record: Any) -> None:
        """Take what happened in a tick."""
        time = float(record["time"])
        self._origin = time if self._origin is None else self._origin
        self._follow(int(record["(tick)"]), self._last_tick + 1)
        self._commands.append((time, record["command"]))
        told = {name: record[name][None] for name in ("late", "age", "events", "chunk", "seam")}
        self._ticks.add({"time": np.array([time - self._origin]), **told, "action": record["command"]})

    def end(self) -> int:
        """Write what there is, and wait for it; the number of demonstrations."""
        self._demonstrations.end()
        self._ticks.end()
        return self._demonstrations.num_parts

    def _follow(self, tick: int, expected: int) -> None:
        """Where others were lost before this tick, forget the commands: one of those may have been in force."""
        if tick != expected:
            self._commands.clear()
        self._last_tick = tick

    def _in_force(self, moment: float) -> NDArray[Any] | None:
        """The newest command that had its effect by then; the older ones will never be wanted."""
        latest = moment - self._delay + TOLERANCE_S
        while len(self._commands) > 1 and self._commands[1][0] <= latest:
            self._commands.popleft()
        return self._commands[0][1] if self._commands and self._commands[0][0] <= latest else None


def _serve(end: socket.socket, folder: Path, specification: Specification, actuation_delay: float) -> None:
    """The process: until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the loop is interrupted, and says when it is over
        signal.signal(number, signal.SIG_IGN)
    told, answers = layouts(specification)
    writer = _Writer(folder, specification, actuation_delay)
    with contextlib.closing(Channel(end, answers, told)) as channel:
        try:
            while True:
                for name, record in channel.receive():
                    if name == "begin":
                        writer.begin(int(record["seed"]))
                        channel.send("done", record["number"], 0)
                    elif name == "end":
                        channel.send("done", record["number"], writer.end())
                    else:
                        getattr(writer, name)(record)
                channel.wait(60.0)
        except ConnectionError:
            writer.end()
