"""The person beside a robot, who may end an episode at any time."""

from __future__ import annotations

import os
import select
import sys
from contextlib import ExitStack, suppress
from typing import Any

from ..realtime import on_signals


class Operator:
    """Listens to the keys of this terminal and to the signals to this process, while its context is entered.

    hint: what the keys do, which a terminal shows. ends: the keys that end an episode, all if it is empty.
    """

    def __init__(
        self, hint: str = "any key ends an episode and stops the robot, Ctrl-C ends them all", *, ends: bytes = b""
    ) -> None:
        self._hint, self._ends = hint, ends
        self.rest = b""
        """The keys that `interrupts` has found and that end nothing."""
        self._has_pressed = False
        self.signal = 0
        """The signal that ended the session, or 0."""
        self._terminal = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._undo = ExitStack()

    def __enter__(self) -> Operator:
        with ExitStack() as undo:
            undo.enter_context(on_signals(self._end))
            if self._terminal is not None:
                import termios
                import tty

                undo.enter_context(suppress(termios.error))  # the terminal may be gone by then
                undo.callback(termios.tcsetattr, self._terminal, termios.TCSAFLUSH, termios.tcgetattr(self._terminal))
                tty.setcbreak(self._terminal)  # every key counts, not only Enter
                print(self._hint)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._undo.__exit__(*error)

    def begin(self, *, is_asked: bool) -> bool:
        """Wait for Enter if `is_asked`, or if a key ended the last episode; False if a signal ended the session.

        Only an Enter typed from now on begins: somebody in a hurry to stop presses many keys. Without a terminal this
        does not wait.
        """
        if (is_asked or self._has_pressed) and self._terminal is not None:
            print("Enter begins the next episode")
            self._keys(0)
            while not self.signal and b"\n" not in self._keys(0.1):
                pass
        self._has_pressed = False
        return not self.signal

    def interrupts(self) -> bool:
        """Whether the operator ends the episode now: by a key, or by a signal."""
        typed = self._keys(0)
        self.rest = bytes(key for key in typed if key not in self._ends) if self._ends else b""
        self._has_pressed = self._has_pressed or len(self.rest) < len(typed)
        return self._has_pressed or bool(self.signal)

    @property
    def has_terminal(self) -> bool:
        """Whether somebody can type."""
        return self._terminal is not None

    def typed(self) -> bytes:
        """The keys that were typed since the last call."""
        return self._keys(0)

    def _end(self, number: int, _: object) -> None:
        self.signal = number

    def _keys(self, seconds: float) -> bytes:
        """The typed keys, waiting up to `seconds` for the first."""
        if self._terminal is None or not select.select([self._terminal], [], [], seconds)[0]:
            return b""
        return os.read(self._terminal, 4096)
