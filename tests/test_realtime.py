"""Messages between processes: whole, in their order, and never waited for."""

import socket

import numpy as np
import pytest
from recede.realtime import Channel, connected

PINGS = {"ping": np.dtype([("time", "f8"), ("value", "f4", (3, 2))]), "over": np.dtype([])}
PONGS = {"pong": np.dtype([("picture", "u1", (300, 200, 3))])}


@pytest.fixture
def channel():
    ours, theirs = connected(PINGS, PONGS)
    ends = Channel(ours, PINGS, PONGS), Channel(theirs, PONGS, PINGS)
    yield ends
    for end in ends:
        end.close()


def test_messages_come_whole_and_in_their_order(channel):
    ours, theirs = channel
    value = np.random.default_rng(0).random((3, 2)).astype("f4")
    assert ours.send("ping", 0.1, value)
    assert ours.send("over")
    assert ours.send("ping", 0.2, -value)
    (first, one), (second, _), (third, two) = theirs.receive()
    assert [first, second, third] == ["ping", "over", "ping"]
    assert [one["time"], two["time"]] == [0.1, 0.2]
    np.testing.assert_array_equal([one["value"], two["value"]], [value, -value])
    assert not list(theirs.receive())

    picture = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    assert theirs.send("pong", picture)
    ours.wait(60)
    np.testing.assert_array_equal(next(ours.receive())[1]["picture"], picture)


def test_a_peer_that_does_not_read_is_not_waited_for(channel):
    ours, theirs = channel
    sent = 0
    while theirs.send("pong", np.full((300, 200, 3), sent % 256)):
        sent += 1
    assert sent >= 8
    assert not theirs.send("pong", 0)
    assert [record["picture"].max() for _, record in ours.receive()] == list(range(sent))
    assert theirs.send("pong", 0)


def test_a_peer_that_has_ended_is_noticed(channel):
    ours, theirs = channel
    theirs.close()
    ours.wait(60)
    with pytest.raises(ConnectionError):
        list(ours.receive())
    with pytest.raises(ConnectionError):
        ours.send("over")


def test_a_message_that_is_too_large_is_refused():
    film = {"film": np.dtype([("frames", "u1", (32, 1024, 1024))])}
    with pytest.raises(OSError, match=r"'film' has 33554433 bytes .*make the stream smaller"):
        connected(PINGS, film)


def test_a_system_without_such_sockets_is_told(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="local sockets that keep messages apart"):
        connected(PINGS, PONGS)
