"""What runs in real time: clocks, and messages between processes that never wait."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

SPIN_S = 1e-3
"""Sleeping is not more exact than this on a common operating system; what is left is waited for awake."""


class Clock(Protocol):
    """Seconds that never go back. Their zero means nothing."""

    def now(self) -> float:
        """The current time, s."""
        ...

    def sleep_until(self, moment: float) -> None:
        """Return at that time, s, or at once where it is over."""
        ...


class MonotonicClock:
    """The monotonic clock of the machine, which all its processes share."""

    def now(self) -> float:
        """The current time, s."""
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """Sleep until shortly before that time, s, and wait for it awake."""
        left = moment - time.monotonic() - SPIN_S
        if left > 0:
            time.sleep(left)
        while time.monotonic() < moment:
            pass


class VirtualClock:
    """A clock that moves only when somebody sleeps, and then at once."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """The current time, s."""
        return self._now

    def sleep_until(self, moment: float) -> None:
        """Be there."""
        self._now = max(self._now, moment)


Layouts: TypeAlias = Mapping[str, np.dtype[Any]]
"""A message's name -> its fields, as a structured dtype. Both ends must hold the same messages in the same order."""

QUEUED = 8
"""Messages of each kind for which there should be room."""

OVERHEAD = 1024
"""Bytes that the operating system may take for a message beside those of the message."""


class Channel:
    """One end. outgoing, incoming: the messages of either direction."""

    def __init__(self, end: socket.socket, outgoing: Layouts, incoming: Layouts) -> None:
        end.setblocking(False)
        self._end = end
        self._outgoing = {name: (kind, _numbered(layout)) for kind, (name, layout) in enumerate(outgoing.items())}
        self._incoming = [(name, _numbered(layout)) for name, layout in incoming.items()]
        self._size = max(layout.itemsize for _, layout in self._incoming)

    def send(self, name: str, *values: Any) -> bool:
        """Send a message with a value for each of its fields; False where there was no room and it was dropped.

        Raises ConnectionError where the other process has ended.
        """
        kind, layout = self._outgoing[name]
        message = np.zeros((), layout)
        message["kind"], record = kind, message["record"]
        for field, value in zip(record.dtype.names or (), values, strict=True):
            record[field] = value
        try:
            self._end.send(message.tobytes())
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # the memory of the operating system is short, for the moment
                return False
            raise
        return True

    def receive(self) -> Iterator[tuple[str, Any]]:
        """The name and the record of every message that has come.

        Raises ConnectionError after them where the other process has ended.
        """
        while True:
            try:
                message = self._end.recv(self._size)
            except BlockingIOError:
                return
            if not message:
                raise ConnectionResetError("the other end is closed")
            name, layout = self._incoming[message[0]]
            yield name, np.frombuffer(message, layout)[0]["record"]

    def wait(self, seconds: float) -> None:
        """Return when there is something to receive, the end of the other process included, or when time is over."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        poll.poll(max(1e3 * seconds, 0.0))

    def close(self) -> None:
        """Close this end, which the other one notices."""
        self._end.close()


def _numbered(layout: np.dtype[Any]) -> np.dtype[Any]:
    """A message as it is sent: which of them it is, and its fields."""
    return np.dtype([("kind", np.uint8), ("record", layout)])


def connected(*directions: Layouts) -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel, with room for the messages of both directions.

    Raises OSError where the system has no such sockets, or where a message is larger than it can send.
    """
    try:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except (AttributeError, OSError) as error:
        raise OSError(
            f"a robot in another process needs local sockets that keep messages apart, as Linux has: {error}"
        ) from None
    sizes = {name: _numbered(layout).itemsize for messages in directions for name, layout in messages.items()}
    wanted = QUEUED * sum(size + OVERHEAD for size in sizes.values())
    for end in ends:
        if wanted > end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
    largest = max(sizes, key=lambda name: sizes[name])
    try:
        ends[0].send(bytes(sizes[largest]))
    except OSError as error:
        for end in ends:
            end.close()
        raise OSError(
            error.errno,
            f"a message must fit into one datagram, but one of {largest!r} has {sizes[largest]} bytes "
            f"({error.strerror}): make the stream smaller, or allow more with sysctl net.core.wmem_max={wanted}",
        ) from None
    ends[1].recv(sizes[largest])
    return ends
