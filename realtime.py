"""Ground of everything in real time: clocks, and processes whose messages are never waited for."""

from __future__ import annotations

import atexit
import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

SPIN_S = 1e-3
"""Sleeping is no more exact than this on a common operating system; the rest is waited for awake."""


class Clock(Protocol):
    """Seconds that never go back. Their zero means nothing."""

    def now(self) -> float:
        """The current time, s."""
        ...

    def sleep_until(self, moment: float) -> None:
        """Return at that time, s, or at once if it has passed."""
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
        """Move the clock to `moment`, s, unless it has passed."""
        self._now = max(self._now, moment)


Layouts: TypeAlias = Mapping[str, np.dtype[Any]]
"""A message's name -> its fields, as a structured dtype. Both ends must hold the same messages in the same order."""

QUEUED = 8
"""Messages of each kind that a channel has room for."""

OVERHEAD = 1024
"""Bytes that the operating system may need for a message beside its own."""

JOIN_S = 1.0
"""Seconds that a process has to end by itself."""

ORPHAN_S = 10.0
"""Seconds that a process whose parent is gone has to stop a robot and to write what it holds."""


class Channel:
    """One end of a channel. outgoing, incoming: the messages of each direction.

    A message that is too large for the buffer of the socket, such as an image by the defaults of Linux, travels in a
    file in memory. The socket then carries its descriptor, and as many of its bytes as let `QUEUED` of them wait.
    """

    def __init__(self, end: socket.socket, outgoing: Layouts, incoming: Layouts) -> None:
        end.setblocking(False)
        self._end = end
        self._outgoing = {name: (kind, _numbered(layout)) for kind, (name, layout) in enumerate(outgoing.items())}
        self._incoming = [(name, _numbered(layout)) for name, layout in incoming.items()]
        self._size = max(layout.itemsize for _, layout in self._incoming)
        self._most = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // QUEUED

    def send(self, name: str, *values: Any) -> bool:
        """Send a message with a value for each of its fields; False if there is no room, and the message is dropped.

        The value of a field that is a record itself is a tuple. Raises ConnectionError if the other process has ended.
        """
        kind, layout = self._outgoing[name]
        message = np.zeros((), layout)
        message["kind"], record = kind, message["record"]
        for field, value in zip(record.dtype.names or (), values, strict=True):
            record[field] = value
        try:
            self._send(message.tobytes())
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.ETOOMANYREFS):  # the operating system is short of memory or files
                return False
            raise
        return True

    def _send(self, data: bytes) -> None:
        if len(data) <= self._most:
            self._end.send(data)
            return
        with os.fdopen(os.memfd_create("message"), "wb") as file:
            file.write(data)
            file.flush()
            socket.send_fds(self._end, [data[: self._most]], [file.fileno()])

    def receive(self) -> Iterator[tuple[str, Any]]:
        """The name and the record of every message that has arrived.

        Raises ConnectionError after them if the other process has ended.
        """
        while True:
            try:
                message, files, *_ = socket.recv_fds(self._end, self._size, 1)
            except BlockingIOError:
                return
            if not message:
                raise ConnectionResetError("the other end is closed")
            for number in files:
                with os.fdopen(number, "rb") as file:
                    message = os.pread(file.fileno(), self._size, 0)
            name, layout = self._incoming[message[0]]
            yield name, np.frombuffer(message, layout)[0]["record"]

    def wait(self, seconds: float) -> None:
        """Return when a message arrives, when the other process ends, or when the time is over."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        poll.poll(max(1e3 * seconds, 0.0))

    def close(self) -> None:
        """Close this end, which the other end notices."""
        self._end.close()


def _numbered(layout: np.dtype[Any]) -> np.dtype[Any]:
    """The bytes of a message: the number of its kind, and its fields."""
    return np.dtype([("kind", np.uint8), ("record", layout)])


def connected(*directions: Layouts) -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel, with room for the messages of both directions.

    Raises OSError if the system has no such sockets.
    """
    try:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except (AttributeError, OSError) as error:
        raise OSError(
            f"a robot in another process needs local sockets that keep messages apart, as Linux has: {error}"
        ) from None
    sizes = [_numbered(layout).itemsize for messages in directions for layout in messages.values()]
    room = QUEUED * sum(size + OVERHEAD for size in sizes)
    for end in ends:
        if room > end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    return ends


class ReportedElsewhere(Exception):
    """Ends a process without a word, because another process of the same command prints why it ends."""


class Interrupted(KeyboardInterrupt):
    """A signal has ended what was going on. number: of the signal. text: what is kept."""

    def __init__(self, number: int, text: str = "") -> None:
        is_typed = number == signal.SIGINT
        super().__init__(text or ("interrupted" if is_typed else f"ended by {signal.Signals(number).name}"))
        self.number = number


@contextlib.contextmanager
def on_signals(handle: Callable[[int, Any], object]) -> Generator[None]:
    """Call `handle` for SIGINT, SIGTERM and SIGHUP meanwhile, but not for those that are ignored, as with nohup.

    Does nothing outside the main thread, which alone may handle signals.
    """
    with contextlib.ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    undo.callback(signal.signal, number, signal.signal(number, handle))
        yield


def end_with_parent(seconds: float = 0.0) -> None:
    """End this process as long after its parent, s, however the parent ends and whatever this process does then.

    The process must have been started by `multiprocessing`; otherwise nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


class Child:
    """A process of one's own at the other end of a channel. It ends when this end is closed, at the latest after us.

    `end_with_parent` sees to that, whatever the process does. It is spawned, because a fork would copy our threads and
    our GPU. An interrupt from the terminal does not end it: whoever controls the robot is interrupted, and still needs
    it to stop.

    serve: called in the process with its end of the channel and `arguments`; it must be importable there. If it raises
    ConnectionError, the process ends in silence. outgoing, incoming: the messages to the process and from it. daemon:
    the end of this program terminates the process; otherwise it closes the channel and waits.

    Raises OSError as `connected` does.
    """

    def __init__(
        self, serve: Callable[..., None], outgoing: Layouts, incoming: Layouts, *arguments: Any, daemon: bool = True
    ) -> None:
        ours, theirs = connected(outgoing, incoming)
        self._process: Any = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(serve, theirs, incoming, outgoing, arguments), daemon=daemon
        )
        with theirs, contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            self._process.start()
            undo.pop_all()
        self.channel = Channel(ours, outgoing, incoming)
        """Our end."""
        if not daemon:
            atexit.register(self.channel.close)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """The exit status of the process, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> None:
        """Return when the process has ended, or when the time is over."""
        self._process.join(seconds)

    def close(self, seconds: float = JOIN_S) -> None:
        """Close the channel, and kill the process unless it ends within that time: a suspended one does not notice."""
        self.channel.close()
        atexit.unregister(self.channel.close)
        self._process.join(seconds)
        self._process.kill()
        self._process.join()


def _serve(
    serve: Callable[..., None], end: socket.socket, outgoing: Layouts, incoming: Layouts, arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(ORPHAN_S)
    channel = Channel(end, outgoing, incoming)
    with contextlib.suppress(ConnectionError), contextlib.closing(channel):
        serve(channel, *arguments)
