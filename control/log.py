"""The log of a run, written tick by tick by its own process, so that no disk ever holds up the loop.

A run becomes a folder:

    demonstrations.zarr    what a policy can learn from: observations and commands, a step a control period; the facts
                           of each demonstration have the steps that a person led, see `Writer`
    ticks.zarr             how the run went: a step a command, see `tick_specification`

Both are demonstration stores, so that they can be inspected; the first can be replayed and trained on as well.

A demonstration holds steps at even moments, a control period apart, each with the command that was in force at that
moment. A demonstration has no holes: if a sensor is silent, a number is not finite, or the process that writes does not
keep up, one demonstration ends and another begins. A demonstration of more than `PART` steps is stored in parts, so
that memory does not grow with the length of an episode. A run that is killed keeps all that it had logged.

Shapes: Da size of the action.
"""

from __future__ import annotations

import shutil
import signal
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.facts import OUTCOMES, UNKNOWN, EpisodeFacts
from ..datasets.store import DemonstrationStore
from ..realtime import Channel, Child, Layouts
from ..specification import Specification, Stream
from .alignment import Alignment
from .loop import Tick
from .outbox import Outbox
from .steps import EvenSteps, InForce, include

DEMONSTRATIONS, TICKS = "demonstrations.zarr", "ticks.zarr"
"""Names of the two stores in the folder of a run."""

PART = 10_000
"""Largest number of steps that are written at once."""

PART_BYTES = 2**28
"""Largest number of bytes that are written at once."""

WAITING_PARTS = 2
"""Parts that may wait for a slow disk."""

REASON_BYTES = 500
"""Bytes of the reason why nothing more is logged."""

WRITE_S = 60.0
"""Seconds within which an episode must be written."""


class RunLog:
    """Logs episodes to the stores of a folder, which may exist but must hold no such stores.

    rate: commands a second. actuation_delay: s from a command to its effect. facts: noted of every demonstration.

    Raises FileExistsError if the folder holds a run, and OSError if it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        specification: Specification,
        *,
        rate: float,
        actuation_delay: float,
        facts: EpisodeFacts = UNKNOWN,
    ) -> None:
        self.folder, self.specification = folder, specification
        self._number, self._tick = 0, 0
        with ExitStack() as undo:
            for name, streams in ((DEMONSTRATIONS, specification), (TICKS, tick_specification(specification, rate))):
                DemonstrationStore.create(folder / name, streams)
                undo.callback(shutil.rmtree, folder / name)
            # The end of this program waits for the process, which may still have to write.
            outgoing, incoming = layouts(specification)
            self._child = Child(_serve, outgoing, incoming, folder, actuation_delay, facts.to_json(), daemon=False)
            self._outbox = Outbox(self._child, outgoing)
            undo.pop_all()

    def begin(self, seed: int) -> None:
        """Begin an episode. seed: of its environment, -1 if it has none."""
        self._number += 1
        self._steps, self._tick = EvenSteps(self.specification.control_dt), 0
        self._outbox.num_dropped = 0
        self._request("begin", seed)

    def tick(self, tick: Tick, alignment: Alignment) -> None:
        """Log a tick, and every step whose moment all sensors have reached. Never waits.

        If the process falls too far behind, the oldest messages are lost, and counted in `num_dropped`.
        """
        self._outbox.send(
            "tick", self._tick, *tick._replace(command=self.specification.action.cast(tick.command))
        )  # a command is in force from the moment at which it is given
        for step, moment in self._steps.due(alignment.time):
            self._outbox.send("step", step, self._tick, moment, self._streams_at(alignment, moment))
        self._tick += 1

    def end(self, outcome: str = "unknown") -> int:
        """End the episode and wait until it is written; the number of demonstrations that it became.

        outcome: of the episode, for the facts of its last demonstration.

        Raises OSError if it could not be written, and TimeoutError if that takes too long.
        """
        return self._request("end", OUTCOMES.index(outcome))

    def close(self) -> None:
        """Write all records and end the process. The stores are deleted if no episode was begun."""
        self._child.close(WRITE_S)
        if not self._number:
            for name in (DEMONSTRATIONS, TICKS):
                shutil.rmtree(self.folder / name)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    @property
    def failure(self) -> str:
        """Why nothing more is logged; empty while all is well."""
        return self._outbox.failure

    @property
    def num_waiting(self) -> int:
        """Messages that wait for the process."""
        return len(self._outbox)

    @property
    def num_dropped(self) -> int:
        """Messages of the episode that were lost."""
        return self._outbox.num_dropped

    def _streams_at(self, alignment: Alignment, moment: float) -> tuple[NDArray[Any], ...]:
        values = alignment.at(moment)
        return tuple(values[stream.name] for stream in self.specification.observations)

    def _request(self, name: str, *values: Any) -> int:
        """Send a request, and wait until it is done."""
        try:
            return int(self._outbox.request(name, self._number, *values, seconds=WRITE_S)["count"])
        except TimeoutError:
            raise TimeoutError(f"{self.folder}: an episode must be written within {WRITE_S:g} s, but is not") from None
        except ConnectionError:
            raise OSError(
                f"{self.folder}: the run could not be written, what came before is kept ({self.failure}): make sure "
                "that the disk has room and is writable"
            ) from None


def tick_specification(specification: Specification, rate: float) -> Specification:
    """The streams of a store of ticks: the fields of `Tick`. The command is the action; times count from the first
    tick of the episode.
    """
    seconds = [Stream(name, (1,), "float64", units="s") for name in ("time", "late", "age", "chunk")]
    rest = [*(Stream(name, (1,), "float64", units="1") for name in ("seam", "doubt")), Stream("events", (1,), "int64")]
    return Specification((*seconds, *rest), specification.action, 1 / rate)


def layouts(specification: Specification) -> tuple[Layouts, Layouts]:
    """The messages to the process that writes, and from it."""
    action = specification.action
    streams = np.dtype([(stream.name, stream.dtype, stream.shape) for stream in specification.observations])
    times = [(name, "f8") for name in ("time", "late", "age")]
    command = ("command", action.dtype, action.shape)
    rest = [("events", "i8"), ("chunk", "f8"), ("seam", "f8"), ("is_led", "?"), ("doubt", "f8")]
    requests = {
        "begin": np.dtype([("number", "i8"), ("seed", "i8")]),
        "step": np.dtype([("step", "i8"), ("tick", "i8"), ("time", "f8"), ("streams", streams)]),
        "tick": np.dtype([("tick", "i8"), *times, command, *rest]),
        "end": np.dtype([("number", "i8"), ("outcome", "i8")]),
    }
    return requests, {
        "done": np.dtype([("number", "i8"), ("count", "i8")]),
        "failed": np.dtype([("reason", f"S{REASON_BYTES}")]),
    }


class _Parts:
    """Rows of one store, which a thread writes in parts while more rows come; a slow thread is waited for.

    facts: noted of every part, with the steps that a person led; None to note nothing.
    """

    def __init__(self, store: DemonstrationStore, thread: Executor, facts: EpisodeFacts | None = None) -> None:
        self._store, self._thread, self._facts = store, thread, facts
        row_bytes = sum(stream.size * np.dtype(stream.dtype).itemsize for stream in store.specification.streams)
        self._most = max(1, min(PART, PART_BYTES // row_bytes))
        self.begin(-1)

    def begin(self, seed: int) -> None:
        """Begin an episode."""
        self._seed, self.num_parts = seed, 0
        self._rows: list[dict[str, Any]] = []
        self._led: list[list[int]] = []
        self._writing: deque[Future[int]] = deque()

    def add(self, row: dict[str, Any], *, is_led: bool = False) -> None:
        """Add the next step: a stream's name -> its value. is_led: whether a person led it."""
        if self._writing and self._writing[0].done():
            self._writing.popleft().result()  # raises the error of a part that could not be written
        if len(self._rows) >= self._most:
            self.cut()
        self._rows.append(row)
        if is_led:
            include(self._led, len(self._rows) - 1)

    def cut(self, outcome: str = "unknown") -> None:
        """End the part here, if it has begun."""
        if not self._rows:
            return
        while len(self._writing) >= WAITING_PARTS:
            self._writing.popleft().result()
        rows, self._rows, led, self._led = self._rows, [], self._led, []
        facts = UNKNOWN if self._facts is None else replace(self._facts, outcome=outcome, notes={"led": led})
        seed = -1 if self.num_parts else self._seed  # only the first part begins where the environment did
        self._writing.append(self._thread.submit(self._append, rows, seed, facts))
        self.num_parts += 1

    def end(self, outcome: str = "unknown") -> None:
        """Wait until everything is written."""
        self.cut(outcome)
        while self._writing:
            self._writing.popleft().result()

    def _append(self, rows: list[dict[str, Any]], seed: int, facts: EpisodeFacts) -> int:
        streams = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return self._store.append(streams, seed=seed, facts=facts)


class Writer:
    """Writes the rows of an episode from its messages. actuation_delay: s from a command to its effect.

    A person led a step if the command that was in force at its moment followed that person. The facts of each
    demonstration hold these steps as `notes.led`, intervals [first, first after]; and `facts`.
    """

    def __init__(self, folder: Path, actuation_delay: float, facts: EpisodeFacts = UNKNOWN) -> None:
        thread = ThreadPoolExecutor(1)
        self._demonstrations = _Parts(DemonstrationStore.open(folder / DEMONSTRATIONS), thread, facts)
        self._ticks = _Parts(DemonstrationStore.open(folder / TICKS), thread)
        self._commands = InForce[tuple[NDArray[Any], bool]](actuation_delay)
        self.begin(-1)

    def begin(self, seed: int) -> None:
        """Begin an episode."""
        self._demonstrations.begin(seed)
        self._ticks.begin(seed)
        self._last_step, self._last_tick = -1, -1
        self._origin: float | None = None
        self._commands.clear()

    def step(self, record: Any) -> None:
        """Add a step, with the command that was in force at its moment."""
        self._follow(int(record["tick"]), self._last_tick)
        is_next, self._last_step = record["step"] == self._last_step + 1, int(record["step"])
        streams, in_force = record["streams"], self._commands.at(float(record["time"]))
        observation = {name: streams[name] for name in streams.dtype.names}
        is_finite = all(np.isfinite(value).all() for value in observation.values())
        if not is_next or not is_finite or in_force is None:
            self._demonstrations.cut()
        if is_finite and in_force is not None:
            command, is_led = in_force
            self._demonstrations.add({**observation, "action": command}, is_led=is_led)

    def tick(self, record: Any) -> None:
        """Add a tick."""
        time = float(record["time"])
        self._origin = time if self._origin is None else self._origin
        self._follow(int(record["tick"]), self._last_tick + 1)
        self._commands.add(time, (record["command"], bool(record["is_led"])))
        measures = {name: record[name][None] for name in ("late", "age", "events", "chunk", "seam", "doubt")}
        self._ticks.add({"time": np.array([time - self._origin]), **measures, "action": record["command"]})

    def end(self, outcome: str = "unknown") -> int:
        """Write the last rows, and wait for them; the number of demonstrations. outcome: of the episode."""
        self._demonstrations.end(outcome)
        self._ticks.end()
        return self._demonstrations.num_parts

    def _follow(self, tick: int, expected: int) -> None:
        """If ticks before this one were lost, forget the commands: a lost one may have been in force."""
        if tick != expected:
            self._commands.clear()
        self._last_tick = tick


def _serve(channel: Channel, folder: Path, actuation_delay: float, facts: dict[str, Any]) -> None:
    """The process: write until the channel is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # they end the loop, which then closes the channel
        signal.signal(number, signal.SIG_IGN)
    try:
        _write(channel, Writer(folder, actuation_delay, EpisodeFacts.from_json(facts)))
    except (OSError, ValueError) as error:  # of the disk, such as one that is full
        channel.send("failed", " ".join(str(error).split()).encode()[:REASON_BYTES])


def _write(channel: Channel, writer: Writer) -> None:
    """Write until the channel is closed, and what is left then."""
    try:
        while True:
            for name, record in channel.receive():
                if name == "step":
                    writer.step(record)
                elif name == "tick":
                    writer.tick(record)
                elif name == "begin":
                    writer.begin(int(record["seed"]))
                    channel.send("done", record["number"], 0)
                else:
                    channel.send("done", record["number"], writer.end(OUTCOMES[record["outcome"]]))
            channel.wait(60.0)
    except ConnectionError:
        writer.end()
