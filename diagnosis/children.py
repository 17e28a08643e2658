"""Questions that a child process answers within a time limit, because what they try may crash or never return."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess, _children  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage, reportUnknownVariableType]
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple, TypeAlias

from ..envs.faults import one_line
from ..realtime import end_with_parent

END_S = 10.0
"""Seconds that a process has to end once it has answered or was killed; torch takes one or two."""

Question: TypeAlias = Callable[..., Iterable[Any]]
"""What the child runs: importable there, and its answers can be pickled."""


class NoAnswer(NamedTuple):
    """Why there is no answer."""

    reason: str


def answers(question: Question, *arguments: Any, seconds: float) -> Iterator[Any]:
    """What `question(*arguments)` yields in a process of its own, and `NoAnswer` last if it ends before its end.

    seconds: longest time for each answer. The process has no terminal, and is killed with us.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy our threads and our GPU
    ours, theirs = context.Pipe(duplex=False)
    with NamedTemporaryFile(prefix="recede-doctor-") as output, closing(ours):
        process = context.Process(target=_serve, args=(theirs, output.name, question, arguments), daemon=True)
        process.start()
        theirs.close()
        try:
            while True:
                if not ours.poll(seconds):
                    more = "" if _has_ended(process) else ", and no signal ends it, so a driver holds it"
                    yield NoAnswer(f"it did not return within {seconds:g} s{more}")
                    return
                try:
                    is_last, value = ours.recv()
                except (EOFError, OSError):  # it ended between two answers, or within one
                    process.join(END_S)
                    yield NoAnswer(f"it {_ended(process.exitcode)}{_last_line(Path(output.name))}")
                    return
                if is_last:
                    process.join(END_S)
                    return
                yield value
        finally:
            _has_ended(process)


def _has_ended(process: BaseProcess) -> bool:
    """Kill a process; whether it has ended. One that is within a call of a driver may never end."""
    process.kill()
    process.join(END_S)
    if process.is_alive():
        _children.discard(process)  # for which Python would wait at our own end
    return not process.is_alive()


def answer(question: Question, *arguments: Any, seconds: float) -> Any:
    """The only answer of a question, or `NoAnswer`."""
    return [*answers(question, *arguments, seconds=seconds), NoAnswer("it returned nothing")][0]


def _serve(ours: Connection, output: str, question: Question, arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted, and ends us
    number = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(number, stream)
    try:
        for value in question(*arguments):
            ours.send((False, value))
    except (Exception, SystemExit) as error:
        ours.send((False, NoAnswer(described(error))))
    ours.send((True, None))


def described(error: BaseException) -> str:
    """An error in one line, with its kind unless it is one of ours, which says it in words."""
    text = one_line(str(error))
    return text if type(error) in (ValueError, OSError) and text else f"{type(error).__name__}: {text}"


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return f" ({one_line(lines[-1])[:200]})" if lines else ""
