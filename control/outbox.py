"""Messages to a process that may fall behind: they wait here, and nobody waits for them."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Any

from ..realtime import Child, Layouts

WAITING = 4096
"""Messages that may wait for a process; beyond them the oldest are lost."""

WAITING_BYTES = 2**28
"""Bytes that may wait for a process."""


class Outbox:
    """The messages for a process, in order. layouts: of the messages to it."""

    def __init__(self, child: Child, layouts: Layouts) -> None:
        self._child = child
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        largest = max(layout.itemsize for layout in layouts.values())
        self._most = max(2, min(WAITING, WAITING_BYTES // max(largest, 1)))
        self.num_dropped = 0
        """Messages that were lost because the process fell behind."""
        self.failure = ""
        """Why the process does not do what it should: its last words; empty while all is well."""
        self.is_lost = False
        """Whether the process has ended."""

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, name: str, *values: Any) -> None:
        """Send a message, behind those that still wait. Never waits itself."""
        self._waiting.append((name, values))
        if len(self._waiting) > self._most:
            self._waiting.popleft()
            self.num_dropped += 1
        try:
            self._flush()
            self._answers()
        except ConnectionError:  # the robot goes on until it has braked; the next request raises the error
            self._note_end()

    def request(self, name: str, number: int, *values: Any, seconds: float) -> Any:
        """Send a message, and wait for the answer that has its number.

        Raises ConnectionError if the process has ended, and TimeoutError if it does not answer within that time.
        """
        self._waiting.append((name, (number, *values)))
        until = time.monotonic() + seconds
        try:
            while True:
                is_sent = self._flush()
                for record in self._answers():
                    if record["number"] == number and is_sent:
                        return record
                self._child.channel.wait(0.1 if is_sent else 0.001)
                if time.monotonic() > until:
                    raise TimeoutError(f"the process did not {name} within {seconds:g} s")
        except ConnectionError:
            self._note_end()
            raise

    def _flush(self) -> bool:
        """Send as many messages as the process takes; whether none is left."""
        while self._waiting and self._child.channel.send(self._waiting[0][0], *self._waiting[0][1]):
            self._waiting.popleft()
        return not self._waiting

    def _answers(self) -> list[Any]:
        """The answers of the process that have arrived. Raises ConnectionError if it has failed or ended."""
        answers = list[Any]()
        for name, record in self._child.channel.receive():
            if name == "failed":
                self.failure = bytes(record["reason"]).decode(errors="replace")
            else:
                answers.append(record)
        return answers

    def _note_end(self) -> None:
        """Set `failure` to the last words of the process."""
        self.is_lost = True
        for _ in range(2):  # a closed end raises an error first, and then gives what it had received
            with contextlib.suppress(ConnectionError):
                self._answers()
        self.failure = self.failure or "its process has ended"
