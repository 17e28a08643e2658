"""Every robot keeps the promises of `recede.robots.interface`, and `check_robot` names each broken promise."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import toys
from recede.datasets.store import DemonstrationStore
from recede.realtime import MonotonicClock, VirtualClock
from recede.robots.check import check_robot
from recede.robots.interface import Reading
from recede.robots.recorded import ReplayRobot
from recede.robots.simulated import SimulatedRobot
from recede.robots.simulation import Episode, Simulation
from toys import REACH
from waiting import until

DT = REACH.specification.control_dt
FAR = np.ones(2, np.float32)
"""A position beyond the reach of the toy in one episode."""


@pytest.fixture
def clock():
    return VirtualClock(100.0)


@pytest.fixture
def recorded(tmp_path):
    """A store with a moving episode and one at rest."""
    store = DemonstrationStore.create(tmp_path / "demos.zarr", REACH.specification)
    moving = np.linspace([0, 0], [0.8, 0.4], 40, dtype=np.float32)
    for position in (moving, moving[:1].repeat(40, axis=0)):
        store.append({"position": position, "target": position[-1:].repeat(40, axis=0), "action": position + 0.1})
    return store


@pytest.fixture(scope="module")
def live():
    """A robot in its own process."""
    with contextlib.closing(SimulatedRobot(REACH)) as robot:
        yield robot


# The check


def test_a_simulation_keeps_every_promise(clock):
    report = check_robot(Simulation(REACH, clock), clock)
    assert "10 commands/s" in report
    assert "moved by at most" in report


def test_a_simulation_with_every_disturbance_keeps_every_promise(clock):
    disturbed = Simulation(REACH, clock, sensor_delay=0.13, actuation_delay=0.07, jitter=0.2, dropped=0.3, seed=1)
    assert "70.0 ms before its effect" in check_robot(disturbed, clock)


def test_a_simulation_in_real_time_keeps_every_promise():
    clock = MonotonicClock()
    check_robot(Simulation(REACH, clock), clock, seconds=0.3, max_call_s=5, max_age_s=5)


def test_a_robot_in_its_own_process_keeps_every_promise(live):
    check_robot(live, MonotonicClock(), seconds=0.5, start_s=30, max_call_s=60, max_age_s=30)


def test_a_recording_of_a_robot_at_rest_keeps_every_promise(recorded, clock):
    check_robot(ReplayRobot(recorded, 1, clock, position="position"), clock)


def test_a_robot_with_an_unknown_position_is_not_commanded(recorded, clock):
    robot = ReplayRobot(recorded, 0, clock)
    assert "nothing was commanded" in check_robot(robot, clock, start_s=0.5)
    assert not robot.commands


class Broken(Simulation):
    """A robot with some methods replaced."""

    def __init__(self, clock, **methods):
        super().__init__(REACH, clock)
        for name, method in methods.items():
            setattr(self, name, partial(method, self) if callable(method) else method)


def seeing(change):
    """A `read` that changes the reading of the position; change: (reading, the robot) -> reading."""

    def read(self):
        readings = Simulation.read(self)
        return {**readings, "position": change(readings["position"], self)}

    return {"read": read}


def valued(change):
    return seeing(lambda reading, robot: reading._replace(value=change(reading.value)))


def timed(change):
    return seeing(lambda reading, robot: reading._replace(time=change(reading.time, robot)))


def slowly(method):
    def slow(*arguments):
        time.sleep(0.1)
        return method(*arguments)

    return slow


def stop_once(self):
    assert not self._is_stopped, "stopped twice"
    Simulation.stop(self)


def stop_and_leave(self):
    Simulation.stop(self)
    self._held = FAR


def stop_at_a_reading(self):
    """A driver that goes to its newest reading when it is stopped."""
    if not self._is_stopped:
        Simulation.stop(self)
        self._held = self.read()["position"].value


def stop_at_a_position_after_a_command(self):
    is_commanded = bool(self._commands)
    Simulation.stop(self)
    if is_commanded:
        self._held = self.position()


def stop_elsewhere_at_first(self):
    is_commanded = bool(self._commands)
    Simulation.stop(self)
    if not is_commanded and self._held is not None and np.abs(self._held).max() < 0.9:
        self._held = FAR


def blind_once_stopped(self):
    return {} if self._is_stopped else Simulation.read(self)


BROKEN = {
    "no rate": ({"rate": 0.0}, ValueError, "rate must be a positive"),
    "a negative delay": ({"actuation_delay": -0.1}, ValueError, "actuation_delay must be 0"),
    "a stream is missing": ({"read": lambda self: {}}, TimeoutError, r"\['position', 'target'\] did not"),
    "a stream too many": (
        {"read": lambda self: {"positon": Reading(FAR, 0.0)}},
        ValueError,
        "did you mean 'position'",
    ),
    "shape": (valued(lambda value: value[:1]), ValueError, r"shape \(2,\), got float32 of shape \(1,\)"),
    "dtype": (valued(lambda value: value.astype(float)), ValueError, "float32 of shape .*, got float64"),
    "no array": (valued(lambda value: value.tolist()), ValueError, "got list"),
    "limits": (valued(lambda value: value + 2), ValueError, "within its limits, but position.x is 1"),
    "not a number": (valued(lambda value: value * np.float32(np.nan)), ValueError, "position.x is nan"),
    "the future": (timed(lambda moment, robot: moment + 0.01), ValueError, "must not be in the future"),
    "another clock": (timed(lambda moment, robot: moment - 50), ValueError, "at most 40 s ago, got 50 s"),
    "no time": (timed(lambda moment, robot: np.nan), ValueError, "must not be in the future"),
    "time goes back": (timed(lambda moment, robot: 200.2 - moment - 0.3), ValueError, "must not go back"),
    "time stands still": (timed(lambda moment, robot: robot._origin), ValueError, "capture times must grow"),
    "it goes blind": ({"read": blind_once_stopped}, ValueError, "came and went"),
    "read blocks": ({"read": slowly(Simulation.read)}, TimeoutError, r"read\(\) must return within"),
    "position blocks": ({"position": slowly(Simulation.position)}, TimeoutError, r"position\(\) must return"),
    "command blocks": ({"command": slowly(Simulation.command)}, TimeoutError, r"command\(\) must return"),
    "stop blocks": ({"stop": slowly(Simulation.stop)}, TimeoutError, r"stop\(\) must return"),
    "another position": ({"position": lambda self: FAR[:1]}, ValueError, "2 finite numbers or None"),
    "it moves": (
        {"command": lambda self, action, at_time: Simulation.command(self, action + 0.5, at_time)},
        ValueError,
        r"commanded its own position must stay there, but action.[xy] went",
    ),
    "it moves once stopped": ({"stop": stop_and_leave}, ValueError, "that is stopped .*must stay there"),
    "it moves if stopped before a command": (
        {"stop": stop_elsewhere_at_first},
        ValueError,
        "stopped before its first command must stay there",
    ),
    "it goes to a bad reading once stopped": (
        {"stop": stop_at_a_reading},
        ValueError,
        "that is stopped before .* must stay there.* never a reading",
    ),
    "it goes to a bad reading once stopped after a command": (
        {"stop": stop_at_a_position_after_a_command},
        ValueError,
        "that is stopped must stay there.* never a reading",
    ),
    "it stops once": ({"stop": stop_once}, ConnectionError, "the robot failed .*AssertionError: stopped twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_names_a_broken_promise(name, clock):
    methods, error, message = BROKEN[name]
    with pytest.raises(error, match=message):
        check_robot(Broken(clock, **methods), clock, max_age_s=40, max_call_s=0.09)


def test_the_robot_is_stopped_if_a_check_fails(clock):
    robot = Broken(clock, **valued(lambda value: value + 2))
    with pytest.raises(ValueError, match="limits"):
        check_robot(robot, clock)
    assert robot._is_stopped


# What all have in common


def bare(recorded, clock, name):
    if name == "replay":
        return ReplayRobot(recorded, 0, clock)
    return Simulation(REACH, clock) if name == "simulation" else SimulatedRobot(REACH)


@pytest.mark.parametrize("name", ["simulation", "process", "replay"])
def test_calls_before_start_and_after_close_are_refused(recorded, clock, name):
    robot = bare(recorded, clock, name)
    robot.stop()
    for call in (robot.read, robot.position, partial(robot.command, FAR, 100.0)):
        with pytest.raises(RuntimeError, match=r"start\(\) the"):
            call()
    for _ in range(2):
        robot.close()
        robot.stop()
    for call in (robot.start, robot.read, robot.position, partial(robot.command, FAR, 100.0)):
        with pytest.raises(ConnectionError, match="closed: make another"):
            call()


@pytest.mark.parametrize("name", ["simulation", "process", "replay"])
@pytest.mark.parametrize(("action", "moment"), [([0.0], 0.0), ([np.nan, 0.0], 0.0), ([0.0, 0.0], np.inf)])
def test_an_invalid_command_is_refused(recorded, clock, name, action, moment):
    robot = bare(recorded, clock, name)
    with pytest.raises(ValueError, match="2 finite numbers at a finite time"):
        robot.command(np.array(action), moment)
    robot.close()


# A recording


def test_a_replay_shows_each_step_at_its_time(recorded, clock):
    robot = ReplayRobot(recorded, 0, clock, position="position")
    clock.sleep_until(103)
    robot.start()
    rows = recorded.episode(0)
    for step in range(40):
        clock.sleep_until(103 + step * DT)
        for name, reading in robot.read().items():
            np.testing.assert_array_equal(reading.value, rows[name][step])
            assert reading.time == pytest.approx(103 + step * DT)
        np.testing.assert_array_equal(robot.position(), rows["position"][step])
        assert not robot.is_over
    clock.sleep_until(110)
    assert robot.is_over
    assert robot.read()["target"].time == pytest.approx(106.9)


def test_commands_are_kept_beside_the_recorded_actions(recorded, clock):
    robot = ReplayRobot(recorded, 0, clock)
    robot.start()
    for step in range(1, 10):
        clock.sleep_until(100 + step * DT)
        robot.command(robot.actions[step], clock.now())
    robot.stop()
    robot.command(FAR, clock.now())  # ignored
    assert len(robot.commands) == 9
    assert robot.commands[0].time == 100.1
    commanded = robot.commanded()
    assert np.isnan(commanded[0]).all()
    np.testing.assert_array_equal(commanded[1:10], robot.actions[1:10])
    np.testing.assert_array_equal(commanded[10:], np.broadcast_to(robot.actions[9], (30, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"episode": 2}, "one of 0 .. 1"), ({"episode": 0, "position": "positon"}, "did you mean 'position'")],
)
def test_an_unknown_episode_or_stream_is_refused(recorded, clock, arguments, message):
    with pytest.raises(ValueError, match=message):
        ReplayRobot(recorded, clock=clock, **arguments)


# A process of its own, in real time


def test_it_runs_without_calls_and_resets_on_request(live):
    live.start()
    live.reset(5)
    assert live.episode.seed == 5
    os.kill(live.pid, signal.SIGINT)  # a terminal sends it to all processes; only the controller may stop the robot
    steps = live.episode.num_steps
    until(lambda: live.episode.num_steps >= steps + 2)  # without a message to it
    start = live.position()
    live.command(FAR, time.monotonic())
    until(lambda: np.linalg.norm(live.position() - start) > 0.1)
    live.reset(6)
    assert live.episode == Episode(6, score=live.episode.score, num_steps=live.episode.num_steps)
    expected = REACH.make().reset(seed=6)[0]
    until(lambda: set(live.read()) == {"position", "target"})
    for name, reading in live.read().items():
        np.testing.assert_allclose(reading.value, expected[name], atol=1e-6)
        assert reading.value.dtype == np.float32


def test_calls_to_a_suspended_simulation_return_and_it_stops_once_resumed(live, monkeypatch):
    live.start()
    live.reset(7)
    os.kill(live.pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr("recede.robots.simulated.ANSWER_S", 0.05)
        with pytest.raises(TimeoutError, match=r"did not reset within 0\.05 s"):
            live.reset(8)
        here = REACH.make().reset(seed=8)[0]["position"]
        for _ in range(20_000):  # more than the channel can hold
            live.command(here, time.monotonic())
        live.stop()
        assert live._is_stop_owed
        live.read()
    finally:
        os.kill(live.pid, signal.SIGCONT)
    until(lambda: live.episode.seed == 8 and live.read() and not live._is_stop_owed)  # the reset drops what was read
    live.command(FAR, time.monotonic())  # ignored
    before = live.read()["position"].time
    until(lambda: live.read()["position"].time > before + 2.5 * DT)
    stopped = live.position()
    before = live.read()["position"].time
    until(lambda: live.read()["position"].time > before + 2.5 * DT)
    np.testing.assert_allclose(live.position(), stopped, atol=1e-6)


def test_a_simulation_that_is_killed_is_lost():
    with contextlib.closing(SimulatedRobot(REACH)) as robot:
        robot.start()
        os.kill(robot.pid, signal.SIGKILL)
        robot._child.wait(30)
        for call in (robot.read, robot.position, partial(robot.command, FAR, 0.0), partial(robot.reset, 1)):
            with pytest.raises(ConnectionError, match="ended with exit code -9: make another"):
                call()
        robot.stop()


def test_a_simulation_that_fails_is_lost():
    with contextlib.closing(SimulatedRobot(toys.DYING)) as robot:
        robot.start()
        robot._child.wait(30)
        with pytest.raises(ConnectionError, match="ended with exit code 3"):
            robot.read()


def run_to_the_end(robot):
    robot.start()
    robot._child.wait(30)
    robot.read()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("step", r"seed 3, step 5, in step\(\): ValueError: .*toys\.py:\d+ in step"),
        ("nan", r"seed 3, step 5: .*'position'.*toys\.py:\d+ in step"),
        ("old step", r"seed 3, step 1: .*toys\.py:\d+ in step"),
        ("reset", r"seed 3, step 0, in reset\(\): KeyError: 'nothing' .*toys\.py:\d+ in reset"),
    ],
)
def test_a_fault_of_the_users_environment_is_named_and_has_no_traceback(kind, words, capfd):
    with contextlib.closing(SimulatedRobot(toys.faulty(kind), first_seed=3)) as robot:
        with pytest.raises(ConnectionError, match=words):
            run_to_the_end(robot)
        with pytest.raises(ConnectionError, match=words):
            robot.command(FAR, time.monotonic())
    assert capfd.readouterr().err == ""


def test_a_package_that_a_simulation_lacks_is_named_and_there_is_no_traceback(capfd):
    task = replace(toys.REACH, make=partial(importlib.import_module, "no_such_package"))
    message = "ModuleNotFoundError: .*no_such_package"
    with contextlib.closing(SimulatedRobot(task)) as robot, pytest.raises(ConnectionError, match=message):
        robot.start()
    assert capfd.readouterr().err == ""


PARENT = """
import sys
sys.path.append(sys.argv[1])
from recede.robots.simulated import SimulatedRobot
from toys import REACH
robot = SimulatedRobot(REACH)
robot.start()
print("started", flush=True)
sys.stdin.read()
"""


def test_a_simulation_ends_with_its_parent():
    command = [sys.executable, "-P", "-c", PARENT, str(Path(toys.__file__).parent)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        parent.communicate(timeout=30)  # the simulation holds the same pipe, so it has ended as well
