"""Hands that play a script or type, and a writer in this process."""

import contextlib
import os
import threading
from collections import deque
from types import SimpleNamespace

import numpy as np
from recede.realtime import Channel, connected
from recede.recording import writing
from recede.robots.interface import Reading
from recede.teleoperation.interface import Order


class ThreadChild:
    """A `realtime.Child` that is a thread, because starting a process takes seconds on a busy machine."""

    pid = 0

    def __init__(self, serve, outgoing, incoming, *arguments, daemon=True):
        ours, theirs = connected(outgoing, incoming)
        self.channel, self._end = Channel(ours, outgoing, incoming), theirs
        other = Channel(theirs, incoming, outgoing)
        self._thread = threading.Thread(target=self._serve, args=(serve, other, *arguments), daemon=daemon)
        self._thread.start()

    def _serve(self, serve, channel, *arguments):
        with contextlib.suppress(ConnectionError), contextlib.closing(channel):
            serve(channel, *arguments)

    def close(self, seconds=0.0):
        self.channel.close()
        self._thread.join()


def write_in_thread(monkeypatch):
    """The process that writes a recording becomes a thread of this one."""
    monkeypatch.setattr(writing, "Child", ThreadChild)
    monkeypatch.setattr(writing, "signal", SimpleNamespace(SIGTERM=0, SIGHUP=0, SIG_IGN=0, signal=lambda *_: None))


class Typist:
    """Somebody at the terminal of this process. Types the keys of each phase once, after some seconds in it.

    keys: phase -> seconds and keys.
    """

    def __init__(self, monkeypatch, **keys):
        self.keys, self._typed = keys, ""
        self._ours, theirs = os.openpty()
        self._stdin = os.fdopen(theirs)
        monkeypatch.setattr("sys.stdin", self._stdin)

    def see(self, status):
        """Look at the screen."""
        seconds, keys = self.keys.get(status.phase, (0, ""))
        if status.phase != self._typed and status.seconds >= seconds:
            self._typed = status.phase
            os.write(self._ours, keys.encode())

    def close(self):
        self._stdin.close()
        os.close(self._ours)


class Hands:
    """A velocity input that gives each order of a script in its phase: (phase, seconds in it, order, text)."""

    kind, axes = "velocity", ("x", "y")

    def __init__(self, script=(), *, velocity=(0.3, -0.2), fail_at=np.inf):
        self.velocity = None if velocity is None else np.array(velocity)
        self.script, self.fail_at = deque(script), fail_at
        self.statuses, self.calls, self._since, self.now = [], [], ("", 0), 0.0

    def start(self):
        self.calls.append("start")

    def read(self, now):
        self.now = now
        if now >= self.fail_at:
            raise ConnectionError("the stick is unplugged")
        return None if self.velocity is None else Reading(self.velocity, now)

    def orders(self, status):
        self.statuses.append(status)
        assert len(self.statuses) < 5000, f"the script hangs before {self.script} in {status}"
        orders = []
        while self.script and self.script[0][0] == status.phase and status.seconds >= self.script[0][1]:
            _, _, kind, *text = self.script.popleft()
            orders.append(Order(kind, *text))
            if kind in ("begin", "end", "keep", "discard", "undo"):
                break
        return orders

    def close(self):
        self.calls.append("close")


def episodes(*ends, seconds=1.0):
    """A script of episodes with these ends, each of some seconds."""
    script = []
    for end in ends:
        script += [("ready", 0, "begin"), ("recording", seconds, "end"), ("ended", 0, end)]
    return [*script, ("ready", 0, "quit")]
