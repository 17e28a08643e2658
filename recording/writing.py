"""The process that writes the episodes of a recording, step by step, so that no disk ever holds up the loop.

Its messages: `begin` an episode, `step` for each of its steps, and after `end` either `keep` or `discard`; `undo` the
last one. Steps are written while they come; `keep` commits them. If the recording is killed, the process discards the
episode under way and ends.
"""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..control.alignment import Alignment
from ..control.loop import Tick
from ..control.outbox import Outbox
from ..control.steps import EvenSteps, InForce, include
from ..datasets.episode_writer import EpisodeWriter
from ..datasets.facts import EpisodeFacts
from ..datasets.store import DemonstrationStore
from ..realtime import Channel, Child, Layouts
from ..specification import Specification

ROWS = 16
"""Steps that the process writes at once."""

FACTS_SIZE = 2**15
"""Most bytes of the facts of an episode."""

REASON_SIZE = 1000
"""Bytes of the reason why something cannot be written."""

WRITE_S = 60.0
"""Seconds within which an episode must be written."""


class Recorder:
    """A `Log` that becomes an episode of a store. actuation_delay: s from a command to its effect."""

    def __init__(self, store: DemonstrationStore, actuation_delay: float) -> None:
        self._path, self._specification, self._delay = store.path, store.specification, actuation_delay
        outgoing, incoming = layouts(store.specification)
        # The end of this program waits for the process, which may still have to write.
        self._child = Child(_serve, outgoing, incoming, store.path, daemon=False)
        self._outbox, self._number = Outbox(self._child, outgoing), 0
        self.num_steps, self.fault = 0, ""
        self.led: list[list[int]] = []
        """The steps whose command followed the hands, as [first, first after]."""

    def begin(self) -> None:
        """Begin an episode. Raises OSError if the store cannot be written."""
        self._steps = EvenSteps(self._specification.control_dt)
        self._commands, self._is_begun = InForce[tuple[NDArray[Any], bool]](self._delay), False
        self.num_steps, self.fault, self.led = 0, "", []
        self._outbox.num_dropped, self._outbox.failure = 0, ""
        self._request("begin")

    def tick(
        self, tick: Tick, alignment: Alignment, *, action: NDArray[Any], position: NDArray[Any], most: float
    ) -> None:
        """Record every step whose moment all sensors have reached. Never waits.

        action: what is stored of the tick (Da,). position: where the robot was at the begin (Da,).
        most: number of steps to record.
        """
        cast = self._specification.action.cast
        if not self._is_begun:
            self._is_begun = True
            self._commands.add(-np.inf, (cast(position), False))  # until the first command, it stays
        self._commands.add(tick.time, (cast(action), tick.is_led))
        if self._steps.begin is None and alignment.time < alignment.begin:
            return  # no moment is covered by all streams yet
        for step, moment in self._steps.due(alignment.time):
            if step >= most:
                break
            if step != self.num_steps:
                self.fault = self.fault or f"a sensor was silent after {self.num_steps} steps: see to it"
            values, in_force = alignment.at(moment), self._commands.at(moment)
            assert in_force is not None  # the first one is in force from the beginning of time
            command, is_led = in_force
            streams = tuple(values[stream.name] for stream in self._specification.observations)
            self._outbox.send("step", command, streams)
            if is_led:
                include(self.led, self.num_steps)
            self.num_steps += 1
        if self._outbox.num_dropped:
            self.fault = self.fault or "the disk does not keep up: use images=jpeg, smaller images or a faster disk"
        self.fault = self.fault or self._outbox.failure

    @property
    def first_s(self) -> float | None:
        """The moment of the first step, s."""
        return self._steps.begin

    @property
    def is_lost(self) -> bool:
        """Whether the process has ended."""
        return self._outbox.is_lost

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    def end(self) -> int:
        """Wait until all steps have arrived; their number. Raises OSError if they could not be written."""
        return self._request("end")

    def keep(self, facts: EpisodeFacts, *, seed: int) -> int:
        """Commit the episode; its index. Raises OSError if it could not be written."""
        text = json.dumps(facts.to_json()).encode()
        if len(text) > FACTS_SIZE:
            raise ValueError(
                f"the facts of an episode must have at most {FACTS_SIZE} bytes, got {len(text)}: shorten them"
            )
        return self._request("keep", seed, text)

    def discard(self) -> None:
        """Leave the episode out."""
        self._request("discard")

    def undo(self) -> int:
        """Remove the last episode of the store; how many remain."""
        return self._request("undo")

    def close(self) -> None:
        """End the process. An episode that is not kept is discarded."""
        self._child.close(WRITE_S)

    def _request(self, name: str, *values: Any) -> int:
        self._number += 1
        try:
            record = self._outbox.request(name, self._number, *values, seconds=WRITE_S)
        except ConnectionError:
            raise OSError(f"{self._path}: the process that writes has ended: see above for its error, if any") from None
        except TimeoutError:
            raise TimeoutError(
                f"{self._path}: the disk must {name} an episode within {WRITE_S:g} s, but does not"
            ) from None
        if record["reason"]:
            raise OSError(record["reason"].decode(errors="replace"))
        return int(record["count"])


def layouts(specification: Specification) -> tuple[Layouts, Layouts]:
    """The messages to the process that writes, and from it."""
    action = specification.action
    streams = np.dtype([(stream.name, stream.dtype, stream.shape) for stream in specification.observations])
    number = ("number", "i8")
    requests = {
        "begin": np.dtype([number]),
        "step": np.dtype([("action", action.dtype, action.shape), ("streams", streams)]),
        "end": np.dtype([number]),
        "keep": np.dtype([number, ("seed", "i8"), ("facts", f"S{FACTS_SIZE}")]),
        "discard": np.dtype([number]),
        "undo": np.dtype([number]),
    }
    return requests, {
        "done": np.dtype([number, ("count", "i8"), ("reason", f"S{REASON_SIZE}")]),
        "failed": np.dtype([("reason", f"S{REASON_SIZE}")]),
    }


class _Writer:
    """Writes one episode after the other. After an error, an episode is discarded, and every request has its reason."""

    def __init__(self, store: DemonstrationStore) -> None:
        self._store = store
        self._episode: EpisodeWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self.reason = ""

    def obey(self, name: str, record: Any) -> int:
        """Carry out a message; the number of steps or of episodes."""
        try:
            if name == "step":
                return self._add(record)
            if name == "begin":
                self.discard()
                self.reason, self._episode = "", self._store.begin()
            elif name == "end":
                self._flush()
                return self._episode.num_steps if self._episode else 0
            elif name == "keep":
                return self._keep(int(record["seed"]), record["facts"])
            elif name == "discard":
                self.discard()
                self.reason = ""
            else:
                return self._store.drop_last()
        except (ValueError, OSError) as error:
            self.reason = str(error)
            self.discard()
        return 0

    def discard(self) -> None:
        """Leave the episode out."""
        episode, self._episode, self._rows = self._episode, None, []
        if episode is not None:
            try:
                episode.discard()
            except OSError as error:  # its rows are not committed all the same
                self.reason = self.reason or str(error)

    def _add(self, record: Any) -> int:
        streams = record["streams"]
        self._rows.append({name: streams[name] for name in streams.dtype.names} | {"action": record["action"]})
        if len(self._rows) >= ROWS:
            self._flush()
        return 0

    def _flush(self) -> None:
        if self._rows and self._episode is not None:
            rows, self._rows = self._rows, []
            with ExitStack() as undo:
                undo.push(self._episode)  # after an error it is discarded, and the error names the remedy
                self._episode.add({name: np.stack([row[name] for row in rows]) for name in rows[0]})
                undo.pop_all()

    def _keep(self, seed: int, facts: bytes) -> int:
        self._flush()
        if self._episode is None:
            return 0
        episode, self._episode = self._episode, None
        with episode:
            return episode.keep(seed=seed, facts=EpisodeFacts.from_json(json.loads(facts)))


def _serve(channel: Channel, path: Any) -> None:
    """The process: write until the channel is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # they end the loop, which then closes the channel
        signal.signal(number, signal.SIG_IGN)
    writer = _Writer(DemonstrationStore.open(path))
    try:
        while True:
            for name, record in channel.receive():
                before = writer.reason
                count = writer.obey(name, record)
                if name != "step":
                    channel.send("done", record["number"], count, writer.reason.encode(errors="replace")[:REASON_SIZE])
                elif writer.reason != before:
                    channel.send("failed", writer.reason.encode(errors="replace")[:REASON_SIZE])
            channel.wait(60.0)
    except ConnectionError:
        writer.discard()
