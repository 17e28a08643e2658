"""`recede check`: one sentence about a robot, before anything controls it."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import toys
from recede.commands import check
from recede.realtime import MonotonicClock
from recede.robots.simulation import Simulation

BUSY = ["seconds=0.2", "max_call_ms=5000"]


class Going(Simulation):
    """A robot that goes to its position once it is stopped."""

    def stop(self):
        super().stop()
        self._held = self.position()


class Failing(Simulation):
    def read(self):
        return {}["joints"]


class Noting(Simulation):
    """A robot that says when it is commanded and when it is stopped."""

    def command(self, action, at_time):
        super().command(action, at_time)
        print("commanded", flush=True)

    def stop(self):
        super().stop()
        print("stopped", flush=True)


def going(rate):
    return Going(toys.REACH, MonotonicClock(), rate=rate)


def failing(rate):
    return Failing(toys.REACH, MonotonicClock(), rate=rate)


def noting(rate):
    return Noting(toys.REACH, MonotonicClock(), rate=rate)


class Blocking(Simulation):
    """A robot that never answers."""

    def read(self):
        threading.Event().wait()
        return super().read()


def blocking(rate):
    return Blocking(toys.REACH, MonotonicClock(), rate=rate)


def test_a_driver_that_blocks_is_stopped_at_a_limit_and_named(recede, monkeypatch):
    monkeypatch.setattr(check, "LONGEST_S", 0.3)
    result = recede("check", "robot=driver", f"robot.make={__name__}:blocking", *BUSY)
    assert result.status == 2
    assert f"the driver has not returned after 0.7 s, at {__file__}, line " in result.err
    assert "give its calls a time limit" in result.err


def test_a_robot_that_keeps_its_promises_gets_one_sentence(recede):
    result = recede("check", "robot=driver", "robot.make=toys:make_robot", *BUSY)
    assert result.status == 0, result.err
    *before, sentence = result.out.splitlines()
    assert "0.4 s" in before[0]
    assert "emergency stop" in before[1]
    assert "commanded its own position for 0.2 s and stopped 3 times while its position was misread" in sentence


def test_a_simulated_robot_is_checked_in_its_own_process(recede):
    result = recede("check", "robot=simulated", "robot.task=toys:REACH", *BUSY)
    assert result.status == 0, result.err
    assert "emergency stop" not in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["robot=driver", f"robot.make={__name__}:going", "seconds=1"], "stay there, .*stop.. must hold"),
        (["robot=driver", f"robot.make={__name__}:failing"], "the robot failed in read.*KeyError: .joints"),
        (["robot=driver", "robot.make=os:getcwd"], "robot.make=os:getcwd must be a function that takes rate="),
        (["robot=driver", "robot.make=builtins:dict"], "a dict has no .*start, read.*your_robot.md"),
        (["robot=simulated"], "give robot.task="),
        ([], "give robot=NAME, one of driver, serial_arm, simulated"),
    ],
)  # fmt: skip
def test_the_broken_promise_is_one_line(recede, arguments, message):
    result = recede("check", *BUSY, *arguments)
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert re.search(message, result.err), result.err


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGINT, *SLOW])
def test_a_signal_stops_the_robot(number):
    command = [
        sys.executable,
        "-u",
        "-m",
        "recede",
        "check",
        "robot=driver",
        f"robot.make={Path(__file__).stem}:noting",
    ]
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(toys.__file__).parent)])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [*command, "max_call_ms=5000"], env=os.environ | {"PYTHONPATH": folders}, **options
    ) as process:
        assert process.stdout is not None
        assert any(line == "commanded\n" for line in process.stdout)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out.splitlines()[-1] == "stopped"
    words = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    assert err == f"recede check: {words}\n"
