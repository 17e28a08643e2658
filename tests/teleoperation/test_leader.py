"""Leader arms, emulated on pseudo-terminals: written from the manual alone."""

import contextlib
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from emulated_bus import EmulatedBus, Servo
from hands import Typist, write_in_thread
from recede.configs.components.inputs import LeaderInputConfig
from recede.datasets.store import DemonstrationStore
from recede.realtime import MonotonicClock
from recede.robots.feetech.arm import SerialArm
from recede.robots.feetech.calibration import JOINTS
from recede.specification import Specification, Stream
from recede.teleoperation.check import check_teleoperator
from recede.teleoperation.interface import Status
from recede.teleoperation.leader import LeaderArm
from waiting import until

PLACES = (2048, 1500, 2500, 1999, 2001, 1000)
"""The first positions of the joints, in steps; the gripper is closed."""

STEP = 2 * np.pi / 4096
"""Radians."""

READY = Status(phase="ready", num_episodes=0)


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr("recede.robots.feetech.bus.SILENCE_S", 0.06)  # for a busy machine
    bus = EmulatedBus({number: Servo(number, offset=10 * number, at=place) for number, place in enumerate(PLACES, 1)})
    for servo in bus.servos.values():
        servo.set(42, 2, servo.position)
        servo.set(40, 1, 1)  # it was a robot before
    yield bus
    bus.unplug()


def written(path, **changes):
    common = {"range_min": 1000, "range_max": 3000}
    joints = {
        name: {"id": number, "drive_mode": int(name == "elbow_flex"), "homing_offset": 10 * number, **common}
        for number, name in enumerate(JOINTS, 1)
    }
    for name, change in changes.items():
        joints[name] |= change
    path.write_text(json.dumps(joints))
    return path


@pytest.fixture
def calibration(tmp_path):
    return written(tmp_path / "leader.json")


@pytest.fixture
def leader(emulated, calibration):
    with contextlib.closing(LeaderArm(emulated.port, calibration)) as leader:
        yield leader


def robot(*, labels=JOINTS, low=(-1.5,) * 5 + (0.0,), high=(1.5,) * 5 + (1.0,), **more):
    action = Stream("action", (len(labels),), units="rad", labels=labels, low=low, high=high)
    return SimpleNamespace(specification=Specification((Stream("place", (1,)),), action, 0.1), **more)


def test_it_keeps_every_promise_of_an_input_without_torque(leader, emulated):
    report = check_teleoperator(leader, MonotonicClock(), seconds=0.3, max_call_s=1.0)
    assert "the absolute input" in report
    assert {write[1:] for write in emulated.writes} == {(40, 0)}
    assert not any(servo.has_torque for servo in emulated.servos.values())
    with pytest.raises(ConnectionError, match="make another one"):
        leader.start()


def test_it_is_where_the_joints_are_and_its_gripper_is_a_trigger(emulated, calibration):
    config = LeaderInputConfig(port=emulated.port, calibration=str(calibration), near=1.0)
    with contextlib.closing(config.build(robot())) as leader:
        clutch = config.clutch(leader, robot().specification)
        leader.start()
        first = leader.read(0.0)
        np.testing.assert_allclose(first.value, [48 * STEP, -500 * STEP, -500 * STEP, -STEP, STEP, 0.0], atol=1e-9)
        emulated.servos[6].encoder = 2500 + 60
        until(lambda: leader.read(0.0).value[5] == pytest.approx(0.75))
        newest = leader.read(0.0)
        target = clutch.target(newest, np.zeros(6), newest.time)
        np.testing.assert_allclose(target, newest.value)


def test_the_trigger_goes_from_end_to_end_whatever_drives_what(emulated, calibration):
    config = LeaderInputConfig(
        port=emulated.port, calibration=str(calibration), axes=["-gripper", "elbow_flex"], scale=2.0
    )
    arm = robot(labels=("hook", "height"), low=(10.0, -3.0), high=(20.0, 3.0))
    with contextlib.closing(config.build(arm)) as leader:
        leader.start()
        mapped = config.clutch(leader, arm.specification).axes
        np.testing.assert_allclose(mapped(leader.read(0.0).value), [20.0, -1000 * STEP])


def test_it_is_read_at_its_own_rate(emulated, calibration):
    with contextlib.closing(LeaderArm(emulated.port, calibration, rate=20.0)) as leader:
        leader.start()
        before = len(emulated.requests)
        time.sleep(0.5)
        assert 3 <= len(emulated.requests) - before <= 12


@pytest.mark.parametrize("lost", [lambda answer: b"", lambda answer: answer[:5] + b"\x00" + answer[6:]])
def test_a_lost_packet_ends_nothing(leader, emulated, lost):
    heard = iter(range(10**9))
    emulated.mangle = lambda servo, answer: lost(answer) if next(heard) % 13 == 12 else answer
    leader.start()
    for step in range(1500, 1510):
        emulated.servos[2].encoder = step + 20
        until(lambda step=step: leader.read(0.0).value[1] == pytest.approx((step - 2000) * STEP))


def test_a_leader_that_is_gone_is_one_error_with_its_port_and_cause(leader, emulated):
    leader.start()
    emulated.unplug()

    def is_lost():
        try:
            leader.orders(READY)
        except ConnectionError:
            return True
        return False

    until(is_lost)
    for call in (lambda: leader.read(0.0), lambda: leader.orders(READY)):
        with pytest.raises(ConnectionError, match=f"leader at {emulated.port} is lost: .*cable"):
            call()


def test_a_servo_that_reports_a_fault_is_not_followed(leader, emulated):
    leader.start()
    emulated.servos[4].fault = 2
    until(lambda: leader._lost is not None)
    with pytest.raises(ConnectionError, match=r"servo 4 \(wrist_flex\) reports sensor"):
        leader.read(0.0)


def test_servos_of_another_calibration_are_refused_with_both_and_keep_their_torque(emulated, tmp_path):
    calibration = written(tmp_path / "other.json", wrist_flex={"range_min": 1100})
    with contextlib.closing(LeaderArm(emulated.port, calibration)) as leader:
        with pytest.raises(ValueError, match=r"\(wrist_flex\) .*other.json.* 1100 to 3000, got 40 and 1000 to 3000"):
            leader.start()
        with pytest.raises(RuntimeError, match="start"):
            leader.read(0.0)
    assert emulated.writes == []


def test_a_recording_with_another_calibration_moves_nothing(recede, emulated, calibration, tmp_path):
    other = written(tmp_path / "other.json", wrist_flex={"range_min": 1100})
    hands = ["input=leader", f"input.port={emulated.port}", f"input.calibration={other}"]
    robot = ["robot=serial_arm", f"robot.port={tmp_path / 'nothing'}", f"robot.calibration={calibration}"]
    result = recede("record", "task=wipe", f"out={tmp_path / 'led.zarr'}", *robot, *hands)
    assert result.status == 2
    assert "(wrist_flex)" in result.err
    assert "other.json" in result.err
    assert result.err.count("\n") == 1
    assert emulated.writes == []


@pytest.mark.parametrize(
    ("arm", "more", "message"),
    [
        (
            robot(labels=("x", "y"), low=(0, 0), high=(1, 1)),
            {},
            "joints shoulder_pan, .* x, y: .*input.axes",
        ),
        (
            robot(low=(-1.5, -1.0) + (-1.5,) * 4),
            {},
            r"shoulder_lift .* -1.53 to 1.53 .*leader.json.* -1 to 1.5 ",
        ),
        (robot(), {"scale": [57.3, 1, 1, 1, 1, 1]}, "shoulder_pan .*-87.9 to 87.9 .*-1.5 to 1.5"),
        (robot(port="here"), {"port": "./here"}, "ports of their own, got ./here twice"),
        (robot(low=(), high=()), {}, "must have limits"),
    ],
)
def test_a_leader_that_does_not_fit_the_robot_is_refused_with_both(calibration, arm, more, message):
    config = LeaderInputConfig(**({"port": "nowhere", "calibration": str(calibration)} | more))
    with pytest.raises(ValueError, match=message):
        config.build(arm)


def test_a_range_that_somebody_moved_a_little_less_far_is_no_other_range(tmp_path):
    calibration = written(tmp_path / "leader.json", shoulder_pan={"range_min": 1050, "range_max": 2950})
    LeaderInputConfig(port="nowhere", calibration=str(calibration)).build(robot())


@pytest.mark.slow
def test_it_leads_a_robot_whose_commands_are_recorded_and_which_rests_if_the_leader_is_gone(
    recede, emulated, calibration, monkeypatch, tmp_path
):
    monkeypatch.setattr("recede.recording.session.MEASURED_S", 0.2)
    write_in_thread(monkeypatch)
    typist = Typist(monkeypatch, ready=(0, "\n"), recording=(0.8, "\n"), ended=(0, "s"))
    follower = EmulatedBus({number: Servo(number, offset=10 * number, at=at) for number, at in enumerate(PLACES, 1)})
    positions = {number: servo.position for number, servo in follower.servos.items()}

    def orders(leader, status):
        """Turn the first joint by half a radian a second; keep the first episode, and lose the leader in the second."""
        leader.read(0.0)
        typist.see(status)
        emulated.servos[1].encoder = 2058 + status.seconds / (2 * STEP)
        if status.seconds > 0.6 and status.num_episodes:
            emulated.unplug()
        return []

    def command(arm, action, at_time):
        commanded.append(float(np.float32(action[0])))
        original(arm, action, at_time)

    commanded, original = [], SerialArm.command
    monkeypatch.setattr(SerialArm, "command", command)
    monkeypatch.setattr(LeaderArm, "orders", orders)
    path = tmp_path / "led.zarr"
    robot = ["robot=serial_arm", f"robot.port={follower.port}", f"robot.calibration={calibration}", "rate=60"]
    hands = ["input=leader", f"input.port={emulated.port}", f"input.calibration={calibration}", "input.near=1"]
    with contextlib.closing(typist), contextlib.closing(SimpleNamespace(close=follower.unplug)):
        result = recede("record", "task=wipe", f"out={path}", *robot, *hands, "safety.stale_ms=9000", "approach=9")
        assert result.status != 0
        assert f"leader at {emulated.port} is lost" in result.err
        assert result.err.count("\n") == 1
        assert "1 demonstrations" in result.out
        store = DemonstrationStore.open(path)
        (facts,), episode = store.episode_facts, store.episode(0)
        assert (facts.input, facts.task, facts.notes["action"]) == ("leader", "wipe", "commanded")
        assert facts.outcome == "success"
        assert sum(after - first for first, after in facts.notes["led"]) > 10
        assert np.ptp(episode["action"], axis=0)[0] > 0.2
        np.testing.assert_array_equal(np.ptp(episode["action"], axis=0)[1:5], 0)
        assert {*episode["action"][:, 0].tolist()} <= {*commanded}  # and not where the leader was
        assert all(servo.has_torque for servo in follower.servos.values())
        at_rest = follower.servos[1].position
        time.sleep(0.1)
        assert follower.servos[1].position == at_rest > positions[1] + 50
        assert recede("inspect", path, f"out={tmp_path / 'led.png'}").status == 0
