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
        with contextlib.suppress(ConnectionError):  # the robot goes on; the next request raises the error
            self._flush()

    def request(self, name: str, number: int, *values: Any, seconds: float) -> Any:
        """Send a message, and wait for the answer that has its number.

        Raises ConnectionError if the process has ended, and TimeoutError if it does not answer within that time.
        """
        self._waiting.append((name, (number, *values)))
        until = time.monotonic() + seconds
        while True:
            is_sent = self._flush()
            try:
                for _, record in self._child.channel.receive():
                    if record["number"] == number and is_sent:
                        return record
            except ConnectionError:
                self.is_lost = True
                raise
            self._child.channel.wait(0.1 if is_sent else 0.001)
            if time.monotonic() > until:
                raise TimeoutError(f"the process did not {name} within {seconds:g} s")

    def poll(self) -> list[Any]:
        """The answers that have come without a request."""
        records = list[Any]()
        try:
            for _, record in self._child.channel.receive():
                records.append(record)
        except ConnectionError:
            self.is_lost = True
        return records

    def _flush(self) -> bool:
        """Send as many messages as the process takes; whether none is left."""
        try:
            while self._waiting and self._child.channel.send(self._waiting[0][0], *self._waiting[0][1]):
                self._waiting.popleft()
        except ConnectionError:
            self.is_lost = True
            raise
        return not self._waiting
