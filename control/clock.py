"""Time, as an argument: the same loop runs on a real clock and, in tests, on one that never waits."""

from __future__ import annotations

import time
from typing import Protocol

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
