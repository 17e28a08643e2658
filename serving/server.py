"""A policy on the network: each robot has a session, and waiting requests are predicted together.

Every message is checked before it reaches the engine, which only one thread uses. The requests of a session are
answered in their order, one at a time; later ones wait in its socket, so that no requests pile up.

A chunk depends on the messages and the noise of its session, not on the other sessions; but a row of a batch may differ
in its last bits from the same row alone.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from ..policy.engines.interface import Engine
from ..specification import Stream, interface_to_json
from ..version import __version__
from .inference import Inference
from .session import Session
from .wire import PROTOCOL, Message, pack, require, unpack

OPEN_S = 5.0
"""Seconds within which a connection must open a session, and a closed connection must be gone."""

PING_S = 10.0
"""Seconds between two pings to a client, and within which it must answer each."""

READ_S = 5.0
"""Seconds within which a client must read its messages."""

IDLE_S = 600.0
"""Seconds without a request after which a session is closed."""

PLACE_S = 30.0
"""Seconds without a request after which a session loses its place to a new client if all places are taken."""

SMALL_FRAMES = 20
"""Pings, pongs and pieces of messages below `PIECE` that a client may send in a second."""

PIECE = 1024
"""Bytes of a piece of a message below which it counts as small."""

CONTROL = 8
"""The first opcode of control frames: close, ping and pong (RFC 6455, section 5.2)."""

OVERHEAD = 16 * 1024
"""Bytes of a message beside its arrays."""

MEASURED = 1000
"""Number of the last answers whose times /healthz reports."""


class Server:
    """Serves an engine.

    task: name of the task that the policy was trained for. token: a secret that every client must know. seed: seeds the
    noise, together with the number of each session. max_sessions: sessions at a time. max_batch: requests of one
    prediction.

    Raises ValueError if msgpack or websockets is not installed.
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
        self._idle: dict[int, asyncio.Timeout] = {}
        self._latency_s: deque[float] = deque(maxlen=MEASURED)

    async def run(self, host: str, port: int, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then close every session. ready: called with the address once it can be reached.

        Raises OSError if it cannot listen at that host and port.
        """
        await self.inference.warm_up()
        listening = await self._sockets.serve(
            self._run_session,
            host,
            port,
            process_request=self._admit,
            create_connection=limited(self._sockets.ServerConnection),
            origins=[None],  # a web page has an origin, and is no client of ours
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
            if answering.done():  # only by a fault: then no request would be answered
                answering.result()
        finally:
            listening.close()
            await listening.wait_closed()
            answering.cancel()
            self.inference.close()

    def hello(self, number: int) -> Message:
        """The first message of a session."""
        return {
            "kind": "hello",
            "protocol": PROTOCOL,
            "recede": __version__,
            "session": number,
            "task": self.task,
            **interface_to_json(self.engine.specification, self.engine.horizons),
        }

    def health(self) -> dict[str, Any]:
        """The answer of /healthz. Times are of the last answers, from the arrival of the request."""
        sizes, latency = self.inference.sizes, list(self._latency_s)
        num_batches = sizes.total()
        return {
            "status": "ok",
            "protocol": PROTOCOL,
            "recede": __version__,
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

    async def _run_session(self, socket: Any) -> None:
        """Answer one session until its connection is closed."""
        if self._num_sessions >= self.max_sessions and not self._free_a_place():
            await socket.close(1013, f"all {self.max_sessions} sessions are taken")
            return
        self._num_sessions += 1
        gone = asyncio.create_task(socket.wait_closed())
        try:
            session = Session(next(self._numbers), self.engine, self.seed)
            await socket.send(pack(self.hello(session.number)))
            while True:
                data = await self._next_message(session, socket)
                answering = asyncio.create_task(self._answer(session, data))
                await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():  # nobody waits for the answer
                    answering.cancel()
                    return
                await socket.send(pack(answering.result()))
        except self._closed:
            return
        except TimeoutError:
            pass
        finally:
            self._num_sessions -= 1
            gone.cancel()
        await socket.close(
            1001, f"no request for {IDLE_S:g} s, or for {PLACE_S:g} s if another client needed the place"
        )

    async def _next_message(self, session: Session, socket: Any) -> Any:
        """The next message of a session. Raises TimeoutError if it comes too late."""
        try:
            async with asyncio.timeout(IDLE_S) as self._idle[session.number]:
                return await socket.recv()
        finally:
            del self._idle[session.number]

    def _free_a_place(self) -> bool:
        """End the session that has waited longest for a request, if it has waited for `PLACE_S`."""
        now = asyncio.get_running_loop().time()
        for timeout in self._idle.values():  # in the order in which they began to wait
            ends = timeout.when()
            if ends is not None and now < ends <= now + IDLE_S - PLACE_S:
                timeout.reschedule(now)
                return True
        return False

    async def _answer(self, session: Session, data: Any) -> Message:
        """The requested chunk, or the error of the message."""
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

    async def _admit(self, socket: Any, request: Any) -> Any:
        """Answer a request of HTTP; None lets it become a session."""
        if socket.protocol.eof_sent:  # what followed the request has already ended the connection
            socket.transport.abort()
            await socket.wait_closed()
            return None
        if self.token is not None:
            credentials = ",".join(request.headers.get_all("Authorization"))
            if not hmac.compare_digest(credentials.encode(errors="replace"), f"Bearer {self.token}".encode()):
                response = socket.respond(401, "a token is needed: Authorization: Bearer ...\n")
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
        if request.path == "/healthz":
            response = socket.respond(200, json.dumps(self.health()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        return None if request.path == "/" else socket.respond(404, "not found: only / and /healthz exist\n")


def max_size(engine: Engine) -> int:
    """Bytes of the largest message that a session may send."""
    specification, horizons = engine.specification, engine.horizons
    observation = sum(_bytes(stream) for stream in specification.observations) * horizons.observation
    return observation + 4 * horizons.prediction * (specification.action.size + 1) + OVERHEAD


def _bytes(stream: Stream) -> int:
    return stream.size * np.dtype(stream.dtype).itemsize


def _address(name: Any) -> str:
    host, port, *_ = name
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def limited(connection: type[Any]) -> type[Any]:
    """A class of connections that end if the client floods the server, or does not read its messages.

    A read may hold 40,000 frames without content, and each ping is answered, while all other sessions wait.
    """
    too_many = require("websockets.exceptions").ProtocolError

    class Connection(connection):
        def __init__(self, protocol: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(protocol, *arguments, **options)
            self.second, self.num_small, self.is_ending = 0.0, 0, False
            receive = protocol.recv_frame

            def receive_limited(frame: Any) -> None:
                if frame.opcode >= CONTROL or (not frame.fin and len(frame.data) < PIECE):
                    self.count_small_frame()
                receive(frame)

            protocol.recv_frame = receive_limited

        def count_small_frame(self) -> None:
            if self.loop.time() >= self.second + 1:
                self.second, self.num_small = self.loop.time(), 0
            self.num_small += 1
            if self.num_small > SMALL_FRAMES:
                raise too_many(f"more than {SMALL_FRAMES} pings, pongs or small pieces of messages in a second")

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.protocol.close_expected() and not self.is_ending:  # otherwise it ends only if the client wishes
                self.is_ending = True
                self.loop.call_later(OPEN_S, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.ending = self.loop.call_later(READ_S, self.transport.abort)

        def resume_writing(self) -> None:
            self.ending.cancel()
            super().resume_writing()

    return Connection
