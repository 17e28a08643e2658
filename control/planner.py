"""A policy in a process of its own, so that no prediction ever holds up the control loop.

Shapes: To, Tp observation and prediction horizon; Da size of the action.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..execution.interface import Execution
from ..policy.denoising.guidance import Prefix
from ..policy.requests import Request
from ..realtime import Channel, Child, Layouts
from ..specification import Horizons, Specification
from .planned import SURE, Doubt

Predict: TypeAlias = Callable[[Request], NDArray[Any]]
"""Predicts a chunk (Tp, Da) from a request."""


@runtime_checkable
class Doubting(Protocol):
    """A `Predict` that also judges its chunks."""

    def doubt(self, request: Request, chunk: NDArray[Any]) -> Doubt:
        """How doubtful the chunk of a request is."""
        ...


NUM_WARM = 5
"""Predictions of each kind before the first request; the median of their times is the expected time of the next."""

REASON_SIZE = 1000
"""Bytes of the reason why a policy cannot be loaded."""


class PolicyProcess:
    """A `Planner` whose predictions are made by another process, with one thread.

    load: called in that process with `arguments`; returns the function that predicts, which may be `Doubting`. It must
    be importable there.
    rehearsal: requests that it predicts before it is ready, one of each kind that will come; see `rehearsed`.
    Only the latest request is answered: chunks of earlier ones are dropped.
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        load: Callable[..., Predict],
        *arguments: Any,
        rehearsal: Sequence[Request] = (),
    ) -> None:
        requests, answers = layouts(specification, horizons)
        rehearsal = tuple(rehearsal) or (_request(np.zeros((), requests["request"])),)
        self._child = Child(_serve, requests, answers, rehearsal, load, arguments)
        self._streams = [stream.name for stream in specification.observations]
        self._shape = horizons.prediction, specification.action.size
        self._number, self._answered = 0, 0
        self.doubt = SURE
        """How doubtful the last chunk was that came."""

    def wait(self, seconds: float = 120.0) -> float:
        """Wait until the policy is loaded and warm; return the seconds that one prediction takes.

        Raises ValueError if the policy cannot be loaded so, TimeoutError if it takes longer, and ConnectionError if the
        process ends, having printed why.
        """
        until = time.monotonic() + seconds
        while True:
            for name, record in self._receive():
                if name == "refused":
                    raise ValueError(record["reason"].decode(errors="replace"))
                if name == "ready":
                    return float(record["prediction_s"])
            if time.monotonic() > until:
                raise TimeoutError(f"the policy must be ready within {seconds:g} s, but is still being loaded")
            self._child.channel.wait(0.1)

    def ask(self, request: Request) -> None:
        """Request a chunk. Raises ConnectionError if the process is lost, or does not read its requests."""
        self._number += 1
        prefix = request.prefix
        if prefix is None:
            prefix = Prefix(np.zeros(self._shape), np.zeros(self._shape[0]))
        fields = prefix.actions, prefix.weights, prefix.start, prefix.limit, prefix.exact
        streams = tuple(request.history[name] for name in self._streams)
        if not self._child.channel.send("request", self._number, bool(request.guidance), fields, streams):
            raise ConnectionError("the policy does not read its requests: its process is stuck")

    def poll(self) -> NDArray[Any] | None:
        """The chunk (Tp, Da) of the latest request, once it has come. Raises ConnectionError if the process is lost."""
        for _, record in self._receive():
            self._answered = int(record["number"])
            if self._answered == self._number:
                self.doubt = Doubt(float(record["share"]), bool(record["is_alarm"]))
                return np.array(record["chunk"])
        return None

    def is_idle(self, seconds: float = 10.0) -> bool:
        """Whether the process lives and has nothing to do; waits so long for the answer to the latest request."""
        until = time.monotonic() + seconds
        with contextlib.suppress(ConnectionError):
            while self._answered < self._number and time.monotonic() < until:
                self._child.channel.wait(0.1)
                self.poll()
        return self._answered == self._number and self._child.exitcode is None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _receive(self) -> Iterator[tuple[str, Any]]:
        try:
            yield from self._child.channel.receive()
        except ConnectionError:
            raise ConnectionError("the process of the policy has ended: see above for its error, if any") from None


def layouts(specification: Specification, horizons: Horizons) -> tuple[Layouts, Layouts]:
    """The messages to the process of a policy, and from it."""
    chunk = (horizons.prediction, specification.action.size)
    streams = [(s.name, s.dtype, (horizons.observation, *s.shape)) for s in specification.observations]
    prefix = [("actions", "f4", chunk), ("weights", "f4", chunk[:1]), ("start", "f8"), ("limit", "f8"), ("exact", "?")]
    request = [("number", "i8"), ("is_guided", "?"), ("prefix", np.dtype(prefix)), ("streams", np.dtype(streams))]
    answers = {
        "ready": np.dtype([("prediction_s", "f8")]),
        "refused": np.dtype([("reason", f"S{REASON_SIZE}")]),
        "chunk": np.dtype([("number", "i8"), ("chunk", "f4", chunk), ("share", "f8"), ("is_alarm", "?")]),
    }
    return {"request": np.dtype(request)}, answers


def rehearsed(execution: Execution, specification: Specification) -> list[Request]:
    """The first request of each kind that an execution makes at the beginning of an episode.

    An engine may compile itself for each kind, and the robot must not wait for that. All values are zeros.
    """
    observation = {stream.name: np.zeros(stream.shape, stream.dtype) for stream in specification.observations}
    chunk = np.zeros((execution.horizons.prediction, specification.action.size), np.float32)
    requests = dict[Hashable, Request]()
    for _ in range(execution.horizons.prediction + 1):  # no chunk lasts longer
        execution.observe(observation)
        if (request := execution.request()) is not None:
            requests.setdefault(request.kind, request)
            execution.accept(chunk)
    return list(requests.values())


def _serve(
    channel: Channel, rehearsal: Sequence[Request], load: Callable[..., Predict], arguments: tuple[Any, ...]
) -> None:
    """The process: predict until the channel is closed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the loop and the robot need the other cores
    try:
        predict = load(*arguments)
        seconds = max(_warm_up(predict, request) for request in rehearsal)
    except ConnectionError:  # the channel is closed, or the server is gone
        raise
    except (ValueError, OSError, ImportError) as error:
        channel.send("refused", str(error).encode(errors="replace")[:REASON_SIZE])
        return
    channel.send("ready", seconds)
    while True:
        for _, record in channel.receive():
            channel.send("chunk", record["number"], *_answer(predict, _request(record)))
        channel.wait(60.0)


def _answer(predict: Predict, request: Request) -> tuple[Any, float, bool]:
    """A chunk, and how doubtful it is."""
    chunk = predict(request)
    doubt = predict.doubt(request, chunk) if isinstance(predict, Doubting) else SURE
    return chunk, doubt.share, doubt.is_alarm


def _request(record: Any) -> Request:
    prefix = None
    if record["is_guided"]:
        fields = record["prefix"]
        prefix = Prefix(
            np.array(fields["actions"]),
            np.array(fields["weights"]),
            start=float(fields["start"]),
            limit=float(fields["limit"]),
            exact=bool(fields["exact"]),
        )
    streams = record["streams"]
    history = {name: np.array(streams[name]) for name in streams.dtype.names}
    return Request(history, () if prefix is None else (prefix,))


def _warm_up(predict: Predict, request: Request) -> float:
    """The median time of a prediction, s; the first ones are slower."""
    seconds: list[float] = []
    for _ in range(NUM_WARM):
        start = time.perf_counter()
        _answer(predict, request)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
