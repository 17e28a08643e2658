"""Two arms as one input."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from emulated_bus import EmulatedBus, Servo
from hands import Hands, Typist, write_in_thread
from recede.configs.components.inputs import TwoLeadersInputConfig
from recede.datasets.store import DemonstrationStore
from recede.realtime import MonotonicClock
from recede.robots.feetech.calibration import JOINTS
from recede.robots.interface import Reading
from recede.specification import Specification, Stream
from recede.teleoperation.check import check_teleoperator
from recede.teleoperation.together import Together
from two_arms import BOTH, TwoArms

STEP = 2 * np.pi / 4096


def robot(labels=BOTH, low=-1.5):
    action = Stream("action", (len(labels),), labels=labels, low=(low,) * len(labels), high=(1.5,) * len(labels))
    return SimpleNamespace(specification=Specification((Stream("place", (1,)),), action, 0.1))


def two(tmp_path, **changes):
    for side in ("left", "right"):
        common = {"drive_mode": 0, "homing_offset": 0, "range_min": 1000, "range_max": 3000}
        (tmp_path / side).write_text(json.dumps({name: {"id": i, **common} for i, name in enumerate(JOINTS, 1)}))
    places = {f"{side}_{what}": str(tmp_path / side) for side in ("left", "right") for what in ("calibration", "port")}
    return TwoLeadersInputConfig(**(places | changes))


@pytest.fixture
def buses(monkeypatch):
    monkeypatch.setattr("recede.robots.feetech.bus.SILENCE_S", 0.06)  # for a busy machine
    both = {
        name: EmulatedBus({i: Servo(i, at=at) for i in range(1, 7)}) for name, at in (("left", 2100), ("right", 1900))
    }
    yield both
    for bus in both.values():
        bus.unplug()


def test_two_arms_are_one_input_with_their_joints_in_order(buses, tmp_path):
    config = two(tmp_path, left_port=buses["left"].port, right_port=buses["right"].port)
    together = config.build(robot())
    assert together.axes == BOTH
    with contextlib.closing(together):
        together.start()
        reading = together.read(0.0)
        expected = [*[100 * STEP] * 5, 0.15, *[-100 * STEP] * 5, -0.15]  # the grippers are triggers
        np.testing.assert_allclose(config.clutch(together, robot().specification).axes(reading.value), expected)
    assert "absolute" in check_teleoperator(config.build(robot()), MonotonicClock(), seconds=0.2, max_call_s=1.0)


@pytest.mark.slow
def test_both_lead_a_robot_whose_episodes_are_recorded_and_which_rests_if_one_is_gone(
    recede, buses, monkeypatch, tmp_path
):
    monkeypatch.setattr("recede.recording.session.MEASURED_S", 0.2)
    write_in_thread(monkeypatch)
    typist, robots = Typist(monkeypatch, ready=(0, "\n"), recording=(0.6, "\n"), ended=(0, "f")), []

    def orders(both, status):
        """Turn the first joints apart; keep the first episode, and lose the right arm in the second."""
        typist.see(status)
        for name, way in (("left", 100), ("right", -100)):
            buses[name].servos[1].encoder = {"left": 2100, "right": 1900}[name] + way * min(status.seconds, 0.5)
        if status.num_episodes and status.seconds > 0.3:
            buses["right"].unplug()
        return []

    def make(rate):
        robots.append(TwoArms(rate))
        return robots[0]

    two(tmp_path)  # writes the calibrations
    monkeypatch.setattr(Together, "orders", orders)
    monkeypatch.setattr("two_arms.make_robot", make, raising=False)
    path = tmp_path / "both.zarr"
    arms = [
        f"input.{side}_{what}={value}"
        for side in ("left", "right")
        for what, value in (("port", buses[side].port), ("calibration", tmp_path / side))
    ]
    options = [
        "input=two_leaders",
        *arms,
        "input.near=1",
        "robot=driver",
        "robot.make=two_arms:make_robot",
        "approach=9",
    ]
    with contextlib.closing(typist):
        result = recede("record", "task=fold", f"out={path}", *options)
    assert result.status != 0
    assert f"leader at {buses['right'].port} is lost" in result.err
    assert result.err.count("\n") == 1
    (facts,), episode = (store := DemonstrationStore.open(path)).episode_facts, store.episode(0)
    assert (facts.input, facts.outcome) == ("two_leaders", "failure")
    ways = np.ptp(episode["action"], axis=0)
    assert (ways[[0, 6]] > 20 * STEP).all()
    assert robots[0].is_stopped
    np.testing.assert_array_equal(robots[0].commands[-1], robots[0].commands[-2])
    inspected = recede("inspect", path, f"out={tmp_path / 'both.png'}")
    assert inspected.status == 0
    assert "joints.left_shoulder_pan rad" in inspected.out


def test_if_one_arm_cannot_be_reached_the_other_one_is_released(buses, tmp_path):
    together = two(tmp_path, left_port=buses["left"].port, right_port=str(tmp_path / "nothing")).build(robot())
    with pytest.raises(ConnectionError, match=r"/nothing cannot be opened"):
        together.start()
    again = two(tmp_path, left_port=buses["left"].port).build(robot()).inputs[0]
    with contextlib.closing(again):
        again.start()  # its port is free


@pytest.mark.parametrize(
    ("arm", "changes", "message"),
    [
        (robot(JOINTS), {}, "left_shoulder_pan, .* robot shoulder_pan, .*input.axes"),
        (robot(low=-1.0), {}, r"left_shoulder_pan .* -1.53 to 1.53 .* -1 to 1.5"),
        (robot(), {"left_port": "a", "right_port": "./a"}, "ports of their own, got a twice"),
        (robot(), {"rate": 0}, "rate must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arm, changes, message):
    with pytest.raises(ValueError, match=message):
        two(tmp_path, **changes).build(arm)


def test_inputs_are_held_only_together_and_closed_whatever_fails():
    left, right = Hands(velocity=(1, 2)), Hands(velocity=(3, 4))
    right.axes = ("u", "v")
    both = Together(left, right)
    reading = both.read(2.0)
    assert (both.axes, reading.value.tolist(), reading.time) == (("x", "y", "u", "v"), [1, 2, 3, 4], 2.0)
    right.read = lambda now: None
    assert both.read(2.0) is None
    right.read = lambda now: Reading(np.zeros(2), 1.5)
    assert both.read(2.0).time == 1.5

    def fail():
        raise OSError("stuck")

    left.close = fail
    with pytest.raises(OSError, match="stuck"):
        both.close()
    assert right.calls == ["close"]
    right.kind = "absolute"
    with pytest.raises(ValueError, match="one kind to be one, got velocity, absolute"):
        Together(left, right)
    with pytest.raises(ValueError, match="different names, got x, y, x, y"):
        Together(left, Hands())
