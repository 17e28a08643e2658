"""Rotations agree with scipy's, in both libraries, and survive every way there and back."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recede.policy.rotations import from_matrix, to_matrix, wrapped
from recede.specification import ROTATIONS
from scipy.spatial.transform import Rotation

EULER = [f"euler_{''.join(axes)}_{''.join(product)}" for axes in permutations("xyz") for product in permutations("xyz")]
KINDS = [*ROTATIONS, *EULER]


def rotations(count: int = 200) -> NDArray[np.float64]:
    """Random matrices, and those at which formulas divide by zero: no turn, tiny turns, and half turns."""
    axes = np.concatenate([np.eye(3), -np.eye(3), np.random.default_rng(1).standard_normal((4, 3))])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turns = [0, 1e-9, 1e-5, 9e-4, 1.1e-3, np.pi - 1e-5, np.pi - 1e-9, np.pi]
    special = Rotation.from_rotvec([turn * axis for turn in turns for axis in axes]).as_matrix()
    return np.concatenate([Rotation.random(count, random_state=0).as_matrix(), special])


def by_scipy(kind: str, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    rotation = Rotation.from_matrix(matrix)
    if kind == "quaternion_wxyz":
        return rotation.as_quat(scalar_first=True)
    if kind == "quaternion_xyzw":
        return rotation.as_quat()
    if kind == "axis_angle":
        return rotation.as_rotvec()
    if kind == "rotation_matrix":
        return matrix.reshape(-1, 9)
    if kind == "rotation_6d":
        return np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1)
    if kind == "roll_pitch_yaw":
        return rotation.as_euler("xyz")  # about fixed axes, in this order
    _, axes, product = kind.split("_")
    angles = rotation.as_euler(product.upper())  # about axes that turn along
    return angles[:, [product.index(axis) for axis in axes]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Gimbal lock")
def test_every_kind_agrees_with_scipy_and_comes_back(kind: str) -> None:
    matrix = rotations()
    np.testing.assert_allclose(to_matrix(kind, by_scipy(kind, matrix)), matrix, atol=1e-7)
    np.testing.assert_allclose(to_matrix(kind, from_matrix(kind, matrix)), matrix, atol=1e-6)
    single = matrix.astype(np.float32)
    np.testing.assert_allclose(to_matrix(kind, from_matrix(kind, single)), single, atol=3e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_arrays_give_the_same(kind: str) -> None:
    matrix = rotations(20).astype(np.float32)
    numbers = from_matrix(kind, matrix)
    assert isinstance(from_matrix(kind, torch.from_numpy(matrix)), torch.Tensor)
    np.testing.assert_allclose(from_matrix(kind, torch.from_numpy(matrix)).numpy(), numbers, atol=2e-6)
    np.testing.assert_allclose(to_matrix(kind, torch.from_numpy(numbers)).numpy(), to_matrix(kind, numbers), atol=1e-6)


def test_canonical_numbers_are_those_of_scipy() -> None:
    matrix = Rotation.random(500, random_state=2).as_matrix()
    quaternion = Rotation.from_matrix(matrix).as_quat(canonical=True)
    np.testing.assert_allclose(from_matrix("quaternion_xyzw", matrix), quaternion, atol=1e-12)
    np.testing.assert_allclose(from_matrix("axis_angle", matrix), by_scipy("axis_angle", matrix), atol=1e-12)


def test_tiny_turns_are_as_exact_as_large_ones() -> None:
    vector = np.array([0.6, 0, -0.8]) * np.array([[0], [1e-9], [1e-5], [9e-4], [1.1e-3]])
    expected = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(to_matrix("axis_angle", vector), expected, atol=1e-14)
    np.testing.assert_allclose(from_matrix("axis_angle", expected), vector, atol=1e-14)


def test_both_signs_and_every_length_of_a_quaternion_are_one_rotation() -> None:
    quaternion = np.random.default_rng(3).standard_normal((100, 4))
    matrix = to_matrix("quaternion_wxyz", quaternion)
    np.testing.assert_allclose(to_matrix("quaternion_wxyz", -3 * quaternion), matrix, atol=1e-12)
    assert np.all(from_matrix("quaternion_wxyz", matrix)[:, 0] >= 0)
    half = to_matrix("quaternion_wxyz", np.array([[0.0, 0, -1, 0], [0, -0.6, 0.8, 0]]))
    np.testing.assert_allclose(from_matrix("quaternion_wxyz", half), [[0, 0, 1, 0], [0, 0.6, -0.8, 0]], atol=1e-12)


def test_any_six_numbers_become_a_rotation_and_its_own_6d_stays() -> None:
    numbers = np.random.default_rng(4).standard_normal((100, 6))
    matrix = to_matrix("rotation_6d", numbers)
    np.testing.assert_allclose(matrix @ matrix.swapaxes(1, 2), np.tile(np.eye(3), (100, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrix), 1)
    assert np.all((numbers[:, :3] * matrix[:, :, 0]).sum(1) > 0)
    np.testing.assert_allclose(to_matrix("rotation_6d", from_matrix("rotation_6d", matrix)), matrix, atol=1e-12)
    assert np.isfinite(to_matrix("rotation_6d", np.zeros((1, 6)))).all()


def test_gradients_are_finite_at_no_turn_and_at_half_a_turn() -> None:
    for kind in ("axis_angle", "quaternion_wxyz", "rotation_6d"):
        numbers = torch.from_numpy(from_matrix(kind, rotations(0))).requires_grad_()
        from_matrix("axis_angle", to_matrix(kind, numbers)).sum().backward()
        assert numbers.grad is not None
        assert numbers.grad.isfinite().all(), kind


def test_angles_wrap_about_their_middle() -> None:
    angles: Any = np.array([-np.pi, np.pi, 3.5, -7.0, 0.1])
    assert np.all((wrapped(angles) >= -np.pi) & (wrapped(angles) < np.pi))
    np.testing.assert_allclose(np.exp(1j * wrapped(angles, np.pi)), np.exp(1j * angles))
    assert np.all((wrapped(angles, np.pi) >= 0) & (wrapped(angles, np.pi) < 2 * np.pi))
