"""Processes that step environments. Each has an arena of its own; one that dies takes only its own episodes with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from ..envs.faults import Fault
from ..policy.requests import Request
from ..realtime import end_with_parent
from .episode import Arena, Chunks, Outcome

JOIN_S = 10.0
"""Seconds that a process has to close its environments."""

MOST_DEATHS = 3
"""The episodes that may end their process alone before the first one that runs to its end."""


class Workers:
    """Processes among which episodes are dealt by the values of their seeds.

    They are spawned, because a fork would copy the threads and the GPU of this process. An interrupt from the terminal
    does not end them; `close` does, or the end of this process.

    arena: makes the arena of a process; it must be picklable.
    """

    def __init__(self, arena: Callable[[], Arena], count: int) -> None:
        self._arena = arena
        self._workers: list[_Worker | None] = [None] * count
        self._has_outcome, self._num_deaths = False, 0

    def advance(self, chunks: Chunks) -> dict[int, Request | Outcome]:
        """See `Arena.advance`. The episodes of a process that dies have a fault without a step, because nobody knows
        which of them ended it, and another process takes its place.

        Raises ChildProcessError if a process dies before it steps an environment, or if episodes end their processes
        one after the other and none has run to its end.
        """
        shares: dict[int, dict[int, Any]] = {}
        for seed, chunk in chunks.items():
            shares.setdefault(seed % len(self._workers), {})[seed] = chunk
        for index, share in shares.items():
            self._worker(index).send(share)
        return {seed: answer for index, share in shares.items() for seed, answer in self._answers(index, share).items()}

    def close(self) -> None:
        """End the processes."""
        for worker in filter(None, self._workers):
            worker.close()
        self._workers = [None] * len(self._workers)

    def _worker(self, index: int) -> _Worker:
        worker = self._workers[index] or _Worker(self._arena)
        self._workers[index] = worker
        return worker

    def _answers(self, index: int, share: Chunks) -> dict[int, Request | Outcome]:
        worker = self._worker(index)
        try:
            answers = worker.receive()
        except (EOFError, ConnectionError):
            worker.close()
            self._workers[index] = None
            self._num_deaths += len(share) == 1
            is_hopeless = not self._has_outcome and self._num_deaths == MOST_DEATHS
            if not worker.has_started or is_hopeless:
                when = "no episode has run to its end yet" if worker.has_started else "it had not begun one"
                raise ChildProcessError(
                    f"one of {len(self._workers)} processes that step environments ended {worker.end}, and {when}: "
                    "read its own message above, or step in this process with workers=0"
                ) from None
            fault = Fault(0, None, "its process", ChildProcessError.__name__, f"the process ended {worker.end}")
            return {seed: Outcome(seed, False, 0.0, 0, fault=replace(fault, seed=seed)) for seed in share}
        self._has_outcome |= any(isinstance(answer, Outcome) for answer in answers.values())
        return answers


class _Worker:
    """One process and our end of its pipe. has_started: whether it is ready to step environments."""

    def __init__(self, arena: Callable[[], Arena]) -> None:
        self.has_started = False
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, arena))
        try:
            self._process.start()
        finally:
            theirs.close()

    def send(self, chunks: Chunks) -> None:
        with contextlib.suppress(ConnectionError):  # `receive` notices it too
            self._pipe.send(chunks)

    def receive(self) -> dict[int, Request | Outcome]:
        if not self.has_started:
            self.has_started = self._pipe.recv()
        return self._pipe.recv()

    @property
    def end(self) -> str:
        """How the process ended: its exit status, or the signal that ended it."""
        code = self._process.exitcode or 0
        return f"with exit status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"

    def close(self) -> None:
        self._pipe.close()
        self._process.join(JOIN_S)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, make: Callable[[], Arena]) -> None:
    """The process of a worker: advance episodes until the other end is closed."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    arena = make()
    try:
        with contextlib.suppress(EOFError, ConnectionError):
            pipe.send(True)
            while True:
                pipe.send(arena.advance(pipe.recv()))
    finally:
        arena.close()
