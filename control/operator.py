"""Whoever stands beside a robot, and may end what it does at any time."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import ExitStack, suppress
from typing import Any


class Operator:
    """Whoever stands beside the robot, by the keys of this terminal and the signals to this process."""

    def __init__(self) -> None:
        self._has_pressed, self._is_signalled = False, False
        self._terminal = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._undo = ExitStack()

    def __enter__(self) -> Operator:
        with ExitStack() as undo:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                undo.callback(signal.signal, number, signal.signal(number, self._signal))
            if self._terminal is not None:
                import termios
                import tty

                undo.enter_context(suppress(termios.error))  # of a terminal that is gone
                undo.callback(termios.tcsetattr, self._terminal, termios.TCSAFLUSH, termios.tcgetattr(self._terminal))
                tty.setcbreak(self._terminal)  # every key counts, not only the one that ends a line
                print("any key ends an episode and stops the robot, Ctrl-C ends them all")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._undo.__exit__(*error)

    def begin(self, *, is_asked: bool) -> bool:
        """Wait for Enter, where that is asked or a key has ended the last episode; False where all is to end.

        What was typed before does not count, and no other key does: whoever is in a hurry to stop presses many.
        """
        if (is_asked or self._has_pressed) and self._terminal is not None:
            print("Enter begins the next episode")
            self._keys(0)
            while not self._is_signalled and b"\n" not in self._keys(0.1):
                pass
        self._has_pressed = False
        return not self._is_signalled

    def interrupts(self) -> bool:
        """Whether the episode is to end now."""
        self._has_pressed = self._has_pressed or bool(self._keys(0))
        return self._has_pressed or self._is_signalled

    def _signal(self, *_: Any) -> None:
        self._is_signalled = True

    def _keys(self, seconds: float) -> bytes:
        """What was typed, or is within so many seconds."""
        if self._terminal is None or not select.select([self._terminal], [], [], seconds)[0]:
            return b""
        return os.read(self._terminal, 4096)
