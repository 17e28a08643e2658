"""The standard streams of a command: they may be closed, end in a closed pipe, or be files on a full disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast


class _Lasting:
    """A stream whose reader may go: what nobody reads is dropped, and the command goes on and keeps its results.

    is_result: whether a disk that is full is an error. Progress and messages are dropped then, too.
    """

    def __init__(self, stream: TextIO, *, is_result: bool) -> None:
        self._stream, self._is_result = stream, is_result

    def write(self, text: str) -> int:
        """Write a text. Raises OSError, with the remedy, for results that cannot be written."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what waits. Raises OSError as `write` does."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """From now on nothing of this stream is written, not even by processes that are started later."""
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if self._is_result and not isinstance(error, BrokenPipeError):
            raise OSError(
                error.errno,
                f"standard output could not be written ({error.strerror}): make sure that the disk has room, and "
                "repeat the command",
            ) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Generator[None]:
    """Meanwhile, closed standard streams are /dev/null, and what nobody reads is dropped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # it was closed, so its number would be that of the next file
            stream = Path(os.devnull).open("r" if name == "stdin" else "w")  # noqa: SIM115
            if stream.fileno() == number:
                os.set_inheritable(number, True)
            setattr(sys, name, stream)
    before = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, _Lasting(sys.stdout, is_result=True))
    sys.stderr = cast(TextIO, _Lasting(sys.stderr, is_result=False))
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
