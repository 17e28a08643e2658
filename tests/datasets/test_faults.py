"""Faults of a whole recording are named with their share, in few and in all episodes; good recordings have none."""

from dataclasses import replace

import numpy as np
import pytest
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.faults import faults
from recede.datasets.inspection import warnings, worst
from recede.specification import Specification, Stream

EPISODES, STEPS = 8, 80
ORIENTATION = Stream("orientation", (4,))
SPECIFICATION = Specification(
    (
        Stream("joints", (3,), units="rad"),
        ORIENTATION,
        Stream("camera", (12, 16, 3), "uint8"),
        Stream("touch", (1,), "bool"),
        Stream("goal", (2,)),
    ),
    Stream("action", (2,), labels=("x", "opening")),
    control_dt=0.1,
)
SHARES = [1, 2, 6, 8]
"""Of 8 episodes."""


class InMemory(Demonstrations):
    """Demonstrations whose rows a test may change."""

    def __init__(self, rows, specification=SPECIFICATION, steps=STEPS):
        self.rows, self.specification = rows, specification
        self.episode_ends = np.arange(1, len(rows["action"]) // steps + 1) * steps

    def read(self, name, start=0, stop=None):
        return self.rows[name][start:stop]

    def part(self, name, episode):
        return self.rows[name][slice(*self.bounds(episode))]


def make(noise=1e-3, seed=0):
    """Good demonstrations: noisy sensors, a gripper that opens and closes, a camera, a switch and a goal."""
    rng = np.random.default_rng(seed)
    count, time = EPISODES * STEPS, np.tile(np.linspace(0, 1, STEPS), EPISODES)
    phase = np.repeat(np.arange(EPISODES), STEPS)
    joints = np.stack([np.sin(3 * time + phase), 2.8 * np.cos(2 * time + phase), 1.5 * time], axis=1)
    angle = 1.2 * np.sin(2 * time + phase)
    orientation = np.stack([np.cos(angle), np.sin(angle), 0.1 * np.sin(time), np.zeros(count)], axis=1)
    orientation /= np.linalg.norm(orientation, axis=1, keepdims=True)
    opening = np.where((time > 0.3) & (time < 0.7), 0.0, 0.08)
    scene = rng.integers(30, 220, (12, 16, 3))
    camera = scene + np.round(20 * joints[:, :1, None, None]) + rng.normal(0, 2, (count, 12, 16, 3))
    return InMemory({
        "joints": (joints + noise * rng.normal(size=joints.shape)).astype("float32"),
        "orientation": orientation.astype("float32"),
        "camera": np.clip(camera, 0, 255).astype("uint8"),
        "touch": (opening < 0.01)[:, None],
        "goal": np.repeat(rng.normal(size=(EPISODES, 2)), STEPS, axis=0).astype("float32"),
        "action": np.stack([np.sin(3 * time + phase + 0.1), opening], axis=1).astype("float32"),
    })  # fmt: skip


GOAL = "goal[0, 1] is constant within every episode: a goal, or a sensor that is stuck"
"""What is said of the goal of good demonstrations, which is no fault."""


def texts(demonstrations):
    return [fault.text for fault in faults(demonstrations) if fault.share]


@pytest.mark.parametrize("noise", [0, 1e-4, 1e-2, 0.1])
def test_good_demonstrations_have_no_faults(noise):
    for seed in range(2):
        demonstrations = make(noise, seed)
        assert warnings(demonstrations) == ["orientation[3] is constant at 0", GOAL]
        assert worst(demonstrations) == ""


def test_coarse_encoders_and_slow_motion_are_no_fault():
    demonstrations = make(0)
    demonstrations.rows["joints"] = np.round(demonstrations.rows["joints"] / 0.02).astype("float32") * np.float32(0.02)
    assert texts(demonstrations) == []


def one_of(demonstrations, *words):
    """The one fault, which has all these words."""
    (fault,) = [fault for fault in faults(demonstrations) if fault.share]
    assert all(word in fault.text for word in words), fault.text
    return fault


@pytest.mark.parametrize("number", SHARES)
def test_angles_that_wrap_are_named(number):
    demonstrations = make()
    for episode in range(number):
        yaw = np.linspace(2, 4.5, STEPS) + 0.01 * np.sin(np.arange(STEPS))
        demonstrations.part("joints", episode)[:, 1] = (yaw + np.pi) % (2 * np.pi) - np.pi
    fault = one_of(
        demonstrations, f"joints[1] wraps round by a whole turn in {number} of 8 episodes", "sine and cosine"
    )
    assert fault.share == number / 8
    assert worst(demonstrations) == f"{fault.text} (see `recede inspect`)"
    assert [line for line in warnings(demonstrations) if "joints" in line] == [fault.text]


@pytest.mark.parametrize("number", SHARES)
def test_quaternions_that_change_their_signs_are_named(number):
    demonstrations = make()
    for episode in range(number):
        demonstrations.part("orientation", episode)[30:50] *= -1
    fault = one_of(demonstrations, "orientation[0] to orientation[3], a quaternion", f"in {number} of 8", "step 30 of")
    assert fault.share == number / 8


@pytest.mark.parametrize("number", SHARES)
def test_black_and_plain_images_are_named(number):
    for value, shade in ((0, "black"), (130, "of one colour")):
        demonstrations = make()
        for episode in range(number):
            rows = demonstrations.part("camera", episode)
            rows[:] = np.clip(value + np.random.default_rng(0).normal(0, 0.5, rows.shape), 0, 255)
        assert one_of(demonstrations, f"camera is {shade} in {number} of 8 episodes").share == number / 8


@pytest.mark.parametrize("number", SHARES)
def test_frozen_images_are_named(number):
    demonstrations = make()
    for episode in range(number):
        rows = demonstrations.part("camera", episode)
        rows[:] = rows[0]
    assert one_of(demonstrations, f"camera is frozen in {number} of 8 episodes").share == number / 8


def test_a_camera_may_show_the_same_while_nothing_moves():
    demonstrations = make(0)
    for name, rows in demonstrations.rows.items():
        if name != "goal":
            demonstrations.part(name, 0)[:] = rows[0]
    assert not [text for text in texts(demonstrations) if "camera" in text]


@pytest.mark.parametrize("every", [2, 3, 10])
@pytest.mark.parametrize("name", ["camera", "joints", "action"])
def test_sensors_and_cameras_that_are_slower_than_the_control_rate_are_named(name, every):
    demonstrations = make()
    rows = demonstrations.rows[name]
    rows[:] = rows[np.arange(len(rows)) // every * every]
    fault = one_of(demonstrations, f"{name} repeats its last", "rate")
    assert fault.share == pytest.approx(1 - 1 / every, abs=0.03)


def test_a_sensor_that_repeats_every_third_step_is_named():
    demonstrations = make()
    rows = demonstrations.rows["joints"]
    rows[2::3] = rows[1:-1:3][: len(rows[2::3])]
    assert one_of(demonstrations, "joints repeats its last value in").share == pytest.approx(1 / 3, abs=0.03)


def test_hands_may_take_a_moment_to_begin():
    demonstrations = make()
    for episode in range(len(demonstrations)):
        rows = demonstrations.part("action", episode)
        rows[:5] = rows[0]
        rows[20:61:10] = rows[19:60:10]
    assert not [text for text in texts(demonstrations) if "repeats its last" in text]


@pytest.mark.parametrize("number", [1, 2, 6])
def test_sensors_that_freeze_are_named(number):
    demonstrations = make()
    for episode in range(number):
        rows = demonstrations.part("joints", episode)
        rows[40:] = rows[39]
    fault = one_of(
        demonstrations, "joints is frozen in", f"in {number} of 8 episodes, the first at step 40 of episode 0"
    )
    assert fault.share == pytest.approx(number / 16, abs=0.01)


@pytest.mark.parametrize(("values", "words"), [
    (np.arange(EPISODES), "joints[1] is constant within every episode: a goal, or a sensor that is stuck"),
    (np.full(EPISODES, 0.5), "joints[1] is constant at 0.5"),
])  # fmt: skip
def test_sensors_that_are_stuck_in_every_episode_are_named_but_are_no_fault(values, words):
    demonstrations = make()
    demonstrations.rows["joints"][:, 1] = np.repeat(values, STEPS)
    assert words in warnings(demonstrations)
    assert texts(demonstrations) == []
    assert worst(demonstrations) == ""


def test_a_moving_sensor_is_not_stuck_though_it_rests_in_most_episodes():
    demonstrations = make()
    goal = demonstrations.part("goal", 5)
    goal[79] += 1e-3
    assert GOAL not in warnings(demonstrations)


@pytest.mark.parametrize("number", SHARES)
def test_idle_stretches_are_named(number):
    demonstrations = make(1e-4)
    for episode in range(number):
        for name in demonstrations.rows:
            rows = demonstrations.part(name, episode)
            rows[30:] = rows[30] if name != "camera" else rows[30:]
        demonstrations.part("joints", episode)[30:] += np.random.default_rng(0).normal(0, 1e-3, (50, 3))
    fault = one_of(demonstrations, "nothing moves for 2 s or longer", f"in {number} of 8 episodes", "cut")
    assert fault.share == pytest.approx(number / 16, rel=0.35)


@pytest.mark.parametrize("number", SHARES)
def test_dimensions_that_are_cut_off_are_named(number):
    demonstrations = make()
    for episode in range(number):
        rows = demonstrations.part("joints", episode)
        rows[:, 2] = np.minimum(rows[:, 2], 1.0)
    rows = demonstrations.rows["joints"][:, 2]
    if number < 8:  # the sensor of the others ends there as well, but is never held there
        rows[rows > 1.0] = 0.999 - 1e-3 * np.arange((rows > 1.0).sum()) / len(rows)
    one_of(demonstrations, "joints[2] is cut off at 1 in", f"in {number} of 8 episodes", "range")


@pytest.mark.parametrize(("limits", "is_fault"), [((), False), ((-2.0, 2.0), False), ((-2.0, 0.8), True)])
def test_a_command_that_stays_at_a_value_is_cut_off_at_its_limits_alone(limits, is_fault):
    demonstrations = make()
    action = demonstrations.rows["action"]
    action[:, 0] = np.minimum(action[:, 0], 0.8)
    action[:, 1] += np.random.default_rng(0).normal(0, 1e-3, len(action))  # otherwise the action is frozen at times
    if limits:
        low, high = limits
        stream = Stream("action", (2,), labels=("x", "opening"), low=(low, -1.0), high=(high, 1.0))
        demonstrations.specification = replace(demonstrations.specification, action=stream)
    if is_fault:
        one_of(demonstrations, "action.x is cut off at 0.8 in", "in 6 of 8 episodes", "range")
    else:
        assert texts(demonstrations) == []


@pytest.mark.parametrize(
    ("kind", "end", "is_fault"),
    [("gripper", 0.8, False), ("gripper", 0.7, True), ("cosine_sine", 1.0, False), ("cosine_sine", 0.8, True)],
)
def test_a_gripper_at_its_limit_and_a_cosine_at_1_are_not_cut_off(kind, end, is_fault):
    demonstrations = make()
    joints = demonstrations.rows["joints"]
    joints[:, :2] /= 1.2 if kind == "cosine_sine" else 1.0
    joints[:, 0] = np.minimum(joints[:, 0] * 1.3, end)
    limit = 0.8 if kind == "gripper" else 9.0
    stream = Stream("joints", (3,), units="rad", kinds=(kind, kind, "angle"), low=(-9.0,) * 3, high=(limit, 9.0, 9.0))
    others = demonstrations.specification.observations[1:]
    demonstrations.specification = replace(demonstrations.specification, observations=(stream, *others))
    if is_fault:
        one_of(demonstrations, f"joints[0] is cut off at {end:g} in", "range")
    else:
        assert texts(demonstrations) == []


@pytest.mark.parametrize(("gain", "words"), [(3.0, "at 255"), (-3.0, "at 0")])
def test_images_that_are_cut_off_are_named(gain, words):
    demonstrations = make()
    camera = demonstrations.rows["camera"].astype(float)
    demonstrations.rows["camera"] = np.clip(camera + 40 * gain, 0, 255).astype("uint8")
    fault = one_of(demonstrations, f"camera is cut off {words} in", "exposure")
    assert fault.share > 0.25


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_decimals_that_float32_loses_are_named(dtype):
    position = Stream("position", (1,), dtype, units="m", low=4_000_000, high=4_600_000)
    specification = Specification((position,), Stream("action", (1,)), 0.1)
    rng = np.random.default_rng(0)
    rows = {
        "position": position.cast(4_500_000 + 100 * rng.uniform(-1, 1, (160, 1))),
        "action": rng.normal(size=(160, 1)),
    }
    (text,) = warnings(InMemory(rows, specification))
    assert text.startswith("position[0] moves by ")
    assert text.endswith("steps of 0.5: subtract an offset in the data")
    near = {"position": rows["position"] - 4_500_000, "action": rows["action"]}
    local = Specification((Stream("position", (1,), dtype),), Stream("action", (1,)), 0.1)
    assert warnings(InMemory(near, local)) == []
