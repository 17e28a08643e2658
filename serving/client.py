"""The client of `recede serve`: a policy on another machine, called like a local one.

It runs in a `PolicyProcess`, where it may wait. A lost connection is opened again, for as long as that takes, and the
request is sent again: meanwhile the plan runs out and the robot is held; see `control.loop`.

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

from ..policy.inputs import absent_values
from ..policy.requests import Request
from ..specification import Horizons, Specification, interface_from_json
from .wire import PROTOCOL, TOKEN, Message, pack, read_token, require, unpack

FIRST_S = 10.0
"""Seconds within which the server must be reached for the first time."""

OPEN_S = 5.0
"""Seconds within which a connection must open."""

CLOSE_S = 1.0
"""Seconds within which a connection must close."""

ANSWER_S = 10.0
"""Seconds within which a chunk must come; after that the connection counts as lost."""

PING_S = 2.0
"""Seconds between two pings to the server, and within which it must answer each."""

RETRY_S = 0.05, 1.0
"""Seconds between two attempts to open a connection: at first, and at most."""

MAX_SIZE = 2**24
"""Bytes of the largest message that a server may send."""


class RemotePolicy:
    """One session with the policy at an address; calling it predicts.

    task, specification, horizons: of the policy, from the server. The task may be None.

    Raises ValueError if the address is invalid, if the token is refused, or if the server does not speak this protocol;
    ConnectionError if nothing answers within `FIRST_S`.
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
        """Predict a chunk (Tp, Da). The request may have more streams than the policy observes, and lack what may be
        absent.

        Raises ValueError if the server refuses the request, or serves another policy by now, and ConnectionError if the
        parent process has ended.
        """
        self._number += 1
        absent = absent_values(self.specification, request.history)
        history = request.history | {name: np.stack([row] * self.horizons.observation) for name, row in absent.items()}
        observation = {stream.name: history[stream.name] for stream in self.specification.observations}
        message = {"kind": "infer", "number": self._number, "observation": observation}
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
                return self._exchange(packed)
            except self._transient as error:
                self._prepare_retry(error)

    def check(self, specification: Specification, horizons: Horizons) -> None:
        """Raise ValueError, and end the session, unless the policy has this specification and these horizons."""
        differences = self.specification.differences(specification)
        if self.horizons != horizons:
            differences.append(f"horizons are {self.horizons} on one side and {horizons} on the other")
        if differences:
            self.close()
            raise ValueError(f"{self.address} must serve the same policy as before, but {'; '.join(differences)}")

    def close(self) -> None:
        """End the session."""
        self._stack.close()
        self._socket = None

    @property
    def _transient(self) -> tuple[type[Exception], ...]:
        """Errors after which another attempt may succeed; all others are a ValueError."""
        return self._errors.WebSocketException, OSError, EOFError

    def _open(self) -> Message:
        """Open a session; return the hello of the server."""
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
            hello = read_hello(socket.recv(OPEN_S), self.address)
        except BaseException:
            self._stack.close()
            raise
        self._socket, self._retry_s = socket, RETRY_S[0]
        return hello

    def _check_status(self, status: int) -> None:
        """Raise ValueError if another attempt would get the same status."""
        if status == 401:
            raise ValueError(f"{self.address} refuses the token: set {TOKEN} to the token of the server")
        if status < 500:
            raise ValueError(f"{self.address} serves no policy: it answers with HTTP status {status}")

    def _exchange(self, packed: bytes) -> NDArray[Any]:
        """Send a request and receive its chunk."""
        assert self._socket is not None
        self._socket.send(packed)
        answer = unpack(self._socket.recv(ANSWER_S))
        if answer["kind"] == "error":
            raise ValueError(f"{self.address} refuses the request: {answer.get('message')}")
        chunk, shape = answer.get("chunk"), (self.horizons.prediction, self.specification.action.size)
        if answer.get("number") != self._number or not isinstance(chunk, np.ndarray) or chunk.shape != shape:
            raise ValueError(f"{self.address} must answer with a chunk of shape {shape}, got {answer['kind']!r}")
        return chunk

    def _prepare_retry(self, error: Exception) -> None:
        """Prepare another attempt. Raises ConnectionError if the parent process, which needs the chunk, has ended."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise ConnectionError("the parent process has ended")
        if self._socket is None:
            self._wait()
            return
        print(f"{self.address} is lost ({error}): reconnecting", file=sys.stderr, flush=True)
        self.close()

    def _wait(self) -> None:
        time.sleep(self._retry_s)
        self._retry_s = min(2 * self._retry_s, RETRY_S[1])


def read_hello(data: Any, address: str) -> Message:
    """The task, specification and horizons of the policy, from the first message of a server.

    Raises ValueError if the server speaks another protocol, or if its message is incomplete.
    """
    hello = unpack(data)
    if hello["kind"] != "hello" or hello.get("protocol") != PROTOCOL:
        raise ValueError(
            f"{address} must speak version {PROTOCOL} of the protocol, but speaks {hello.get('protocol')!r}: install "
            f"the same version of recede on both sides, the server has {hello.get('recede')!r}"
        )
    try:
        specification, horizons = interface_from_json(hello)
    except ValueError as error:
        raise ValueError(f"{address} sends no valid description of its policy: {error}") from None
    task = hello.get("task")
    if not (task is None or (isinstance(task, str) and task.isprintable())):
        raise ValueError(f"{address} sends no valid description of its policy: its task must be a name, got {task!r}")
    return {"task": task, "specification": specification, "horizons": horizons}


def connect(address: str, specification: Specification, horizons: Horizons) -> RemotePolicy:
    """The policy at an address, for a `PolicyProcess`.

    Raises ValueError if it has another specification or other horizons; otherwise as `RemotePolicy`.
    """
    policy = RemotePolicy(address)
    policy.check(specification, horizons)
    return policy
