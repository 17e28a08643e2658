"""The progress of everything that takes long: a line that renews itself on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LIVE_S, PLAIN_S = 0.1, 10.0
"""Seconds between two states on a terminal, and between two lines elsewhere."""

LIVE = "{unit} {bar:20} {desc}"
"""What tqdm draws: what is done, a bar, and the state."""


class Progress:
    """How far something is, on stderr until it is closed: what is done of what, its share, a text, and the time left.

    The last state stays, with the time that it took.

    >>> import contextlib
    >>> with contextlib.redirect_stderr(sys.stdout), Progress(3, "copy", unit="episodes") as progress:
    ...     progress.advance(3, text="2 of them new")
    copy: 3 of 3 episodes, 2 of them new, in 00:00
    """

    def __init__(
        self,
        total: int | None,
        doing: str,
        *,
        unit: str,
        done: int = 0,
        scale: float = 1,
        delay_s: float = 0,
        is_shown: bool = True,
    ) -> None:
        """total: how many there are; None if nobody knows. unit: what is counted, in the plural.

        done: how many were done before. scale: how many make a unit, as 1e6 bytes make a MB. delay_s: for how long
        nothing appears; what ends within that time leaves no line.
        """
        self._total, self._doing, self._unit, self._scale = total, doing, unit, scale
        self._count = self._before = done
        self._text, self._is_shown, self._is_live = "", is_shown, is_terminal(sys.stderr)
        self._bar: Any = None
        self._began = time.monotonic()
        self._visible = self._began + delay_s
        self._due = self._visible if self._is_live else max(self._visible, self._began + PLAIN_S)
        if self._is_live:
            self.advance(0)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int = 1, *, text: str | None = None) -> None:
        """So many more are done; fewer if it is negative. text: what else matters; None for the last text."""
        self._count += count
        if text is not None:
            self._text = text
        now = time.monotonic()
        if self._is_shown and now >= self._due and self._count != self._total:
            self._due = now + (LIVE_S if self._is_live else PLAIN_S)
            self._show(self._state(self._left(now - self._began)))

    def close(self) -> None:
        """Leave the last state, if anything was done."""
        if self._bar is not None:
            self._bar.close()
        now = time.monotonic()
        if self._is_shown and self._count != self._before and now >= self._visible:
            say(f"{self._doing}: {self._state(f'in {tqdm.format_interval(now - self._began)}')}")

    def _show(self, state: str) -> None:
        if not self._is_live:
            say(f"{self._doing}: {state}")
            return
        if self._bar is None:
            form = LIVE if self._total else LIVE.replace(" {bar:20}", "")
            self._bar = tqdm(total=self._total, unit=self._doing, bar_format=form, leave=False, dynamic_ncols=True)
        self._bar.n = self._count
        self._bar.set_description_str(state)

    def _state(self, of_time: str) -> str:
        count, total = (f"{(value or 0) / self._scale:.{self._scale > 1:d}f}" for value in (self._count, self._total))
        share = f"{100 * self._count / self._total:.0f} %" if self._total and self._count < self._total else ""
        done = f"{count} of {total} {self._unit}" if self._total else f"{count} {self._unit}"
        return ", ".join(part for part in (done, share, self._text, of_time) if part)

    def _left(self, elapsed: float) -> str:
        """The time left at the mean speed so far; empty if that is unknown."""
        new = self._count - self._before
        if self._total is None or new <= 0:
            return ""
        return f"{tqdm.format_interval(elapsed / new * (self._total - self._count))} left"


def watched(
    items: Iterable[T], doing: str, *, unit: str, total: int | None = None, delay_s: float = 0, is_shown: bool = True
) -> Iterator[T]:
    """The items one after the other, with their progress. total: of those that have no length.

    The other arguments are those of `Progress`.
    """
    total = len(items) if isinstance(items, Sized) else total
    with Progress(total, doing, unit=unit, delay_s=delay_s, is_shown=is_shown) as progress:
        for item in items:
            yield item
            progress.advance()


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line above the progress that a terminal shows. file: stderr if None."""
    tqdm.write(line, file=file or sys.stderr)


def is_terminal(stream: TextIO) -> bool:
    """Whether a line of the stream may renew itself: it is a terminal, and NO_COLOR and TERM=dumb do not forbid it."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
