"""A policy on the network: each robot has a session, and all that wait for a chunk are predicted together.

What the network says is checked before it comes near the engine, which one thread alone uses. The requests of a session
are answered in their order, one at a time; what is sent meanwhile waits in its socket, so nobody's requests pile up.

A chunk depends on what its session has sent and on the noise that it drew, not on whoever else is served; but a row of
a batch may differ in its last bits from the row by itself.

Shapes: B sessions of a batch; n steps that are sent at once; To, Tp observation and prediction horizon; Da size of the
action.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policy.engines.interface import Engine
from ..policy.guidance import Prefix
from ..policy.requests import History, Request, batch
from ..specification import Horizons, Specification, Stream, nearest
from .wire import PROTOCOL, Message, pack, require, unpack

OPEN_S = 5.0
"""Within which a connection must have asked for a session, and a closed one be gone."""

PING_S = 10.0
"""Between two signs of life that are asked of a client, and until each of them must have come."""

READ_S = 5.0
"""Within which a client must read what it is sent."""

IDLE_S = 600.0
"""After which a session that asks for nothing is closed."""

OVERHEAD = 16 * 1024
"""Bytes of a message beside those of its arrays."""

REMEMBERED = 1000
"""Requests whose times are told."""


class Answer(NamedTuple):
    """A chunk (Tp, Da), the seconds that its request waited, and those of the prediction."""

    chunk: NDArray[Any]
    waited_s: float
    inference_s: float


@dataclass(eq=False)
class Waiting:
    """A request, its noise (draws, Tp, Da), since when it waits, and where its answer is expected."""

    request: Request
    noise: NDArray[np.float32]
    since: float
    answer: asyncio.Future[Answer]


class Inference:
    """An engine that many ask: whenever it is free, all that wait and are guided alike are predicted at once.

    sizes: how many predictions were made of how many requests.
    """

    def __init__(self, engine: Engine, max_batch: int) -> None:
        self.engine, self.max_batch, self.sizes = engine, max_batch, Counter[int]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._queue: list[Waiting] = []
        self._arrived = asyncio.Event()

    async def ask(self, request: Request, noise: NDArray[np.float32]) -> Answer:
        """The chunk for a request, in its turn. Raises ValueError where the engine cannot predict it."""
        waiting = Waiting(request, noise, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def warm(self) -> None:
        """Predict batches of every size, because an engine may prepare itself for each."""
        streams, steps = self.engine.specification.observations, self.engine.horizons.observation
        request = Request({stream.name: np.zeros((steps, *stream.shape), stream.dtype) for stream in streams})
        noise = np.zeros(self.engine.noise_shape, np.float32)
        for size in range(1, self.max_batch + 1):
            await self._predicted([request] * size, [noise] * size)

    async def run(self) -> None:
        """Answer for ever."""
        while True:
            await self._arrived.wait()
            await self._settle(self._next_batch())

    def close(self) -> None:
        """End the thread, after what it is predicting."""
        self._thread.shutdown(cancel_futures=True)

    def _next_batch(self) -> list[Waiting]:
        """Those that are guided as the first one is, in their order."""
        alike = [each for each in self._queue if each.request.kind == self._queue[0].request.kind][: self.max_batch]
        self._queue = [each for each in self._queue if each not in alike]
        if not self._queue:
            self._arrived.clear()
        return alike

    async def _settle(self, batch: list[Waiting]) -> None:
        """Answer all of a batch; where that fails, each by itself, so that only what is wrong has an error."""
        began = time.perf_counter()
        try:
            chunks = await self._predicted([each.request for each in batch], [each.noise for each in batch])
        except Exception as error:  # an engine may raise anything, and others are to be served
            if len(batch) > 1:
                for each in batch:
                    await self._settle([each])
                return
            print(f"a prediction failed: {error!r}", file=sys.stderr, flush=True)
            if not batch[0].answer.done():
                batch[0].answer.set_exception(ValueError(f"the prediction failed: {error}"))
            return
        self.sizes[len(batch)] += 1
        taken = time.perf_counter() - began
        for each, chunk in zip(batch, chunks, strict=True):
            if not each.answer.done():  # nobody waits for it any more
                each.answer.set_result(Answer(chunk, began - each.since, taken))

    async def _predicted(self, requests: list[Request], noise: list[NDArray[np.float32]]) -> NDArray[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, requests, noise)

    def _predict(self, requests: list[Request], noise: list[NDArray[np.float32]]) -> NDArray[Any]:
        """The chunks (B, Tp, Da), in the thread of the engine."""
        observation, guidance = batch(requests)
        with np.errstate(all="ignore"):  # of one robot's numbers nobody else is to hear
            return self.engine.predict(observation, np.stack(noise, axis=1), guidance)


class Session:
    """What is known of one robot: its last observations and its noise, a function of the seed and its number."""

    def __init__(self, number: int, engine: Engine, seed: int) -> None:
        self.number, self.engine = number, engine
        self._generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
        self._history: History = {}

    def request(self, message: Message) -> Request:
        """What an "infer" asks for; its observations are remembered.

        Raises ValueError, and remembers nothing, where anything of it does not fit the policy.
        """
        specification, horizons = self.engine.specification, self.engine.horizons
        if message["kind"] != "infer":
            raise ValueError(f"a client must send messages of kind 'infer', got {message['kind'][:40]!r}")
        unknown = message.keys() - {"kind", "number", "observation", "prefix", "reset"}
        if unknown or type(message.get("number")) is not int or type(message.get("reset", False)) is not bool:
            raise ValueError(
                "an 'infer' must have a whole number, an observation, and may have a prefix and reset, a truth value; "
                f"got {_names(message)}"
            )
        steps = checked_observation(message.get("observation"), specification, horizons)
        prefix = checked_prefix(message.get("prefix"), specification, horizons)
        if message.get("reset", False) or not self._history:  # the first step stands for those before it
            self._history = {name: values[:1].repeat(horizons.observation, axis=0) for name, values in steps.items()}
        joined = {name: np.concatenate([self._history[name], values]) for name, values in steps.items()}
        self._history = {name: values[-horizons.observation :] for name, values in joined.items()}
        return Request(self._history, () if prefix is None else (prefix,))

    def noise(self) -> NDArray[np.float32]:
        """Of the next prediction, (draws, Tp, Da)."""
        return self._generator.standard_normal(self.engine.noise_shape, dtype=np.float32)


def checked_observation(found: Any, specification: Specification, horizons: Horizons) -> History:
    """The 1 to To newest steps of every stream (n, ...). Raises ValueError for anything else."""
    streams = {stream.name: stream for stream in specification.observations}
    if not isinstance(found, dict):
        raise ValueError(f"an observation must be a map of the streams {sorted(streams)}, got {type(found).__name__}")
    for name in map(_name, found.keys() - streams.keys()):
        raise ValueError(f"the policy does not know the observation {name}: {nearest(name, streams)}")
    for name, stream in streams.items():
        if name not in found:
            raise ValueError(f"the policy needs the observation {name!r}, got {_names(found)}")
        _check_array(found[name], f"observation {name!r}", stream.dtype, stream.shape, most=horizons.observation)
    if len({len(values) for values in found.values()}) > 1:
        lengths = {name: len(values) for name, values in found.items()}
        raise ValueError(f"every stream of an observation must have the same number of steps, got {lengths}")
    return {name: found[name] for name in streams}


def checked_prefix(found: Any, specification: Specification, horizons: Horizons) -> Prefix | None:
    """What a chunk is to go on from, if anything. Raises ValueError for what is no prefix of such a chunk."""
    if found is None:
        return None
    if not isinstance(found, dict) or found.keys() != {"actions", "weights", "start", "limit", "exact"}:
        raise ValueError(f"a prefix must be a map of actions, weights, start, limit and exact, got {_names(found)}")
    steps = horizons.prediction
    _check_array(found["actions"], "the actions of a prefix", "float32", specification.action.shape, exactly=steps)
    _check_array(found["weights"], "the weights of a prefix", "float32", (), exactly=steps)
    numbers = found["start"], found["limit"]
    are_finite = all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
    if not are_finite or type(found["exact"]) is not bool:
        raise ValueError("start and limit of a prefix must be finite numbers, and exact a truth value")
    start, limit = map(float, numbers)
    return Prefix(found["actions"], found["weights"], start=start, limit=limit, exact=found["exact"])


def _check_array(found: Any, what: str, dtype: str, shape: tuple[int, ...], *, most: int = 0, exactly: int = 0) -> None:
    is_array = isinstance(found, np.ndarray)
    steps = found.shape[0] if is_array and found.ndim else 0
    is_long = steps == exactly if exactly else 1 <= steps <= most
    if not is_array or not is_long or found.shape[1:] != shape or found.dtype != dtype:
        length = exactly or f"1 to {most}"
        wanted = ", ".join(map(str, (length, *shape)))
        got = f"{found.dtype} of shape {found.shape}" if is_array else type(found).__name__
        raise ValueError(f"{what} must be an array of {dtype} of shape ({wanted}), got {got}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"{what} must be finite")


def _name(name: Any) -> str:
    return repr(name[:40]) if isinstance(name, str) else type(name).__name__


def _names(found: Any) -> str:
    return f"[{', '.join(_name(each) for each in list(found)[:20])}]" if isinstance(found, dict) else _name(found)


class Server:
    """Serves an engine. task: the name of what it was trained for; token: a secret that every client must know.

    seed: of the noise, beside the number of each session. Raises ValueError where what it needs is not installed.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        task: str | None = None,
        token: str | None = None,
        seed: int = 0,
        max_sessions: int = 16,
        max_batch: int = 8,
    ) -> None:
        self._sockets = require("websockets.asyncio.server")
        self._closed = require("websockets.exceptions").ConnectionClosed
        require("msgpack")
        self.engine, self.task, self.token, self.seed = engine, task, token, seed
        self.max_sessions, self.inference = max_sessions, Inference(engine, max_batch)
        self._numbers, self._num_sessions, self._began = itertools.count(), 0, time.monotonic()
        self._num_answers, self._num_errors = 0, 0
        self._latency_s: deque[float] = deque(maxlen=REMEMBERED)

    async def run(self, host: str, port: int, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then close every session. ready: is told the address once it can be reached.

        Raises OSError where it cannot listen there.
        """
        await self.inference.warm()
        listening = await self._sockets.serve(
            self._serve,
            host,
            port,
            process_request=self._admitted,
            create_connection=_unread_is_closed(self._sockets.ServerConnection),
            origins=[None],  # a page in a browser has one, and is none of ours
            compression=None,
            max_size=max_size(self.engine),
            max_queue=1,
            open_timeout=OPEN_S,
            close_timeout=OPEN_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
        )
        answering, stopping = asyncio.create_task(self.inference.run()), asyncio.create_task(stop.wait())
        try:
            ready(_address(listening.sockets[0].getsockname()))
            await asyncio.wait([answering, stopping], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():  # which it never is, unless there is a fault in it: then nobody is served
                answering.result()
        finally:
            listening.close()
            await listening.wait_closed()
            answering.cancel()
            self.inference.close()

    def hello(self, number: int) -> Message:
        """What a session begins with."""
        return {
            "kind": "hello",
            "protocol": PROTOCOL,
            "recede": version("recede"),
            "session": number,
            "task": self.task,
            "specification": self.engine.specification.to_json(),
            "horizons": asdict(self.engine.horizons),
        }

    def health(self) -> dict[str, Any]:
        """What /healthz answers. Times are of the last answers, from the arrival of a request on."""
        sizes, latency = self.inference.sizes, list(self._latency_s)
        num_batches = sizes.total()
        return {
            "status": "ok",
            "protocol": PROTOCOL,
            "recede": version("recede"),
            "task": self.task,
            "engine": self.engine.name,
            "uptime_s": round(time.monotonic() - self._began, 1),
            "sessions": self._num_sessions,
            "answers": self._num_answers,
            "errors": self._num_errors,
            "batches": num_batches,
            "mean_batch": sum(size * count for size, count in sizes.items()) / num_batches if num_batches else None,
            "p50_ms": 1e3 * float(np.percentile(latency, 50)) if latency else None,
            "p99_ms": 1e3 * float(np.percentile(latency, 99)) if latency else None,
        }

    async def _serve(self, socket: Any) -> None:
        """One session, until its connection is closed."""
        if self._num_sessions >= self.max_sessions:
            await socket.close(1013, f"{self.max_sessions} sessions are served already")
            return
        self._num_sessions += 1
        try:
            session = Session(next(self._numbers), self.engine, self.seed)
            await socket.send(pack(self.hello(session.number)))
            while True:
                async with asyncio.timeout(IDLE_S):
                    data = await socket.recv()
                await socket.send(pack(await self._answer(session, data)))
        except self._closed:
            pass
        except TimeoutError:
            await socket.close(1001, f"nothing was asked for {IDLE_S:g} s")
        finally:
            self._num_sessions -= 1

    async def _answer(self, session: Session, data: Any) -> Message:
        """The chunk that is asked for, or what is wrong with the message."""
        began, message = time.perf_counter(), Message()
        try:
            message = unpack(data)
            answer = await self.inference.ask(session.request(message), session.noise())
        except ValueError as error:
            self._num_errors += 1
            number = message.get("number")
            return {
                "kind": "error",
                "number": number if type(number) is int else None,
                "message": str(error),
            }
        self._num_answers += 1
        self._latency_s.append(time.perf_counter() - began)
        return {"kind": "chunk", "number": message["number"], **answer._asdict()}

    def _admitted(self, socket: Any, request: Any) -> Any:
        """The answer to a request for anything but a session; None where a session may begin."""
        if self.token is not None:
            given = ",".join(request.headers.get_all("Authorization"))
            if not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {self.token}".encode()):
                response = socket.respond(401, "a token is needed: Authorization: Bearer ...\n")
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
        if request.path == "/healthz":
            response = socket.respond(200, json.dumps(self.health()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        return None if request.path == "/" else socket.respond(404, "there are / and /healthz\n")


def max_size(engine: Engine) -> int:
    """Bytes of the largest message that a session has a reason to send."""
    specification, horizons = engine.specification, engine.horizons
    observation = sum(_bytes(stream) for stream in specification.observations) * horizons.observation
    return observation + 4 * horizons.prediction * (specification.action.size + 1) + OVERHEAD


def _bytes(stream: Stream) -> int:
    return stream.size * np.dtype(stream.dtype).itemsize


def _address(name: Any) -> str:
    host, port, *_ = name
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def _unread_is_closed(connection: type[Any]) -> type[Any]:
    """A connection that is ended where the client does not read what it is sent, rather than kept for it."""

    class Connection(connection):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.ending = self.loop.call_later(READ_S, self.transport.abort)

        def resume_writing(self) -> None:
            self.ending.cancel()
            super().resume_writing()

    return Connection
