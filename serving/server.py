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
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from ..policy.engines.interface import Engine
from ..specification import Stream
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
            create_connection=_closing_unread(self._sockets.ServerConnection),
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
            "recede": version("recede"),
            "session": number,
            "task": self.task,
            "specification": self.engine.specification.to_json(),
            "horizons": asdict(self.engine.horizons),
        }

    def health(self) -> dict[str, Any]:
        """The answer of /healthz. Times are of the last answers, from the arrival of the request."""
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

    async def _run_session(self, socket: Any) -> None:
        """Answer one session until its connection is closed."""
        if self._num_sessions >= self.max_sessions:
            await socket.close(1013, f"all {self.max_sessions} sessions are taken")
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
            await socket.close(1001, f"no request for {IDLE_S:g} s")
        finally:
            self._num_sessions -= 1

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

    def _admit(self, socket: Any, request: Any) -> Any:
        """Answer a request of HTTP; None lets it become a session."""
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


def _closing_unread(connection: type[Any]) -> type[Any]:
    """A class of connections that end if the client does not read its messages, so that they do not pile up."""

    class Connection(connection):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.ending = self.loop.call_later(READ_S, self.transport.abort)

        def resume_writing(self) -> None:
            self.ending.cancel()
            super().resume_writing()

    return Connection
