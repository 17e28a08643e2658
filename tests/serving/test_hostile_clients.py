"""Hostile clients: their connections end, and other sessions notice nothing."""

import contextlib
import itertools
import logging
import socket

import numpy as np
import pytest
from policy_server import (
    SECONDS,
    ask_chunk,
    noise,
    open_session,
    predict_alone,
    read_health,
    receive,
    serve,
    steps,
    wait_until,
)
from recede.serving import server
from recede.serving.server import max_size
from representatives import representatives
from websockets.exceptions import ConnectionClosed


def raw(address):
    host, _, port = address.removeprefix("ws://").partition(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def read_all(connection):
    """All bytes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode, payload, length=None):
    """A frame of a client, masked with zeros, which may claim another length than it has."""
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
    "three requests at once": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
    "a hundred requests at once": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
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
    """A server with short time limits, and with its log, which Hydra has disabled in this process."""
    for name in ("OPEN_S", "READ_S"):
        monkeypatch.setattr(server, name, 0.3)
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    monkeypatch.setattr(logging.getLogger("websockets.server"), "disabled", False)


QUICK = (
    *("random bytes", "half a request", "a huge header", "no upgrade", "no frames", "a frame of 2^63 bytes"),
    *("a message in too many pieces", "an unmasked frame", "a close without end"),
)


@pytest.mark.parametrize("name", representatives(HOSTILE, *QUICK))
def test_a_hostile_client_is_disconnected_and_harms_nobody(engine, impatient, name, caplog):
    with serve(engine, seed=5) as (address, _), open_session(address) as (honest, hello):
        drawn = noise(engine, 5, hello["session"])
        np.testing.assert_array_equal(ask_chunk(honest, steps(1)), predict_alone(engine, steps(1), next(drawn)))
        with raw(address) as hostile:
            with contextlib.suppress(ConnectionError):
                hostile.sendall(HOSTILE[name])
            np.testing.assert_array_equal(ask_chunk(honest, steps(2)), predict_alone(engine, steps(2), next(drawn)))
            read_all(hostile)  # until the server disconnects it
        np.testing.assert_array_equal(ask_chunk(honest, steps(3)), predict_alone(engine, steps(3), next(drawn)))
        wait_until(lambda: read_health(address)["sessions"] == 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_message_that_is_too_large_ends_only_its_session(address, engine):
    with open_session(address) as (honest, _), open_session(address) as (opened, _):
        opened.send(bytes(max_size(engine)))
        assert receive(opened)["kind"] == "error"
        opened.send(bytes(max_size(engine) + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            receive(opened)
        ask_chunk(honest, steps(0))


def test_two_hundred_connections_at_once_harm_nobody(engine, impatient):
    rng = np.random.default_rng(0)
    with serve(engine, seed=5, max_sessions=4) as (address, _), open_session(address) as (honest, hello):
        drawn = noise(engine, 5, hello["session"])
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(raw(address)) for _ in range(200)]
            for index, connection in enumerate(crowd):
                sent = (b"", UPGRADE, rng.bytes(300), UPGRADE + frame(2, rng.bytes(50)))[index % 4]
                with contextlib.suppress(ConnectionError):
                    connection.sendall(sent)
                if index % 10 == 0:
                    np.testing.assert_array_equal(
                        ask_chunk(honest, steps(index)), predict_alone(engine, steps(index), next(drawn))
                    )
            assert read_health(address)["sessions"] <= 4
        wait_until(lambda: read_health(address)["sessions"] == 1)
        np.testing.assert_array_equal(ask_chunk(honest, steps(0)), predict_alone(engine, steps(0), next(drawn)))


@pytest.mark.slow
def test_a_client_that_does_not_read_is_disconnected(engine, impatient):
    with serve(engine, seed=5) as (address, _), open_session(address) as (honest, _), raw(address) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(10 * SECONDS)  # a busy machine may be slow to read all of it
        deaf.sendall(UPGRADE)
        flood = frame(2, bytes(100)) * 10_000
        with pytest.raises(ConnectionError):
            deaf.sendall(flood * 100)  # the server would have to keep its answers
        ask_chunk(honest, steps(0))
        wait_until(lambda: read_health(address)["sessions"] == 1)


def piece(opcode):
    """The first or a further piece of a message that goes on, without content."""
    return bytes([opcode, 0x80, 0, 0, 0, 0])


FLOODS = {"pings": (b"", frame(9, b"")), "pongs": (b"", frame(10, b"")), "pieces": (piece(2), piece(0))}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_small_frames_ends_its_session(engine, impatient, name):
    first, flood = FLOODS[name]
    with serve(engine, seed=5) as (address, _), open_session(address) as (honest, hello), raw(address) as hostile:
        drawn = noise(engine, 5, hello["session"])
        hostile.sendall(UPGRADE)
        assert hostile.recv(65536).startswith(b"HTTP/1.1 101")
        hostile.sendall(first)
        with pytest.raises(ConnectionError):  # noqa: PT012
            for index in itertools.count():
                hostile.sendall(flood * 10_000)
                chunk = ask_chunk(honest, steps(index))
                np.testing.assert_array_equal(chunk, predict_alone(engine, steps(index), next(drawn)))
        wait_until(lambda: read_health(address)["sessions"] == 1)
        np.testing.assert_array_equal(ask_chunk(honest, steps(0)), predict_alone(engine, steps(0), next(drawn)))


def test_a_client_that_pings_too_often_reads_why_it_is_disconnected(address):
    with open_session(address) as (opened, _):
        for _ in range(server.SMALL_FRAMES):
            opened.ping()
        ask_chunk(opened, steps(0))
        with pytest.raises(ConnectionClosed, match=r"1002.*more than 20 pings"):  # noqa: PT012
            for _ in range(10 * server.SMALL_FRAMES):
                opened.ping()
                ask_chunk(opened, steps(0))
