"""Representations: round trips, equivariance, and what cannot be learned so."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recede.policy.elements import TwoValued
from recede.policy.represent import Choices, represent
from recede.policy.rotations import from_matrix, to_matrix
from recede.specification import ROTATIONS, Specification, Stream, block_size
from scipy.spatial.transform import Rotation

ROWS, OBSERVED, STEPS = 5, 2, 12
KINDS = [*ROTATIONS, "euler_zyx_yxz"]
MODES = ("absolute", "relative", "difference")


def pose(name: str, kind: str, **options: Any) -> Stream:
    size = block_size(kind)
    labels = (*"xyz", *(f"turn{i}" for i in range(size)), "yaw", "opening")
    kinds = (*["position"] * 3, *[kind] * size, "angle", "gripper")
    low, high = (-1.0,) * (3 + size) + (-4.0, 0.0), (1.0,) * (3 + size) + (4.0, 0.08)
    return Stream(name, (5 + size,), labels=labels, kinds=kinds, low=low, high=high, **options)


def specification(kind: str, observed: str | None = None) -> Specification:
    """A hand that is observed and commanded, in rotations of these kinds, and a cube with a position of its own."""
    cube = Stream("cube", (3,), labels=tuple("xyz"), kinds="position")
    return Specification((cube, pose("hand", observed or kind)), pose("action", kind), 0.1)


def rows(kind: str, steps: int, seed: int) -> NDArray[np.float64]:
    """Poses (ROWS, steps, D) that move on by a little every step."""
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(rng.standard_normal((ROWS * steps, 3))).as_matrix().reshape(ROWS, steps, 3, 3)
    positions = np.cumsum(0.1 * rng.standard_normal((ROWS, steps, 3)), axis=1)
    angle = rng.uniform(-np.pi, np.pi, (ROWS, steps, 1))
    opening = rng.choice([0.0, 0.08], (ROWS, steps, 1))
    return np.concatenate([positions, from_matrix(kind, turns), angle, opening], axis=-1)


def close(kind: str, actual: Any, expected: Any, atol: float) -> None:
    """Equal poses: the same positions, matrices and turns."""
    size = block_size(kind)
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual[..., :3], expected[..., :3], atol=atol)
    turns = [to_matrix(kind, x[..., 3 : 3 + size]) for x in (actual, expected)]
    np.testing.assert_allclose(*turns, atol=atol)
    np.testing.assert_allclose(np.exp(1j * actual[..., -2]), np.exp(1j * expected[..., -2]), atol=atol)
    np.testing.assert_allclose(actual[..., -1], expected[..., -1], atol=atol)


@pytest.mark.parametrize(("mode", "kind", "angle"), [*product(MODES, KINDS, ["as_is", "cosine_sine"])])
def test_actions_come_back_from_every_representation_in_both_libraries(mode: str, kind: str, angle: str) -> None:
    observed = "quaternion_xyzw" if kind != "quaternion_xyzw" else "axis_angle"
    representation = represent(
        specification(kind, observed),
        Choices(mode=mode, angle=angle, gripper="binary" if kind in ROTATIONS else "as_is"),
    )
    action, observation = rows(kind, STEPS, 0), {"hand": rows(observed, OBSERVED, 1), "cube": np.zeros((ROWS, 2, 3))}
    learned = representation.action(action, observation)
    assert learned.shape == (ROWS, STEPS, representation.learned.action.size)
    close(kind, representation.data_action(learned, observation), action, 1e-6)
    single = {name: torch.from_numpy(values).float() for name, values in observation.items()}
    tensor = representation.action(torch.from_numpy(action).float(), single)
    np.testing.assert_allclose(tensor.numpy(), learned, atol=1e-4)
    close(kind, representation.data_action(tensor, single).numpy(), action, 1e-4)


@pytest.mark.parametrize("mode", ["relative", "difference"])
def test_a_moved_world_changes_no_relative_action(mode: str) -> None:
    kind = "quaternion_wxyz"
    representation = represent(specification(kind), Choices(mode=mode))
    turn, shift = Rotation.random(random_state=5).as_matrix(), np.array([3.0, -2, 7])

    def moved(poses: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = turn @ to_matrix(kind, poses[..., 3:7])
        position = poses[..., :3] @ turn.T + shift
        return np.concatenate([position, -from_matrix(kind, matrix), poses[..., 7:]], axis=-1)

    action, hand = rows(kind, STEPS, 0), rows(kind, OBSERVED, 1)
    learned = representation.action(action, {"hand": hand})
    np.testing.assert_allclose(representation.action(moved(action), {"hand": moved(hand)}), learned, atol=1e-12)
    close(kind, representation.data_action(learned, {"hand": moved(hand)}), moved(action), 1e-9)
    absolute = represent(specification(kind), Choices())
    there, here = (absolute.action(poses, {"hand": hand}) for poses in (moved(action), action))
    assert np.abs(there - here).max() > 1


def test_both_quaternions_of_a_rotation_are_learned_as_one() -> None:
    representation = represent(specification("quaternion_xyzw"), Choices())
    hand = rows("quaternion_xyzw", OBSERVED, 1)
    other = hand * np.array([1, 1, 1, -1, -1, -1, -1, 1, 1])
    learned = [representation.observation({"hand": poses})["hand"] for poses in (hand, other)]
    np.testing.assert_allclose(*learned, atol=1e-12)


def test_numbers_by_hand() -> None:
    stick = Stream("stick", (2,), labels=("x", "grip"), kinds=("position", "gripper"))
    action = replace(stick, name="action", low=(-1, 0), high=(1, 1))
    line = Specification((stick,), action, 0.1)
    chunk, observation = np.array([[[1.0, 0], [3, 1], [6, 1]]]), {"stick": np.array([[[0.5, 0.2], [1.0, 0.4]]])}

    def learned(**choices: Any) -> list[Any]:
        return represent(line, Choices(**choices)).action(chunk, observation)[0].tolist()

    assert learned(mode="relative") == [[0, 0], [2, 1], [5, 1]]
    assert learned(mode="difference") == [[0.5, 0], [2, 1], [3, 1]]
    assert learned(mode="relative", groups={"gripper": "relative"})[1] == [2, pytest.approx(0.6)]
    assert learned(mode="relative", groups={"x": "difference"}) == learned(mode="difference")
    assert learned(gripper="binary") == [[1, -1], [3, 1], [6, 1]]


def test_an_angle_goes_the_shorter_way_round() -> None:
    yaw = Stream("hand", (1,), labels=("yaw",), kinds="angle", low=0.0, high=2 * np.pi)
    turning = Specification((yaw,), replace(yaw, name="action"), 0.1)
    representation = represent(turning, Choices(mode="relative"))
    observation, action = {"hand": np.array([[[6.0]]])}, np.array([[[6.2], [0.1]]])
    learned = representation.action(action, observation)
    np.testing.assert_allclose(learned, [[[0.2], [0.1 + 2 * np.pi - 6]]])
    np.testing.assert_allclose(representation.data_action(learned, observation), action)


def test_a_binary_gripper_commands_only_its_limits() -> None:
    gripper = TwoValued(("gripper",), low=0.0, high=0.08)
    assert gripper.data(gripper.lift(np.array([0.0, 0.03, 0.05, 1.0]))).tolist() == [0, 0, 0.08, 0.08]
    assert gripper.data(np.array([-0.9, 0.2])).tolist() == [0, 0.08]


def test_streams_without_kinds_and_as_is_are_learned_as_they_are() -> None:
    plain = Specification((Stream("state", (3,)),), Stream("action", (2,)), 0.1)
    assert represent(plain, Choices()).is_plain
    assert represent(plain, Choices()).learned == plain
    assert represent(specification("axis_angle"), Choices(rotation="as_is")).is_plain


def test_the_learned_streams_name_their_dimensions() -> None:
    learned = represent(specification("axis_angle"), Choices(mode="relative", angle="cosine_sine")).learned
    assert learned.action.labels == (
        *("x", "y", "z", "turn0_xx", "turn0_xy", "turn0_xz", "turn0_yx", "turn0_yy", "turn0_yz"),
        *("cos_yaw", "sin_yaw", "opening"),
    )
    assert learned.action.kinds[3:11] == ("rotation_6d",) * 6 + ("cosine_sine",) * 2


def test_what_an_action_refers_to_is_named() -> None:
    representation = represent(specification("rotation_6d"), Choices(mode="relative", groups={"yaw": "absolute"}))
    assert representation.references() == [
        "relative: action.x, action.y, action.z, action.turn0, action.turn1, action.turn2, action.turn3, action.turn4, "
        "action.turn5 refer to hand"
    ]


UNKNOWN = Specification((Stream("state", (2,)),), Stream("action", (2,)), 0.1)
XY = Stream("hand", (2,), labels=("x", "y"), kinds="position")
PLANAR = Specification((XY,), replace(XY, name="action"), 0.1)
VELOCITY = Specification((XY,), replace(XY, name="action", hold="zero"), 0.1)
TWO = Specification((XY, replace(XY, name="cube")), replace(XY, name="action"), 0.1)
GOAL = Specification((Stream("state", (1,)), replace(XY, name="goal", context=True)), replace(XY, name="action"), 0.1)


@pytest.mark.parametrize(
    ("spec", "choices", "message"),
    [
        (UNKNOWN, {"mode": "relative"}, "got no kinds: declare Stream('action', ..., kinds=...)"),
        (UNKNOWN, {"groups": {"x": "relative"}}, "must name kinds or labels of the action, got 'x'"),
        (PLANAR, {"groups": {"z": "relative"}}, "got 'z': choose from 'position', 'x', 'y'"),
        (PLANAR, {"mode": "relative", "reference": ("hands",)}, "got 'hands': did you mean 'hand'?"),
        (PLANAR, {"reference": ("hand",)}, "is for actions that are relative or differences, got neither"),
        (VELOCITY, {"mode": "difference"}, "action.x is a velocity or a difference already"),
        (TWO, {"mode": "relative"}, "may refer to several observations, hand, cube: name those"),
        (GOAL, {"mode": "relative"}, "action.x is to be relative or a difference, but no observation says where it is"),
        (PLANAR, {"groups": {"x": "relatively"}}, "must be one of absolute, relative, difference, got 'relatively'"),
        (PLANAR, {"rotation": "7d"}, "rotation must be one of 6d, as_is, got '7d'"),
        (specification("axis_angle"), {"mode": "relative", "rotation": "as_is"}, "cannot be relative with policy.rep"),
        (
            Specification((XY,), Stream("action", (1,), kinds="gripper"), 0.1),
            {"mode": "relative"},
            "needs a position, an angle or a rotation in the action, got gripper",
        ),
        (
            Specification((XY,), Stream("action", (1,), kinds="gripper"), 0.1),
            {"gripper": "binary"},
            "needs the limits of action[0]",
        ),
    ],
)
def test_what_cannot_be_learned_so_is_refused_in_one_line(spec: Specification, choices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        represent(spec, Choices(**choices))
    assert "\n" not in str(refusal.value)


def test_a_named_reference_settles_which_observation_is_meant() -> None:
    representation = represent(TWO, Choices(mode="relative", reference=("cube",)))
    assert representation.reference_streams == ["cube"]
