"""An arm of six servos on an emulated bus: no jumps, no joint outside its range, and clear errors."""

import contextlib
import json
import math
import time
from functools import partial

import numpy as np
import pytest
from emulated_bus import EmulatedBus, Servo
from recede.control.loop import Controller
from recede.control.planned import SURE, Planned
from recede.control.safety import Limits, Safety
from recede.datasets.store import DemonstrationStore
from recede.execution.overlapping import AsyncReplace
from recede.realtime import MonotonicClock
from recede.robots.check import check_robot
from recede.robots.feetech.arm import SLACK, SerialArm
from recede.robots.feetech.bus import open_port
from recede.robots.feetech.calibration import JOINTS
from recede.specification import Horizons
from waiting import until

PLACES = (2048, 1500, 2500, 1999, 2001, 1000)
"""The first positions of the joints, in steps; the gripper is closed."""

MIDDLE = 2000
STEP = 2 * math.pi / 4096
"""Radians."""

PLAIN = {"release": False, "actuation_delay": 0.0}
"""What every arm is made with."""


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr("recede.robots.feetech.bus.SILENCE_S", 0.06)  # for a busy machine
    bus = EmulatedBus({i: Servo(i, offset=10 * i, at=place) for i, place in enumerate(PLACES, 1)})
    yield bus
    bus.unplug()


@pytest.fixture
def calibration(tmp_path):
    path, common = tmp_path / "arm.json", {"range_min": 1000, "range_max": 3000}
    content = {
        name: {"id": number, "drive_mode": int(name == "elbow_flex"), "homing_offset": 10 * number, **common}
        for number, name in enumerate(JOINTS, 1)
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def arm(emulated, calibration):
    with contextlib.closing(SerialArm(emulated.port, calibration, **PLAIN)) as arm:
        yield arm


def positions(emulated):
    return [servo.position for servo in emulated.servos.values()]


def slow(emulated):
    """Slow the servos down, to stop them on their way."""
    for servo in emulated.servos.values():
        servo.speed = 200.0


def action(*steps):
    """The action that sends the joints to these steps; the third joint turns the other way."""
    return STEP * (np.array(steps) - MIDDLE) * [1, 1, -1, 1, 1, 1]


def test_it_keeps_every_promise_of_a_robot(arm, emulated):
    report = check_robot(arm, MonotonicClock(), seconds=0.5, max_call_s=1.0)
    assert "60 commands/s" in report
    assert "moved by at most 0 " in report
    assert positions(emulated) == list(PLACES)


def test_nothing_jumps_when_the_torque_is_switched_on(arm, emulated):
    goals = [(number, 42, place) for number, place in enumerate(PLACES, 1)]
    arm.start()
    assert emulated.writes[:12] == goals + [(number, 40, 1) for number in range(1, 7)]
    assert set(emulated.writes[12:]) <= set(goals)
    time.sleep(0.1)
    assert positions(emulated) == list(PLACES)


def test_positions_are_radians_about_the_middle_of_the_range(arm, emulated):
    arm.start()
    reading = arm.read()["joints"]
    expected = [48 * STEP, -500 * STEP, -500 * STEP, -STEP, STEP, -1000 * STEP]
    np.testing.assert_allclose(reading.value, expected, rtol=1e-6)
    assert reading.value.dtype == np.float32
    assert 0 <= time.monotonic() - reading.time < 30
    np.testing.assert_allclose(arm.position(), expected, rtol=1e-6)
    assert arm.specification.action.high == pytest.approx([1000 * STEP] * 6)
    assert arm.specification.action.low == pytest.approx([-1000 * STEP] * 6)


def test_it_goes_where_it_is_commanded_and_no_further_than_its_range(arm, emulated):
    arm.start()
    arm.command(action(2100, 1600, 2400, 2000, 1990, 1300), time.monotonic())
    until(lambda: positions(emulated) == [2100, 1600, 2400, 2000, 1990, 1300])
    until(lambda: np.allclose(arm.position(), action(2100, 1600, 2400, 2000, 1990, 1300), atol=1e-6))
    arm.command(np.array([9.0, -9.0, 9.0, 3e38, -3e38, 0]), time.monotonic())
    until(lambda: [value for _, _, value in emulated.writes[-6:]] == [3000, 1000, 1000, 3000, 1000, 2000])


def test_actions_at_the_limits_are_not_clipped(arm, emulated):
    arm.start()
    for end in (arm.specification.action.low, arm.specification.action.high):
        arm.command(np.array(end, np.float32), time.monotonic())
        steps = [1000 if (value < 0) != (index == 2) else 3000 for index, value in enumerate(end)]
        until(lambda steps=steps: [value for _, _, value in emulated.writes[-6:]] == steps)


def test_a_stop_before_the_first_command_moves_nothing_whatever_the_servos_report(arm, emulated):
    arm.start()
    for servo in emulated.servos.values():
        servo.encoder = 1500  # moved by hand, or reported wrongly
    before = len(emulated.writes)
    arm.stop()
    time.sleep(0.1)
    assert emulated.writes[before:] == []


def test_it_holds_its_last_command_once_stopped(arm, emulated):
    slow(emulated)
    arm.start()
    arm.command(action(2100, 1500, 2500, 2000, 2000, 1000), time.monotonic())
    until(lambda: emulated.servos[1].position > 2060)
    for _ in range(2):
        arm.stop()
    arm.command(action(1000, 1000, 1000, 1000, 1000, 1000), time.monotonic())  # ignored
    time.sleep(0.1)
    assert emulated.goals(1)[-1] == 2100
    until(lambda: emulated.servos[1].position == 2100)
    assert all(servo.has_torque for servo in emulated.servos.values())
    arm.start()
    arm.command(action(2050, 1500, 2500, 2000, 2000, 1000), time.monotonic())
    until(lambda: emulated.servos[1].position == 2050)


@pytest.mark.parametrize("release", [False, True])
def test_a_closed_arm_holds_or_loses_its_torque(emulated, calibration, release):
    slow(emulated)
    arm = SerialArm(emulated.port, calibration, **(PLAIN | {"release": release}))
    arm.start()
    arm.command(action(3000, 1500, 2500, 2000, 2000, 1000), time.monotonic())
    until(lambda: emulated.servos[1].position > 2060)
    arm.stop()
    arm.close()
    assert [servo.has_torque for servo in emulated.servos.values()] == [not release] * 6
    assert emulated.goals(1)[-1] == 3000
    with contextlib.closing(SerialArm(emulated.port, calibration, **PLAIN)) as again:  # the port is free
        again.start()


def test_calls_before_start_and_after_close_are_refused(arm):
    arm.stop()
    for call in (arm.read, arm.position, partial(arm.command, np.zeros(6), 0.0)):
        with pytest.raises(RuntimeError, match=r"start\(\) the arm first"):
            call()
    for _ in range(2):
        arm.close()
        arm.stop()
    for call in (arm.start, arm.read, arm.position, partial(arm.command, np.zeros(6), 0.0)):
        with pytest.raises(ConnectionError, match="is closed: make another one"):
            call()


@pytest.mark.parametrize("wrong", [np.zeros(5), np.full(6, np.nan)])
def test_an_invalid_command_is_refused(arm, wrong):
    arm.start()
    with pytest.raises(ValueError, match="6 finite numbers at a finite time"):
        arm.command(wrong, 0.0)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": math.inf}, {"actuation_delay": -0.1}])
def test_impossible_numbers_are_refused(calibration, options):
    with pytest.raises(ValueError, match=r"rate .*actuation_delay .*got"):
        SerialArm("nowhere", calibration, **(PLAIN | options))


# What is refused before there is torque


def silent(emulated):
    del emulated.servos[4]


def elsewhere(emulated):
    emulated.servos[2].encoder = 3000 + SLACK + 1 + 20


def reporting(servo, fault, **memory):
    def change(emulated):
        emulated.servos[servo].fault = fault
        for address, (size, value) in {int(key[1:]): value for key, value in memory.items()}.items():
            emulated.servos[servo].set(address, size, value)

    return change


REFUSED = {
    "silent": (silent, TimeoutError, r"asked 5 times: 4 \(wrist_flex\); check their power"),
    "model": (reporting(3, 0, _3=(2, 1284)), ValueError, r"servo 3 \(elbow_flex\) must be an STS3215.*got model 1284"),
    "mode": (reporting(3, 0, _33=(1, 1)), ValueError, r"\(elbow_flex\) .*mode, 0, got 1"),
    "offset": (reporting(3, 0, _31=(2, 7)), ValueError, r"arm.json, offset 30 and range 1000 to 3000, got 7 and 1000"),
    "range": (reporting(3, 0, _9=(2, 900)), ValueError, r"got 30 and 900 to 3000: calibrate again"),
    "place": (elsewhere, ValueError, r"joint shoulder_lift must begin within its range, 1000 to 3000 .*at 3024"),
    "voltage": (reporting(1, 1, _62=(1, 48)), ConnectionError, r"\(shoulder_pan\) reports voltage, at 0 % load, 4.8 V"),
    "overload": (reporting(6, 32, _60=(2, 0x400 | 980)), ConnectionError, r"overload, at -98 % load, 7.4 V and 31 °C"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_at_the_start_is_refused_without_torque(arm, emulated, name):
    change, error, message = REFUSED[name]
    change(emulated)
    with pytest.raises(error, match=message) as _refused:  # keeps everything that the error refers to
        arm.start()
    open_port(emulated.port, 1_000_000).close()  # it is free
    assert not [write for write in emulated.writes if write[1] != 42]
    assert positions(emulated) == [round(servo.encoder) - servo.offset for servo in emulated.servos.values()]
    with pytest.raises(RuntimeError, match=r"start\(\) the arm first"):
        arm.read()


def test_a_joint_a_little_outside_its_range_is_at_its_end(arm, emulated):
    emulated.servos[6].encoder = 1000 - SLACK + 60
    arm.start()
    assert emulated.goals(6)[0] == 1000
    assert arm.position()[5] >= arm.specification.action.low[5]


# What fails in between


def lost(arm, message):
    """Every call raises this error, except stop."""

    def is_lost():
        try:
            arm.read()
        except ConnectionError:
            return True
        return False

    until(is_lost)
    for call in (arm.read, arm.position, partial(arm.command, np.zeros(6), 0.0)):
        with pytest.raises(ConnectionError, match=message):
            call()
    arm.stop()


def test_the_arm_is_lost_while_a_servo_is_missing(arm, emulated):
    arm.start()
    gone = emulated.servos.pop(3)
    lost(arm, r"the arm at .* is lost: of 6 servos .*asked 5 times: 3 \(elbow_flex\)")
    with pytest.raises(TimeoutError, match="elbow_flex"):
        arm.start()
    emulated.servos = dict(sorted((emulated.servos | {3: gone}).items()))
    arm.start()
    arm.command(action(2100, 1500, 2400, 2000, 2000, 1000), time.monotonic())
    until(lambda: emulated.servos[3].position == 2400)


def test_the_arm_is_lost_if_its_cable_is_pulled_out(arm, emulated):
    arm.start()
    emulated.unplug()
    lost(arm, "the arm at .* is lost")
    with pytest.raises(ConnectionError, match=r"the serial port .* cannot be opened"):
        arm.start()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (4, r"servo 2 \(shoulder_lift\) reports temperature, at 0 % load, 7.4 V and 71 °C: let it cool"),
        (32, r"servo 2 \(shoulder_lift\) reports overload, .*: free the joint, and switch the power off and on"),
        (36, r"servo 2 \(shoulder_lift\) reports temperature and overload, "),
        (16, r"servo 2 \(shoulder_lift\) reports fault 16, .*: see its manual"),
    ],
)
def test_after_a_fault_all_servos_hold_the_last_command_whatever_they_report(arm, emulated, fault, message):
    slow(emulated)
    arm.start()
    arm.command(action(2100, 1600, 2400, 1900, 2100, 1100), time.monotonic())
    until(lambda: emulated.servos[6].position > 1010)
    emulated.servos[2].set(63, 1, 71)
    emulated.servos[2].fault = fault
    lost(arm, message)
    written = len(emulated.writes)
    for number, goal in enumerate((2100, 1600, 2400, 1900, 2100, 1100), 1):
        assert emulated.goals(number)[-1] == goal
        if number != 2:  # it has no torque
            until(lambda number=number, goal=goal: emulated.servos[number].position == goal)
    assert len(emulated.writes) == written


def test_an_error_in_the_thread_of_the_arm_is_reported(arm, emulated, monkeypatch):
    arm.start()
    monkeypatch.setattr(arm, "_read", lambda bus: 1 / 0)
    lost(arm, "the arm at .* is lost: division by zero")


def once_in(times, mangle):
    heard = iter(range(10**9))
    return lambda servo, answer: mangle(answer) if next(heard) % times == times - 1 else answer


@pytest.mark.parametrize(
    "mangle",
    [
        once_in(13, lambda answer: b""),
        once_in(13, lambda reply: reply[:4] + bytes([reply[4] ^ 32]) + reply[5:]),  # a false overload
        lambda servo, answer: b"\xff\xff\x01\x0a" + answer,
    ],
    ids=["dropped", "corrupted", "noise"],
)
def test_the_arm_survives_losses_on_the_bus(arm, emulated, mangle):
    emulated.mangle = mangle
    arm.start()
    for place in (2100, 1900, 2200):
        arm.command(action(place, 1600, 2400, place, 2000, 1100), time.monotonic())
        until(lambda place=place: positions(emulated) == [place, 1600, 2400, place, 2000, 1100])


# The whole loop


class Leading:
    """A planner in this process that leads the arm to a target, with chunks far beyond the limits."""

    doubt = SURE

    def __init__(self, target):
        self.target, self.position = target, None

    def ask(self, request):
        self.position = request.history["joints"][-1]

    def poll(self):
        position, self.position = self.position, None
        share = np.linspace(0, 3, 16)[:, None]
        return None if position is None else position + np.minimum(share, 1) * (self.target - position)


class Noted(Safety):
    """A `Safety` that keeps the commands that it allowed."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.commands = []

    def __call__(self, target, **options):
        verdict = super().__call__(target, **options)
        self.commands.append(verdict.command)
        return verdict


def is_within(part, whole):
    """Whether `part` is a subsequence of `whole`."""
    rest = iter(whole)
    return all(any(goal == command for goal in rest) for command in part)


def test_the_control_loop_brings_it_to_a_target_within_the_limits(arm, emulated):
    limits = Limits.of(arm.specification, speed=1.5, acceleration=10.0, jump=9.0)
    safety = Noted(limits, 1 / arm.rate, stale_s=9.0, patience_s=60.0)
    target = action(2600, 2000, 2000, 1700, 2300, 2900)
    controller = Controller(arm, Planned(Leading(target), AsyncReplace(Horizons(1, 16, 4))), safety, MonotonicClock())
    end = time.monotonic() + 60
    summary = controller.run(lambda: np.abs(arm.position() - target).max() < 2 * STEP or time.monotonic() > end)
    assert summary.reason == "over"
    np.testing.assert_allclose(arm.position(), target, atol=0.05)
    commands = np.array(safety.commands)
    velocity = np.diff(commands, axis=0, prepend=action(*PLACES)[None]) * arm.rate
    assert (np.abs(velocity) <= 1.5 + 1e-6).all()
    assert np.abs(velocity).max() > 1.4  # it was limited
    assert (np.abs(np.diff(velocity, axis=0, prepend=0)) * arm.rate <= 10.0 + 1e-3).all()  # positions are float32
    arm.close()
    allowed = np.rint(commands.astype(np.float32) / STEP * [1, 1, -1, 1, 1, 1] + MIDDLE).astype(int)
    for index, place in enumerate(PLACES):
        first, *goals = emulated.goals(index + 1)  # the first goal holds a position and is no command
        assert first == place
        assert 1000 <= min(goals) <= max(goals) <= 3000
        assert is_within(goals, allowed[:, index].tolist())
        assert len(goals) > 10


@pytest.mark.slow
def test_a_policy_controls_the_arm_and_its_record_can_be_trained_on(recede, arm, emulated, calibration, tmp_path):
    rng, episode = np.random.default_rng(0), np.zeros((40, 6), np.float32)
    episode += 0.2 * np.sin(np.arange(40) / 5)[:, None] + rng.normal(scale=0.01, size=(40, 6))
    store = DemonstrationStore.create(tmp_path / "arm.zarr", arm.specification)
    store.append({"joints": episode, "action": episode})
    small = ["policy.network.channels=[8]", "policy.network.groups=4", "steps=2", "batch_size=4"]
    trained = recede("train", f"dataset={store.path}", f"out={tmp_path / 'policy'}", *small)
    assert trained.status == 0, trained.err

    arm_options = ["robot=serial_arm", f"robot.port={emulated.port}", f"robot.calibration={calibration}"]
    limits = ["rate=60", "episodes=1", "seconds=3", "safety.stale_ms=9000"]
    run = recede("control", tmp_path / "policy", *arm_options, *limits, f"out={tmp_path / 'run'}")
    assert run.status == 0, run.err
    assert "reason over" in run.out
    done = DemonstrationStore.open(tmp_path / "run" / "demonstrations.zarr")
    assert done.specification == arm.specification
    assert done.num_steps > 0
    assert all(servo.has_torque for servo in emulated.servos.values())

    nowhere = ["robot=serial_arm", "robot.port=/nowhere", arm_options[2], f"out={tmp_path / 'other'}"]
    refused = recede("control", tmp_path / "policy", *nowhere)
    assert refused.status == 2
    assert "/nowhere" in refused.line
    assert not (tmp_path / "other").exists()
