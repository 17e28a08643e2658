"""The calibration of an arm: reading and refusing files, and calibrating by hand on an emulated bus."""

import contextlib
import json
import time

import numpy as np
import pytest
from emulated_bus import EmulatedBus, Servo
from recede.robots.feetech.arm import SerialArm
from recede.robots.feetech.calibration import JOINTS, Joint, calibrate, joints_of, read_calibration


def content():
    common = {"drive_mode": 0, "homing_offset": -986, "range_min": 901, "range_max": 3110}
    return {name: {"id": number, **common} for number, name in enumerate(JOINTS, 1)}


def changed(joint, **values):
    return {name: old | (values if name == joint else {}) for name, old in content().items()}


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr("recede.robots.feetech.bus.SILENCE_S", 0.06)  # for a busy machine
    ats = {1: 300, 2: 1200, 3: 2048, 4: 3900, 5: 0, 6: 4095}
    bus = EmulatedBus({i: Servo(i, offset=-70, low=100, high=4000, at=at + 70) for i, at in ats.items()})
    for number in (1, 2, 3, 4):  # within their current range
        bus.servos[number].set(42, 2, bus.servos[number].position)
        bus.servos[number].set(40, 1, 1)
    yield bus
    bus.unplug()


def test_a_file_is_read_in_the_order_of_the_joints(tmp_path):
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(dict(reversed(content().items()))))
    assert list(read_calibration(path).items()) == [
        (name, Joint(number, 0, -986, 901, 3110)) for number, name in enumerate(JOINTS, 1)
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({name: old for name, old in content().items() if name != "wrist_roll"}, "must hold the joints "),
        (content() | {"rudder": {}}, "gripper, rudder: calibrate again"),
        (changed("gripper", range_min=3110), "gripper: range_min .* range_max, got 3110 and 3110"),
        (changed("gripper", range_max=4096), "range_max must be a whole number from 0 to 4095, got 4096"),
        (changed("gripper", range_min=-1), "range_min must be a whole number from 0 to 4095, got -1"),
        (changed("gripper", homing_offset=-2048), "homing_offset .* -2047 to 2047, got -2048"),
        (changed("gripper", drive_mode=-1), "drive_mode must be a whole number from 0 to 1, got -1"),
        (changed("gripper", drive_mode=True), "drive_mode must be a whole number from 0 to 1, got True"),
        (changed("gripper", id=254), "id must be a whole number from 0 to 253, got 254"),
        (changed("gripper", id=1.5), "id must be a whole number from 0 to 253, got 1.5"),
        (changed("gripper", id=1), r"a servo of its own, got \[1, 2, 3, 4, 5, 1\]"),
        (changed("gripper", colour=1), "joint gripper: .*unexpected keyword argument 'colour'"),
        (content() | {"gripper": {"id": 6}}, "joint gripper: .*missing 4 required"),
        (content() | {"gripper": 7}, "joint gripper: "),
        ([], "must hold a JSON object"),
    ],
)  # fmt: skip
def test_an_impossible_file_is_refused(tmp_path, wrong, message):
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=message) as refused:
        SerialArm("nowhere", path, release=False, actuation_delay=0.0)
    assert str(refused.value).startswith(str(path))


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    (tmp_path / "arm.json").write_text('{"shoulder_pan": ')
    with pytest.raises(ValueError, match="is damaged"):
        read_calibration(tmp_path / "arm.json")
    with pytest.raises(FileNotFoundError, match=r"there is no calibration .*other.json: make it"):
        read_calibration(tmp_path / "other.json")


def swept(**ends):
    """Positions (N, 6) of joints that move from 2048 to both of their ends."""
    lows_highs = [ends.get(name, (1000, 3000)) for name in JOINTS]
    shares = np.concatenate([np.linspace(0, -1, 20), np.linspace(-1, 1, 40)])[:, None]
    lows, highs = np.array(lows_highs).T
    return np.rint(2048 + np.where(shares < 0, shares * (2048 - lows), shares * (highs - 2048)))


def test_ranges_are_those_of_the_movement():
    joints = joints_of(swept(gripper=(2048, 3500), wrist_roll=(0, 4095)), [1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4])
    assert list(joints) == list(JOINTS)
    assert joints["shoulder_pan"] == Joint(9, 0, 1, 1000, 3000)
    assert joints["wrist_roll"] == Joint(5, 0, 5, 0, 4095)
    assert joints["gripper"] == Joint(4, 0, 6, 2048, 3500)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (swept(elbow_flex=(2000, 2099)), "elbow_flex must be moved from end to end, .* 99 steps"),
        (swept(elbow_flex=(-5, 3000)), "elbow_flex turned past the end .*: calibrate again"),
        (swept(elbow_flex=(1000, 5000)) % 4096, "joint elbow_flex turned past the end"),
        (swept()[:1], "shoulder_pan must be moved from end to end, .* 0 steps"),
    ],
)  # fmt: skip
def test_movements_without_a_range_are_refused(positions, message):
    with pytest.raises(ValueError, match=message):
        joints_of(positions, [0] * 6, range(1, 7))


class Hand:
    """A person who moves the arm as the texts say: to the middle, and from end to end."""

    ENDS = ((-1000, 1000), (-900, 1100), (-800, 1200), (-700, 1300), (-2000, 2000), (0, 1400))

    def __init__(self, emulated):
        self.emulated, self.texts = emulated, []

    def __call__(self, text):
        self.texts.append(text)
        servos = list(self.emulated.servos.values())
        if len(self.texts) == 1:
            assert not [write for write in self.emulated.writes if write[1] == 40]
        elif len(self.texts) == 2:
            assert not any(servo.has_torque for servo in servos)
        else:
            middles = [servo.encoder for servo in servos]
            for share in (-0.5, -1, -0.5, 0, 0.5, 1, 0.5, 0):
                for servo, middle, (low, high) in zip(servos, middles, self.ENDS, strict=True):
                    servo.encoder = middle + share * (-low if share < 0 else high)
                self.see()

    def see(self):
        """Wait until the joints were looked at where they are."""
        looked, end = len(self.emulated.requests), time.monotonic() + 30
        while len(self.emulated.requests) < looked + 2:
            assert time.monotonic() < end, "nobody looks"
            time.sleep(0.001)


def test_an_arm_is_calibrated_by_hand_and_then_starts(emulated, tmp_path):
    path, hand = tmp_path / "arm.json", Hand(emulated)
    encoders = {number: round(servo.encoder) for number, servo in emulated.servos.items()}
    joints = calibrate(emulated.port, path, ask=hand)
    assert [text.split()[0] for text in hand.texts] == ["Hold", "Bring", "Move"]
    assert read_calibration(path) == joints
    for (number, servo), joint, (low, high) in zip(emulated.servos.items(), joints.values(), hand.ENDS, strict=True):
        offset = max(encoders[number] - 2048, -2047)
        at = encoders[number] - offset
        assert joint == Joint(number, 0, offset, at + low, at + high)
        assert (servo.offset, servo.get(9, 2), servo.get(11, 2)) == (offset, at + low, at + high)
        assert servo.get(55, 1) == 1  # locked again
        assert not servo.has_torque
    with contextlib.closing(SerialArm(emulated.port, path, release=False, actuation_delay=0.0)) as arm:
        arm.start()
        np.testing.assert_allclose(arm.position()[0], 0, atol=1e-6)
        assert arm.position()[5] == pytest.approx(arm.specification.action.low[5])


def test_an_arm_that_does_not_move_gives_no_file(emulated, tmp_path):
    with pytest.raises(ValueError, match="joint shoulder_pan must be moved from end to end"):
        calibrate(emulated.port, tmp_path / "arm.json", ask=lambda text: None)
    assert not (tmp_path / "arm.json").exists()


def test_a_calibration_is_not_overwritten(emulated, tmp_path):
    (tmp_path / "arm.json").write_text("{}")
    with pytest.raises(FileExistsError, match="remove it, or calibrate to another file"):
        calibrate(emulated.port, tmp_path / "arm.json", ask=lambda text: None)
    assert emulated.requests == []


@pytest.mark.parametrize("ids", [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 5)])
def test_ids_must_be_those_of_six_servos(tmp_path, ids):
    with pytest.raises(ValueError, match="ids must give each of 6 joints a servo of its own, got"):
        calibrate("nowhere", tmp_path / "arm.json", ids=ids)


def test_servos_of_another_model_are_not_written_to(emulated, tmp_path):
    emulated.servos[6].set(3, 2, 1284)
    with pytest.raises(ValueError, match=r"servo 6 \(gripper\) .*STS3215, .*777, got .*1284"):
        calibrate(emulated.port, tmp_path / "arm.json", ask=lambda text: None)
    assert emulated.writes == []
