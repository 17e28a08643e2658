"""A policy in a process of its own, so that no prediction ever holds up the control loop.

Shapes: To, Tp observation and prediction horizon; Da size of the action.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..policy.requests import Request
from ..realtime import Channel, Layouts, connected
from ..specification import Horizons, Specification

Predict: TypeAlias = Callable[[Request], NDArray[Any]]
"""A chunk (Tp, Da) for a request."""

NUM_WARM = 5
"""Predictions before the first request; the median of their times is what is expected of the next ones."""


class PolicyProcess:
    """A `Planner` whose predictions are made by another process, with one thread.

    load: called in that process with `arguments`, it gives the function that predicts. It must be importable there.
    Only the answer to the last request is given; one to an earlier request is dropped.
    """

    def __init__(
        self, specification: Specification, horizons: Horizons, load: Callable[..., Predict], *arguments: Any
    ) -> None:
        self._layouts = layouts(specification, horizons)
        ours, theirs = connected(*self._layouts)
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads of this process
        self._process: Any = context.Process(
            target=_serve, args=(theirs, specification, horizons, load, arguments), daemon=True
        )
        self._channel = Channel(ours, *self._layouts)
        self._streams = [stream.name for stream in specification.observations]
        self._shape = horizons.prediction, specification.action.size
        self._number, self._answered = 0, 0
        with theirs:
            self._process.start()

    def wait(self, seconds: float = 120.0) -> float:
        """Until the policy is loaded and warm; the seconds that one prediction takes.

        Raises TimeoutError where it takes longer, and ConnectionError where the process ends, having said why.
        """
        until = time.monotonic() + seconds
        while True:
            for name, record in self._receive():
                if name == "ready":
                    return float(record["prediction_s"])
            if time.monotonic() > until:
                raise TimeoutError(f"the policy must be ready within {seconds:g} s, but is still being loaded")
            self._channel.wait(0.1)

    def ask(self, request: Request) -> None:
        """Begin with a chunk. Raises ConnectionError where the process is lost, or too busy to be asked."""
        self._number += 1
        prefix = request.prefix
        if prefix is None:
            prefix = Prefix(np.zeros(self._shape), np.zeros(self._shape[0]))
        settings = bool(request.guidance), prefix.start, prefix.limit, prefix.exact
        streams = (request.history[name] for name in self._streams)
        if not self._channel.send("request", self._number, prefix.actions, prefix.weights, *settings, *streams):
            raise ConnectionError("the policy does not read what it is asked")

    def poll(self) -> NDArray[Any] | None:
        """The chunk (Tp, Da) of the last request, once it is there. Raises ConnectionError without a process."""
        for _, record in self._receive():
            self._answered = int(record["number"])
            if self._answered == self._number:
                return np.array(record["chunk"])
        return None

    def _receive(self) -> Iterator[tuple[str, Any]]:
        try:
            yield from self._channel.receive()
        except ConnectionError:
            raise ConnectionError("the process of the policy has ended; it may have said above why") from None

    def is_idle(self, seconds: float = 10.0) -> bool:
        """Whether the process is there and has nothing to do; the answer to the last request is waited for."""
        until = time.monotonic() + seconds
        with contextlib.suppress(ConnectionError):
            while self._answered < self._number and time.monotonic() < until:
                self._channel.wait(0.1)
                self.poll()
        return self._answered == self._number and self._process.is_alive()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.join(1.0)
        self._process.kill()
        self._process.join()


def layouts(specification: Specification, horizons: Horizons) -> tuple[Layouts, Layouts]:
    """The messages to a planner and from it."""
    chunk = (horizons.prediction, specification.action.size)
    settings = [("is_guided", "?"), ("start", "f8"), ("limit", "f8"), ("exact", "?")]
    streams = [(s.name, s.dtype, (horizons.observation, *s.shape)) for s in specification.observations]
    prefix = [("prefix actions", "f4", chunk), ("prefix weights", "f4", chunk[:1])]
    requests = {"request": np.dtype([("number", "i8"), *prefix, *settings, *streams])}
    answers = {
        "ready": np.dtype([("prediction_s", "f8")]),
        "chunk": np.dtype([("number", "i8"), ("chunk", "f4", chunk)]),
    }
    return requests, answers


def _serve(
    end: socket.socket,
    specification: Specification,
    horizons: Horizons,
    load: Callable[..., Predict],
    arguments: tuple[Any, ...],
) -> None:
    """The process: until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the loop is interrupted, and still brakes along what is planned
    os.environ["OMP_NUM_THREADS"] = "1"  # the loop and the robot need the other cores
    requests, answers = layouts(specification, horizons)
    channel = Channel(end, answers, requests)
    streams = [stream.name for stream in specification.observations]
    with contextlib.suppress(ConnectionError), contextlib.closing(channel):
        predict = load(*arguments)
        channel.send("ready", _warmed(predict, requests["request"], streams))
        while True:
            for _, record in channel.receive():
                channel.send("chunk", record["number"], predict(_request(record, streams)))
            channel.wait(60.0)


def _request(record: Any, streams: list[str]) -> Request:
    prefix = None
    if record["is_guided"]:
        prefix = Prefix(
            np.array(record["prefix actions"]),
            np.array(record["prefix weights"]),
            start=float(record["start"]),
            limit=float(record["limit"]),
            exact=bool(record["exact"]),
        )
    return Request({name: np.array(record[name]) for name in streams}, () if prefix is None else (prefix,))


def _warmed(predict: Predict, layout: np.dtype[Any], streams: list[str]) -> float:
    """The median time of a prediction, s; the first ones are slower."""
    taken: list[float] = []
    for _ in range(NUM_WARM):
        start = time.perf_counter()
        predict(_request(np.zeros((), layout), streams))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
