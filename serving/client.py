"""A policy that `recede serve` offers over the network, asked as if it were here.

It belongs into the process of a `PolicyProcess`, where it may wait. A connection that is lost is opened again, for as
long as it takes, and the request is sent again: meanwhile the plan runs out and the robot is held; see `control.loop`.

Shapes: To, Tp observation and prediction horizon; Da size of the action.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policy.requests import Request
from ..specification import Horizons, Specification
from .wire import PROTOCOL, TOKEN, Message, pack, read_token, require, unpack

FIRST_S = 10.0
"""Within which a policy must be reached for the first time."""

OPEN_S = 5.0
"""Within which a connection must be open."""

CLOSE_S = 1.0
"""Within which a connection must be closed."""

ANSWER_S = 10.0
"""Within which a chunk must come; after that the connection counts as lost."""

PING_S = 2.0
"""Between two signs of life that are asked of the server, and until each of them must have come."""

RETRY_S = 0.05, 1.0
"""Between two attempts to open a connection: at first, and at most."""

MAX_SIZE = 2**24
"""Bytes of the largest message that is taken from a server."""


class RemotePolicy:
    """One session with the policy that is served at an address; calling it predicts.

    task, specification, horizons: what is served there, as the server says; there may be no task.

    Raises ValueError where the address or the token is refused, or what answers is no policy of this protocol;
    ConnectionError where nothing answers within `FIRST_S`.
    """

    def __init__(self, address: str) -> None:
        self._client, self._errors = require("websockets.sync.client"), require("websockets.exceptions")
        require("msgpack")
        self.address, self._number, self._retry_s = address, 0, RETRY_S[0]
        self._stack, self._socket = ExitStack(), None
        until = time.monotonic() + FIRST_S
        while True:
            try:
                hello = self._open()
                break
            except self._transient as error:
                if time.monotonic() > until:
                    raise ConnectionError(
                        f"no policy is served at {address} ({error}): start one there with recede serve"
                    ) from None
                self._wait()
        self.task, self.specification, self.horizons = hello["task"], hello["specification"], hello["horizons"]

    def __call__(self, request: Request) -> NDArray[Any]:
        """The chunk (Tp, Da) for a request.

        Raises ValueError where the server refuses it, or has become another one, and ConnectionError where the process
        that asks has ended.
        """
        self._number += 1
        message = {"kind": "infer", "number": self._number, "observation": request.history}
        if (prefix := request.prefix) is not None:
            message["prefix"] = {name: np.asarray(values, np.float32) for name, values in prefix.arrays.items()} | {
                name: getattr(prefix, name) for name in ("start", "limit", "exact")
            }
        packed = pack(message)
        while True:
            try:
                if self._socket is None:
                    hello = self._open()
                    self.check(hello["specification"], hello["horizons"])
                return self._asked(packed)
            except self._transient as error:
                self._lost(error)

    def check(self, specification: Specification, horizons: Horizons) -> None:
        """Raise ValueError, and end the session, unless these are what is served."""
        found = self.specification.differences(specification)
        if self.horizons != horizons:
            found.append(f"horizons are {self.horizons} on one side and {horizons} on the other")
        if found:
            self.close()
            raise ValueError(f"{self.address} must serve the policy that it is asked for, but {'; '.join(found)}")

    def close(self) -> None:
        """End the session."""
        self._stack.close()
        self._socket = None

    @property
    def _transient(self) -> tuple[type[Exception], ...]:
        """What may be over soon; what is not is a ValueError."""
        return self._errors.WebSocketException, OSError, EOFError

    def _open(self) -> Message:
        """What the server says when a session begins."""
        token = read_token()
        options: dict[str, Any] = {"proxy": None, "compression": None, "max_size": MAX_SIZE}
        options |= {"open_timeout": OPEN_S, "close_timeout": CLOSE_S, "ping_interval": PING_S, "ping_timeout": PING_S}
        if token is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        try:
            socket = self._stack.enter_context(self._client.connect(self.address, **options))
        except self._errors.InvalidURI:
            raise ValueError(f"a policy is served at ws://host:port or wss://host, got {self.address}") from None
        except self._errors.InvalidStatus as error:
            self._check_status(error.response.status_code)
            raise
        try:
            description = described(socket.recv(OPEN_S), self.address)
        except BaseException:
            self._stack.close()
            raise
        self._socket, self._retry_s = socket, RETRY_S[0]
        return description

    def _check_status(self, status: int) -> None:
        """Raise ValueError where the server will say the same the next time."""
        if status == 401:
            raise ValueError(f"{self.address} refuses the token: set {TOKEN} to the one that the server was given")
        if status < 500:
            raise ValueError(f"{self.address} serves no policy: it answers with the status {status} of HTTP")

    def _asked(self, packed: bytes) -> NDArray[Any]:
        assert self._socket is not None
        self._socket.send(packed)
        answer = unpack(self._socket.recv(ANSWER_S))
        if answer["kind"] == "error":
            raise ValueError(f"{self.address} refuses the request: {answer.get('message')}")
        chunk, shape = answer.get("chunk"), (self.horizons.prediction, self.specification.action.size)
        if answer.get("number") != self._number or not isinstance(chunk, np.ndarray) or chunk.shape != shape:
            raise ValueError(f"{self.address} must answer with a chunk of shape {shape}, got {answer['kind']!r}")
        return chunk

    def _lost(self, error: Exception) -> None:
        """Be ready to connect again, unless there is nobody to do it for."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise ConnectionError("the process that asks has ended")
        if self._socket is None:
            self._wait()
            return
        print(f"{self.address} is lost ({error}); it is tried again until it is back", file=sys.stderr, flush=True)
        self.close()

    def _wait(self) -> None:
        time.sleep(self._retry_s)
        self._retry_s = min(2 * self._retry_s, RETRY_S[1])


def described(data: Any, address: str) -> Message:
    """What is served, with specification and horizons built, from what the server said first.

    Raises ValueError where it speaks another protocol.
    """
    hello = unpack(data)
    if hello["kind"] != "hello" or hello.get("protocol") != PROTOCOL:
        raise ValueError(
            f"{address} must speak version {PROTOCOL} of the protocol, but speaks {hello.get('protocol')!r}: install "
            f"one version of recede on both sides, there it is {hello.get('recede')!r}"
        )
    try:
        specification, horizons = Specification.from_json(hello["specification"]), Horizons(**hello["horizons"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{address} does not say what it serves: {error!r}") from None
    task = hello.get("task")
    if not (task is None or (isinstance(task, str) and task.isprintable())):
        raise ValueError(f"{address} does not say what it serves: its task must be a name, got {task!r}")
    return {"task": task, "specification": specification, "horizons": horizons}


def connect(address: str, specification: Specification, horizons: Horizons) -> RemotePolicy:
    """The policy at an address, for a `PolicyProcess`. Raises ValueError where it is not that of these, and as
    `RemotePolicy` does.
    """
    policy = RemotePolicy(address)
    policy.check(specification, horizons)
    return policy
