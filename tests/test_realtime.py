"""Messages between processes: whole, in order, and never waited for; and processes that end with their channel."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import children
import numpy as np
import pytest
from recede.realtime import QUEUED, Channel, Child, connected

PINGS = {"ping": np.dtype([("time", "f8"), ("value", "f4", (3, 2))]), "over": np.dtype([])}
PONGS = {"pong": np.dtype([("picture", "u1", (300, 200, 3))])}


@pytest.fixture
def channel():
    ours, theirs = connected(PINGS, PONGS)
    ends = Channel(ours, PINGS, PONGS), Channel(theirs, PONGS, PINGS)
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_and_in_order(channel):
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


def test_sending_to_a_peer_that_does_not_read_never_blocks(channel):
    ours, theirs = channel
    sent = 0
    while theirs.send("pong", np.full((300, 200, 3), sent % 256)):
        sent += 1
    assert sent >= 8
    assert not theirs.send("pong", 0)
    assert [record["picture"].max() for _, record in ours.receive()] == list(range(sent))
    assert theirs.send("pong", 0)


def test_the_end_of_the_peer_is_an_error(channel):
    ours, theirs = channel
    theirs.close()
    ours.wait(60)
    with pytest.raises(ConnectionError):
        list(ours.receive())
    with pytest.raises(ConnectionError):
        ours.send("over")


def descriptors():
    """Those that this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


def test_images_that_are_larger_than_the_buffers_of_linux_arrive_whole_and_in_order():
    film = {"film": np.dtype([("frame", "u1", (480, 640, 3))]), "number": np.dtype([("value", "i8")])}
    ends = connected(film, film)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)  # the most that Linux allows by default
    ours, theirs = (Channel(end, film, film) for end in ends)
    frames, opened = np.random.default_rng(0).integers(0, 256, (30, 480, 640, 3), np.uint8), descriptors()
    with closing(ours), closing(theirs):
        for source, sink in ((ours, theirs), (theirs, ours)):
            sent = next(index for index, frame in enumerate(frames) if not source.send("film", frame))
            assert QUEUED / 2 <= sent <= 2 * QUEUED  # few images wait in memory
            for index, (name, record) in enumerate(sink.receive()):
                assert name == "film"
                np.testing.assert_array_equal(record["frame"], frames[index])
            assert index == sent - 1
            assert source.send("film", frames[0])
            assert source.send("number", 7)
            (_, image), (_, number) = sink.receive()
            np.testing.assert_array_equal(image["frame"], frames[0])
            assert number["value"] == 7
        assert descriptors() == opened


def test_a_system_without_such_sockets_is_an_error(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="local sockets"):
        connected(PINGS, PONGS)


NUMBERS = {"number": np.dtype([("value", "i8"), ("nested", np.dtype([("x", "f8"), ("y", "u1", (2,))]))])}


def first(channel):
    """The next record that arrives."""
    end = time.monotonic() + 60
    while True:
        for _, record in channel.receive():
            return record
        assert time.monotonic() < end, "nothing came"
        channel.wait(1.0)


def test_a_child_answers_until_its_channel_is_closed():
    with closing(Child(children.echo, NUMBERS, NUMBERS, 10)) as child:
        assert child.channel.send("number", 3, (0.5, [7, 8]))
        record = first(child.channel)
        assert (record["value"], record["nested"]["x"], record["nested"]["y"].tolist()) == (13, 0.5, [7, 8])
        os.kill(child.pid, signal.SIGINT)  # as a terminal sends it to all
        child.channel.send("number", 4, (0.0, [0, 0]))
        assert first(child.channel)["value"] == 14
        assert child.exitcode is None
        child.channel.close()
        child.wait(60)
        assert child.exitcode == 0


def test_a_child_that_does_not_notice_the_end_is_killed():
    child = Child(children.echo, NUMBERS, NUMBERS, 0)
    child.channel.send("number", 1, (0.0, [0, 0]))
    first(child.channel)
    os.kill(child.pid, signal.SIGSTOP)
    child.close(0.05)
    assert child.exitcode == -signal.SIGKILL
    child.close()


def test_a_child_that_cannot_be_started_leaves_no_socket_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Exception, match="pickle"):
        Child(lambda channel: None, NUMBERS, NUMBERS)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


PROGRAM = """
import sys
sys.path.append(sys.argv[1])
import children
from recede.realtime import Child

if __name__ == "__main__":
    child = Child(children.last_words, children.NOTHING, children.NOTHING, sys.argv[2], daemon=False)
    child.channel.wait(60)
    next(child.channel.receive())
"""


def test_a_program_waits_for_a_child_that_is_no_daemon(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-P", tmp_path / "program.py", Path(children.__file__).parent, tmp_path / "words"]
    assert subprocess.run(command, timeout=120).returncode == 0
    assert (tmp_path / "words").read_text() == "over"


ORPHAN = """
import sys
sys.path.append(sys.argv[1])
import children
from recede import realtime

if __name__ == "__main__":
    child = realtime.Child(children.sleep, children.NOTHING, children.NOTHING, 600)
    child.channel.wait(60)
    next(child.channel.receive())
    print("started", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_notices_nothing_ends_after_its_parent(tmp_path, number):
    (tmp_path / "program.py").write_text(ORPHAN)
    (tmp_path / "sitecustomize.py").write_text("import recede.realtime\nrecede.realtime.ORPHAN_S = 0.3\n")
    command = [sys.executable, "-P", tmp_path / "program.py", Path(children.__file__).parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout.readline() == b"started\n"
        parent.send_signal(number)
        parent.communicate(timeout=20)  # the child holds the same pipe, so it has ended as well
