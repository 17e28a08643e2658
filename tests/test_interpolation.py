"""Between two readings, rotations take the shorter way, in control as in conversions."""

import numpy as np
import pytest
from recede.control.alignment import Alignment
from recede.interpolation import Interpolation
from recede.robots.interface import Reading
from recede.specification import Specification, Stream
from scipy.spatial.transform import Rotation, Slerp

RANDOM = np.random.default_rng(0)
PAIRS = 500


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_lie_on_the_line(dtype):
    before, after = RANDOM.normal(size=(2, PAIRS, 3)).astype(dtype)
    share = RANDOM.uniform(size=(PAIRS, 1)).astype(dtype)
    values = Interpolation().between(before, after, share)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, (1 - share) * before + share * after, atol=1e-6)


def test_angles_go_the_shorter_way_and_stay_in_their_turn():
    before, way, share = RANDOM.uniform([[-np.pi], [-3], [0]], [[np.pi], [3], [1]], (3, PAIRS))
    after = np.angle(np.exp(1j * (before + way)))
    pair = (np.column_stack([2 * before, angle]) for angle in (before, after))
    values = Interpolation.of(["number", "angle"]).between(*pair, share[:, None])[:, 1]
    np.testing.assert_allclose(np.exp(1j * values), np.exp(1j * (before + share * way)), atol=1e-12)
    assert (np.abs(values) <= np.pi + 1e-12).all()


@pytest.mark.parametrize("kind", ["quaternion_wxyz", "quaternion_xyzw"])
def test_quaternions_have_a_rotation_between_them_whatever_their_signs(kind):
    before = Rotation.random(PAIRS, rng=RANDOM)
    after = before * Rotation.from_rotvec(RANDOM.uniform(-0.3, 0.3, (PAIRS, 3)))
    share = RANDOM.uniform(size=(PAIRS, 1))
    signs = RANDOM.choice([-1, 1], (2, PAIRS, 1))
    pair = signs * np.stack([rotation.as_quat(scalar_first="wxyz" in kind) for rotation in (before, after)])
    values = Interpolation.of([kind] * 4).between(*pair, share)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-12)
    between = Rotation.from_quat(values, scalar_first="wxyz" in kind)
    for one, other, at, value in zip(before, after, share[:, 0], between, strict=True):
        expected = Slerp([0, 1], Rotation.concatenate([one, other]))(at)
        assert (value * expected.inv()).magnitude() < 2e-3  # a straight line is not quite the arc


def test_a_robot_is_observed_as_its_kinds_say():
    stream = Stream("arm", (5,), kinds=("angle", *["quaternion_xyzw"] * 4))
    alignment = Alignment(Specification((stream,), Stream("action", (1,)), control_dt=0.1))
    readings = np.array([[3.1, 0, 0, 0, 1], [-3.1, 0, 0, 0, -1]], np.float32)
    for moment, reading in enumerate(readings):
        alignment.add({"arm": Reading(reading, moment)}, 9.0)
    angle, *rotation = alignment.at(0.5)["arm"]
    assert abs(angle) == pytest.approx(np.pi)
    assert rotation == pytest.approx([0, 0, 0, 1])
