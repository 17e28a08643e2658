"""A policy over the network: what robots are answered, whoever else is there and whatever they send."""

import asyncio
import contextlib
import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.checkpoints.opening import open_policy
from recede.control.loop import Controller
from recede.control.planner import PolicyProcess
from recede.control.safety import Event, Limits, Safety
from recede.execution.overlapping import AsyncReplace
from recede.policy.denoising.guidance import Prefix
from recede.policy.requests import Request
from recede.realtime import MonotonicClock
from recede.robots.simulated import SimulatedRobot
from recede.serving import client, server
from recede.serving import client as remote
from recede.serving.client import RemotePolicy
from recede.serving.inference import Inference
from recede.serving.server import Server, max_size
from recede.serving.session import Session
from recede.serving.wire import DTYPES, PROTOCOL, pack, unpack
from recede.specification import Horizons, Specification
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TOKEN = "a-secret-of-many-characters"
SECONDS = 30
"""Within which everything happens that is waited for."""


@pytest.fixture(autouse=True)
def without_a_token(monkeypatch):
    monkeypatch.delenv("RECEDE_TOKEN", raising=False)


@pytest.fixture(scope="module")
def engine(trained):
    return open_policy(trained).engine


class Held:
    """An engine that predicts only while it is let."""

    def __init__(self, engine):
        self._engine, self.is_free, self.begun = engine, threading.Event(), threading.Semaphore(0)
        self.is_free.set()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def predict(self, *arguments):
        self.begun.release()
        assert self.is_free.wait(SECONDS)
        return self._engine.predict(*arguments)


@contextmanager
def served(engine, host="127.0.0.1", port=0, **options):
    """A server in a thread of its own, and its address."""
    made, address, ready = Server(engine, **options), [], threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def is_ready(found):
        address.append(found)
        ready.set()

    def run():
        with closing(loop):
            loop.run_until_complete(made.run(host, port, ready=is_ready, stop=stop))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield address[0], made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(engine):
    with served(engine, seed=5) as (address, _):
        yield address


@contextmanager
def session(address, **options):
    """A connection of somebody who does not know recede, and what the server said first."""
    with connect(address, compression=None, proxy=None, **options) as opened:
        yield opened, unpack(opened.recv(SECONDS))


def answer(opened):
    return unpack(opened.recv(SECONDS))


def asked(opened, observation, **more):
    opened.send(pack({"kind": "infer", "number": 1, "observation": observation, **more}))
    found = answer(opened)
    assert found["kind"] == "chunk", found
    return found["chunk"]


def steps(seed, count=2):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, (count, 2)).astype(np.float32) for name in ("position", "target")}


def noise(engine, seed, number):
    """What a session draws, one prediction after the other."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
    while True:
        yield generator.standard_normal(engine.noise_shape, dtype=np.float32)


def predicted(engine, history, drawn, prefix=None):
    """The chunk of one robot alone."""
    if prefix is not None:
        prefix = replace(prefix, actions=prefix.actions[None], weights=prefix.weights[None])
    return engine.predict(
        {name: values[None] for name, values in history.items()}, drawn[:, None], () if prefix is None else (prefix,)
    )[0]


def health(address, token=None):
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(address.replace("ws", "http", 1) + "/healthz", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SECONDS) as found:
        assert found.headers["Content-Type"] == "application/json"
        return json.load(found)


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# --- what an honest robot is answered


def test_a_chunk_is_that_of_the_engine(address, engine):
    with session(address) as (opened, hello):
        assert hello["protocol"] == PROTOCOL
        assert hello["task"] is None
        assert Specification.from_json(hello["specification"]) == toys.SPECIFICATION
        assert Horizons(**hello["horizons"]) == engine.horizons
        drawn = noise(engine, 5, hello["session"])
        for seed in range(3):
            expected = predicted(engine, steps(seed), next(drawn))
            found = asked(opened, steps(seed))
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected)


def test_the_last_steps_are_remembered(address, engine):
    whole = steps(0, 5)
    with session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        for last in range(5):
            found = asked(opened, {name: values[last : last + 1] for name, values in whole.items()})
            seen = {name: values[[max(last - 1, 0), last]] for name, values in whole.items()}
            np.testing.assert_array_equal(found, predicted(engine, seen, next(drawn)))
        for reset, first, last in ((False, 4, 2), (True, 0, 0), (False, 0, 3)):
            found = asked(opened, {name: values[[last]] for name, values in whole.items()}, reset=reset)
            seen = {name: values[[first, last]] for name, values in whole.items()}
            np.testing.assert_array_equal(found, predicted(engine, seen, next(drawn)))


def test_a_chunk_goes_on_from_what_is_planned(address, engine):
    rng = np.random.default_rng(0)
    actions, weights = rng.uniform(-1, 1, (16, 2)).astype(np.float32), rng.uniform(0, 1, 16).astype(np.float32)
    with session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        for options in ({}, {"start": 0.5}, {"limit": 2.0, "exact": True}):
            prefix = Prefix(actions, weights, **options)
            sent = {name: getattr(prefix, name) for name in ("actions", "weights", "start", "limit", "exact")}
            expected = predicted(engine, steps(1), next(drawn), prefix)
            np.testing.assert_array_equal(asked(opened, steps(1), prefix=sent), expected)


def test_requests_that_wait_are_predicted_together(engine):
    held = Held(engine)
    with served(held, seed=5, max_batch=3) as (address, made), contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(session(address)) for _ in range(6)]
        before = health(address)
        assert [before["sessions"], before["batches"], before["mean_batch"], before["p99_ms"]] == [6, 0, None, None]
        while held.begun.acquire(blocking=False):  # what warmed it up
            pass
        held.is_free.clear()
        prefix = {"actions": np.zeros((16, 2), np.float32), "weights": np.ones(16, np.float32)}
        prefix |= {"start": 1.0, "limit": 5.0, "exact": False}
        for index, (opened, _) in enumerate(sessions):
            more = {"prefix": prefix} if index in (2, 4) else {}
            opened.send(pack({"kind": "infer", "number": index, "observation": steps(index), **more}))
            if index == 0:
                assert held.begun.acquire(timeout=SECONDS)
            else:
                until(lambda queued=index: len(made.inference._queue) == queued)
        held.is_free.set()
        for index, (opened, hello) in enumerate(sessions):
            found = answer(opened)
            guided = Prefix(prefix["actions"], prefix["weights"]) if index in (2, 4) else None
            expected = predicted(engine, steps(index), next(noise(engine, 5, hello["session"])), guided)
            assert found["number"] == index
            np.testing.assert_allclose(found["chunk"], expected, atol=1e-5)
        assert made.inference.sizes == {1: 1, 3: 1, 2: 1}  # the first, those without a prefix, those with it
        after = health(address)
        assert [after["answers"], after["batches"], after["mean_batch"]] == [6, 3, 2.0]
        assert 0 < after["p50_ms"] <= after["p99_ms"]


def test_the_requests_of_a_session_are_answered_in_their_order(address, engine):
    with session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        for number in range(20):
            opened.send(pack({"kind": "infer", "number": number, "observation": steps(number)}))
        for number in range(20):
            found = answer(opened)
            assert found["number"] == number
            np.testing.assert_array_equal(found["chunk"], predicted(engine, steps(number), next(drawn)))


def test_an_engine_that_fails_answers_with_an_error_and_goes_on(engine, capsys):
    class Failing(Held):
        def predict(self, *arguments):
            if (arguments[0]["position"] > 100).any():
                raise RuntimeError("out of memory")
            return super().predict(*arguments)

    held, far = Failing(engine), steps(0) | {"position": np.full((2, 2), 101, np.float32)}
    with served(held, seed=5) as (address, made), contextlib.ExitStack() as stack:
        (first, _), (second, hello), (third, _) = (stack.enter_context(session(address)) for _ in range(3))
        while held.begun.acquire(blocking=False):  # what warmed it up
            pass
        held.is_free.clear()
        first.send(pack({"kind": "infer", "number": 1, "observation": steps(0)}))
        assert held.begun.acquire(timeout=SECONDS)
        for number, (opened, seen) in enumerate([(second, steps(2)), (third, far)]):
            opened.send(pack({"kind": "infer", "number": number, "observation": seen}))
            until(lambda queued=number + 1: len(made.inference._queue) == queued)
        held.is_free.set()
        assert answer(third) == {"kind": "error", "number": 1, "message": "the prediction failed: out of memory"}
        expected = predicted(engine, steps(2), next(noise(engine, 5, hello["session"])))
        np.testing.assert_array_equal(answer(second)["chunk"], expected)
        asked(third, steps(0), reset=True)
        assert [health(address)[key] for key in ("answers", "errors")] == [3, 1]
    assert "a prediction failed: RuntimeError('out of memory')" in capsys.readouterr().err


def test_who_does_not_wait_any_more_keeps_nobody_from_an_answer(engine):
    async def ask():
        asked = Inference(engine, 4)
        request, noise = toy_request(engine), np.zeros(engine.noise_shape, np.float32)
        gone, staying = (asyncio.create_task(asked.ask(request, noise)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        answering = asyncio.create_task(asked.run())
        answer = await asyncio.wait_for(staying, 30)
        again = await asyncio.wait_for(asked.ask(request, noise), 30)
        answering.cancel()
        asked.close()
        return answer.chunk, again.chunk

    for chunk in asyncio.run(ask()):
        assert chunk.shape == (engine.horizons.prediction, engine.specification.action.size)


def toy_request(engine):
    steps = engine.horizons.observation
    return Request({s.name: np.zeros((steps, *s.shape), s.dtype) for s in engine.specification.observations})


# --- who is let in


def port_of(address):
    return int(address.rpartition(":")[2])


def status(address, **options):
    with pytest.raises(InvalidStatus) as refused, session(address, **options):
        pass
    return refused.value.response.status_code


def test_only_who_knows_the_token_is_served(engine):
    with served(engine, token=TOKEN) as (address, _):
        for given in (None, "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Basic {TOKEN}", "Bearer é"):
            assert status(address, additional_headers={"Authorization": given} if given else {}) == 401
        twice = [("Authorization", f"Bearer {TOKEN}")] * 2
        assert status(address, additional_headers=twice) == 401
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            health(address)
        refused.value.close()
        assert health(address, TOKEN)["status"] == "ok"
        with session(address, additional_headers=twice[:1]) as (opened, _):
            asked(opened, steps(0))


def test_pages_in_browsers_are_not_served(address):
    assert status(address, origin="http://example.org") == 403
    assert status(f"{address}/other") == 404


def test_there_are_no_more_sessions_than_allowed(engine):
    with served(engine, max_sessions=2) as (address, _), session(address), contextlib.ExitStack() as stack:
        stack.enter_context(session(address))
        with pytest.raises(ConnectionClosed, match=r"1013 .*2 sessions are served already"), session(address):
            pass
        stack.close()
        until(lambda: health(address)["sessions"] == 1)
        with session(address) as (opened, _):
            asked(opened, steps(0))


# --- what is wrong with a message


def with_prefix(**changes):
    prefix = {"actions": np.zeros((16, 2), np.float32), "weights": np.zeros(16, np.float32)}
    return {"prefix": prefix | {"start": 1.0, "limit": 5.0, "exact": False} | changes}


def seen(**changes):
    return {"observation": steps(0) | changes}


WRONG = {
    "another kind": ({"kind": "hello"}, "must send messages of kind 'infer', got 'hello'"),
    "no number": ({"number": None}, "must have a whole number"),
    "a truth value for a number": ({"number": True}, "must have a whole number"),
    "an unknown key": ({"resett": True}, "'resett'"),
    "reset": ({"reset": 1}, "reset, a truth value"),
    "no observation": ({"observation": None}, "must be a map of the streams ['position', 'target'], got NoneType"),
    "a stream is missing": (
        {"observation": {"position": np.zeros((1, 2), np.float32)}},
        "the policy needs the observation 'target', got ['position']",
    ),
    "a stream too many": (seen(positon=1), "does not know the observation 'positon': did you mean 'position'?"),
    "no array": (seen(target=[0.0, 0.0]), "must be an array of float32 of shape (1 to 2, 2), got list"),
    "dtype": (seen(target=np.zeros((2, 2))), "of shape (1 to 2, 2), got float64 of shape (2, 2)"),
    "a step alone": (seen(target=np.zeros(2, np.float32)), "got float32 of shape (2,)"),
    "no shape": (seen(target=np.zeros((), np.float32)), "got float32 of shape ()"),
    "no steps": (seen(target=np.zeros((0, 2), np.float32)), "got float32 of shape (0, 2)"),
    "too many steps": (seen(target=np.zeros((3, 2), np.float32)), "got float32 of shape (3, 2)"),
    "another shape": (seen(target=np.zeros((2, 3), np.float32)), "got float32 of shape (2, 3)"),
    "different steps": (
        seen(target=np.zeros((1, 2), np.float32)),
        "the same number of steps, got {'position': 2, 'target': 1}",
    ),
    "not a number": (seen(target=np.full((2, 2), np.nan, np.float32)), "observation 'target' must be finite"),
    "infinity": (seen(target=np.full((2, 2), -np.inf, np.float32)), "observation 'target' must be finite"),
    "no prefix": ({"prefix": 3}, "a prefix must be a map of actions, weights, start, limit and exact"),
    "half a prefix": ({"prefix": {"actions": None}}, "exact, got ['actions']"),
    "planned actions": (with_prefix(actions=np.zeros((8, 2), np.float32)), "array of float32 of shape (16, 2)"),
    "weights": (with_prefix(weights=np.zeros((16, 1), np.float32)), "must be an array of float32 of shape (16)"),
    "infinite weights": (with_prefix(weights=np.full(16, np.inf, np.float32)), "weights of a prefix must be finite"),
    "start": (with_prefix(start=0.0), "start must be above 0 and at most 1"),
    "limit": (with_prefix(limit=float("nan")), "must be finite numbers"),
    "exact": (with_prefix(exact=0), "exact a truth value"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_message_is_said_and_the_session_goes_on(address, engine, name):
    changes, said = WRONG[name]
    with session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        before = asked(opened, {name: values[:1] for name, values in steps(0).items()})
        opened.send(pack({"kind": "infer", "number": 9, "observation": steps(7), **changes}))
        found = answer(opened)
        assert found["kind"] == "error"
        assert found["number"] == (9 if "number" not in changes else None)
        assert said in found["message"]
        first = {name: values[[0, 0]] for name, values in steps(0).items()}
        np.testing.assert_array_equal(before, predicted(engine, first, next(drawn)))
        after = asked(opened, {name: values[1:] for name, values in steps(0).items()})
        np.testing.assert_array_equal(after, predicted(engine, steps(0), next(drawn)))  # nothing was remembered


@pytest.mark.parametrize("data", ["text", b"", b"\xff" * 100, b"\x91" * 2000, msgpack.packb([1]), pack({"kind": "x"})])
def test_what_is_no_message_is_answered_with_an_error(address, data):
    with session(address) as (opened, _):
        opened.send(data)
        assert answer(opened)["kind"] == "error"
        asked(opened, steps(0))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=9) | st.sampled_from(["position", "target", "actions", "weights"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
arrays = st.builds(
    lambda dtype, shape: np.full(shape, 1).astype(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3) | st.just(16), max_size=3),
)
maps = st.fixed_dictionaries(
    {},
    optional={
        "number": st.just(1) | values,
        "observation": st.just(steps(0)) | st.fixed_dictionaries({"position": arrays, "target": arrays}) | values,
        "prefix": values | st.fixed_dictionaries(
            {"actions": arrays, "weights": arrays, "start": values, "limit": values, "exact": values}
        ),
        "reset": st.booleans() | values,
        "more": values,
    },
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(message=maps, is_mine=st.booleans())
def test_whatever_is_asked_is_a_request_that_fits_or_one_error(engine, message, is_mine):
    mine = Session(0, engine, 0)
    message = unpack(pack({"kind": "infer", "number": 1, **message}))
    try:
        request = mine.request(message)
    except ValueError as error:
        assert len(str(error)) < 2000  # noqa: PT017 - either is right
        assert mine._history == {}
        return
    for stream in toys.SPECIFICATION.observations:
        value = request.history[stream.name]
        assert (value.shape, value.dtype) == ((2, *stream.shape), stream.dtype)
    if request.prefix is not None:
        assert request.prefix.actions.shape == (16, 2)


# --- hostile clients


def raw(address):
    host, _, port = address.removeprefix("ws://").partition(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def said(connection):
    """Everything until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            found += data
    return found


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode, payload, length=None):
    """A frame of a client, masked with zeros, of any length that it says it has."""
    size = len(payload) if length is None else length
    return bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big") + bytes(4) + payload


HOSTILE = {
    "random bytes": np.random.default_rng(0).bytes(5000),
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "half a request": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "a request of another kind": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + bytes(9999),
    "a long line": b"GET /" + b"x" * 100_000,
    "a huge header": b"GET / HTTP/1.1\r\nHost: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % index for index in range(5000)) + b"\r\n",
    "no upgrade": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bad key": UPGRADE.replace(b"AAAA", b"!", 1),
    "no frames": UPGRADE + np.random.default_rng(1).bytes(5000),
    "a frame that is too large": UPGRADE + frame(2, b"", 2**40),
    "a frame of 2^63 bytes": UPGRADE + frame(2, b"", 2**63),
    "a message in too many pieces": UPGRADE + bytes([0x02, 0x80, 0, 0, 0, 0]) + bytes([0x00, 0x80, 0, 0, 0, 0]) * 5000,
    "text that is none": UPGRADE + frame(1, b"\xff\xfe"),
    "an unmasked frame": UPGRADE + b"\x82\x03abc",
    "an unknown opcode": UPGRADE + frame(11, b"abc"),
    "a long ping": UPGRADE + frame(9, bytes(200)),
    "a close without end": UPGRADE + frame(8, b"\x03\xe8"),
}


@pytest.fixture
def impatient(monkeypatch):
    """A server whose patience is short, and which says what happens, although Hydra has disabled that here."""
    for name in ("OPEN_S", "READ_S"):
        monkeypatch.setattr(server, name, 0.3)
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    monkeypatch.setattr(logging.getLogger("websockets.server"), "disabled", False)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_client_is_ended_and_harms_nobody(engine, impatient, name, caplog):
    with served(engine, seed=5) as (address, _), session(address) as (honest, hello):
        drawn = noise(engine, 5, hello["session"])
        np.testing.assert_array_equal(asked(honest, steps(1)), predicted(engine, steps(1), next(drawn)))
        with raw(address) as hostile:
            with contextlib.suppress(ConnectionError):
                hostile.sendall(HOSTILE[name])
            np.testing.assert_array_equal(asked(honest, steps(2)), predicted(engine, steps(2), next(drawn)))
            said(hostile)  # until it is ended, which an endless one never is
        np.testing.assert_array_equal(asked(honest, steps(3)), predicted(engine, steps(3), next(drawn)))
        until(lambda: health(address)["sessions"] == 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_message_that_is_too_large_ends_its_session_alone(address, engine):
    with session(address) as (honest, _), session(address) as (opened, _):
        opened.send(bytes(max_size(engine)))
        assert answer(opened)["kind"] == "error"
        opened.send(bytes(max_size(engine) + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            answer(opened)
        asked(honest, steps(0))


def test_two_hundred_connections_at_once_harm_nobody(engine, impatient):
    rng = np.random.default_rng(0)
    with served(engine, seed=5, max_sessions=4) as (address, _), session(address) as (honest, hello):
        drawn = noise(engine, 5, hello["session"])
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(raw(address)) for _ in range(200)]
            for index, each in enumerate(crowd):
                sent = (b"", UPGRADE, rng.bytes(300), UPGRADE + frame(2, rng.bytes(50)))[index % 4]
                with contextlib.suppress(ConnectionError):
                    each.sendall(sent)
                if index % 10 == 0:
                    np.testing.assert_array_equal(
                        asked(honest, steps(index)), predicted(engine, steps(index), next(drawn))
                    )
            assert health(address)["sessions"] <= 4
        until(lambda: health(address)["sessions"] == 1)
        np.testing.assert_array_equal(asked(honest, steps(0)), predicted(engine, steps(0), next(drawn)))


def test_a_client_that_does_not_read_is_ended(engine, impatient):
    with served(engine, seed=5) as (address, _), session(address) as (honest, _), raw(address) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(5 * SECONDS)  # beside other work the server may be slow to read all of it
        deaf.sendall(UPGRADE)
        flood = frame(9, bytes(100)) * 10_000
        with pytest.raises(ConnectionError):
            deaf.sendall(flood * 100)  # what is answered to it would have to be kept
        asked(honest, steps(0))
        until(lambda: health(address)["sessions"] == 1)


def test_a_session_that_asks_for_nothing_is_closed(engine, monkeypatch):
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    with served(engine) as (address, _), session(address) as (opened, _):
        asked(opened, steps(0))
        with pytest.raises(ConnectionClosed, match=r"1001 .*nothing was asked for 0\.2 s"):
            opened.recv(SECONDS)


# --- our own client


def request(seed, prefix=None):
    return Request(steps(seed), () if prefix is None else (prefix,))


def test_a_remote_policy_answers_as_the_engine_does(engine):
    rng = np.random.default_rng(0)
    prefix = Prefix(rng.uniform(-1, 1, (16, 2)), rng.uniform(0, 1, 16), start=0.5)
    with served(engine, seed=5, task="reach") as (address, _), closing(RemotePolicy(address)) as policy:
        assert (policy.task, policy.specification, policy.horizons) == ("reach", toys.SPECIFICATION, engine.horizons)
        drawn = noise(engine, 5, 0)
        for given_prefix in (
            None,
            replace(prefix, actions=prefix.actions.astype("f4"), weights=prefix.weights.astype("f4")),
        ):
            expected = predicted(engine, steps(3), next(drawn), given_prefix)
            np.testing.assert_array_equal(policy(request(3, given_prefix and prefix)), expected)


def test_a_server_that_comes_back_is_asked_again(engine, capsys):
    with served(engine) as (address, _):
        policy = RemotePolicy(address)
        policy(request(0))
    chunks = queue.Queue()
    asking = threading.Thread(target=lambda: chunks.put(policy(request(1))), daemon=True)  # it would ask for ever
    asking.start()
    time.sleep(0.3)
    assert asking.is_alive()
    with served(engine, port=port_of(address), seed=3), closing(policy):
        expected = predicted(engine, steps(1), next(noise(engine, 3, 0)))
        np.testing.assert_array_equal(chunks.get(timeout=SECONDS), expected)
        policy(request(2))
    assert capsys.readouterr().err.count("is lost") == 1


def test_a_server_that_serves_another_policy_now_is_an_error(engine):
    with served(engine) as (address, _):
        policy = RemotePolicy(address)
    other = Held(engine)
    other.specification = replace(toys.SPECIFICATION, control_dt=0.2)
    with served(other, port=port_of(address)), closing(policy):
        with pytest.raises(ValueError, match=r"must serve the policy that it is asked for, but control_dt is 0\.1 s"):
            policy(request(1))
        with pytest.raises(ValueError, match=r"horizons are Horizons\(observation=2"):
            client.connect(address, other.specification, Horizons(2, 8, 4))


def test_a_request_that_is_refused_is_an_error(engine):
    wrong = Request(steps(0) | {"position": np.full((2, 2), np.nan, np.float32)})
    refused = pytest.raises(ValueError, match="refuses the request: observation 'position' must be finite")
    with served(engine) as (address, _), closing(RemotePolicy(address)) as policy, refused:
        policy(wrong)


def test_a_token_that_is_wrong_is_an_error(engine, monkeypatch):
    with served(engine, token=TOKEN) as (address, _):
        with pytest.raises(
            ValueError, match="refuses the token: set RECEDE_TOKEN to the one that the server was given"
        ):
            RemotePolicy(address)
        monkeypatch.setenv("RECEDE_TOKEN", TOKEN)
        with closing(RemotePolicy(address)) as policy:
            policy(request(0))
        with pytest.raises(ValueError, match="serves no policy: it answers with the status 404 of HTTP"):
            RemotePolicy(f"{address}/elsewhere")


def test_another_version_of_the_protocol_is_an_error(engine, monkeypatch):
    with served(engine) as (address, _):
        monkeypatch.setattr(remote, "PROTOCOL", 2)
        with pytest.raises(
            ValueError, match="must speak version 2 of the protocol, but speaks 1: install one version of recede"
        ):
            RemotePolicy(address)


@pytest.mark.parametrize("changes", [{"specification": {}}, {"horizons": {"observation": "x"}}, {"horizons": None}])
def test_a_server_that_does_not_say_what_it_serves_is_an_error(engine, changes):
    made = Server(engine)
    with pytest.raises(ValueError, match="ws://there does not say what it serves: "):
        remote.described(pack(made.hello(0) | changes), "ws://there")


def test_where_nothing_is_served_is_an_error(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_S", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"no policy is served at ws://127.0.0.1:{port} .*recede serve"):
        RemotePolicy(f"ws://127.0.0.1:{port}")
    with pytest.raises(ValueError, match="a policy is served at ws://host:port or wss://host, got http://"):
        RemotePolicy("http://127.0.0.1")


def test_the_client_of_the_documents_works(address):
    text = (Path(server.__file__).parents[1] / "docs/serving.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found = {}
    exec(program.replace("ws://127.0.0.1:8765", address), found)
    assert found["actions"].shape == (16, 2)


PARENT = """
import sys, time
from contextlib import closing
sys.path.append(sys.argv[1])
import numpy as np
import toys
from recede.serving import client
from recede.policy.requests import Request
from recede.control.planner import PolicyProcess

if __name__ == "__main__":
    with closing(client.RemotePolicy(sys.argv[2])) as policy:
        horizons = policy.horizons
    arguments = sys.argv[2], toys.SPECIFICATION, horizons
    planner = PolicyProcess(toys.SPECIFICATION, horizons, client.connect, *arguments)
    planner.wait()
    print("started", flush=True)
    while True:
        planner.ask(Request({name: np.zeros((2, 2), np.float32) for name in ("position", "target")}))
        time.sleep(0.05)
"""


def test_nobody_is_tried_again_for_a_robot_that_has_ended(engine, tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with served(engine) as (address, _):
        command = [sys.executable, "-P", program, Path(toys.__file__).parent, address]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert parent.stdout.readline() == "started\n"
    with parent:
        assert "is lost" in parent.stdout.readline()
        parent.kill()
        parent.communicate(timeout=SECONDS)  # the process of the policy holds the same pipe: this is its end too


# --- recede serve and recede control


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["host=0.0.0.0"], "host=0.0.0.0 lets other machines ask the policy, which needs a token: set RECEDE_TOKEN"),
        (["host=''"], "lets other machines ask the policy"),
        (["host=robots.example"], "lets other machines ask the policy"),
        ([], "there is no run or checkpoint folder nowhere"),
        (["host=localhost"], "there is no run or checkpoint folder nowhere"),
        (["host='::1'"], "there is no run or checkpoint folder nowhere"),
        (["port=70000"], "port must lie between 0 and 65535, got 70000"),
        (["max_sessions=0"], "max_sessions must be above 0, got 0"),
        (
            ["engine=onx"],
            "engine must be auto or one of eager, cuda_graph, onnx, openvino, openvino_fp32, got 'onx'",
        ),
        (["checkpoint=first"], "checkpoint must be 'last' or 'best', got 'first'"),
    ],
)
def test_what_cannot_be_served_is_refused(recede, arguments, said):
    found = recede("serve", "nowhere", *arguments)
    assert found.status == 2
    assert said in found.line


def test_a_token_lets_others_be_served(recede, monkeypatch):
    monkeypatch.setenv("RECEDE_TOKEN", TOKEN)
    assert "there is no run" in recede("serve", "nowhere", "host=0.0.0.0").line
    monkeypatch.setenv("RECEDE_TOKEN", "short")
    assert "at least 16 visible ASCII characters" in recede("serve", "nowhere").line


def test_a_policy_elsewhere_controls_a_robot(recede, engine, tmp_path):
    with served(engine, task="toys:REACH") as (address, _):
        options = ["robot.task=toys:REACH", "episodes=1", "rate=50", "execution=rtc", f"out={tmp_path / 'run'}"]
        found = recede("control", f"policy={address}", *options)
        assert found.status == 0, found.err
        assert "reason over" in found.out
        assert health(address)["answers"] > 5
        for wrong, said in (
            (["robot.task=pick_place"], "the robot must be the one that the policy was trained for, but "),
            ([], "name it on the command line with robot.task="),
            (["engine=onnx"], "is served with its checkpoint, its sampler and its engine: leave them out here"),
            (["checkpoint=best"], "is served with its checkpoint, its sampler and its engine"),
        ):
            refused = recede("control", address, *wrong)
            assert refused.status == 2
            assert said in refused.line


class Noted(SimulatedRobot):
    """A robot that notes its commands."""

    def command(self, action, at_time):
        self.__dict__.setdefault("commands", []).append(np.array(action))
        super().command(action, at_time)


@pytest.mark.slow
def test_a_robot_is_held_while_the_server_is_away_and_goes_on_when_it_is_back(nursery, trained):
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    command, address = ("serve", trained, f"port={port}"), f"ws://127.0.0.1:{port}"
    process = nursery.start(*command)
    with closing(RemotePolicy(address)) as policy:
        horizons = policy.horizons
    arguments = address, toys.SPECIFICATION, horizons
    limits = Limits.of(toys.SPECIFICATION, speed=2.0, acceleration=40.0, jump=2.0)
    safety = Safety(limits, 1 / 50, stale_s=0.2, patience_s=60.0)
    with (
        closing(Noted(toys.REACH, rate=50.0)) as robot,
        closing(PolicyProcess(toys.SPECIFICATION, horizons, client.connect, *arguments)) as planner,
    ):
        planner.wait()
        controller = Controller(robot, planner, AsyncReplace(horizons, delay=1), safety, MonotonicClock())
        summary, phases, end = controller.summary, iter(["away", "back"]), time.monotonic() + 60
        phase, num_before, held = "there", 0, []

        def is_over():
            nonlocal process, phase, num_before, held
            if phase == "there" and summary.num_chunks == 3:
                os.kill(process, signal.SIGKILL)
                phase = next(phases)
            elif phase == "away" and summary.events[Event.NO_PLAN.name] == 20:
                held, num_before = robot.commands[-5:], summary.num_chunks
                assert nursery.wait()[0] == -signal.SIGKILL
                process, phase = nursery.start(*command), next(phases)
            return (phase == "back" and summary.num_chunks >= num_before + 3) or time.monotonic() > end

        assert controller.run(is_over).reason == "over"
        assert summary.num_chunks >= num_before + 3 >= 6
        assert np.ptp(held, axis=0).max() == 0
    os.kill(process, signal.SIGTERM)
    status, output = nursery.wait()
    assert status == 0, output
    assert f"is served at {address} by eager" in output
    assert output.endswith("every session is closed\n")
