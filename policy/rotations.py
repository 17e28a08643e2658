"""Rotations as matrices, quaternions, axis-angles, Euler angles and 6D, for tensors and for arrays of numpy.

`to_matrix` and `from_matrix` take the kinds of `Stream.kinds`. A matrix turns column vectors, and maps the frame of
what is turned to the frame of reference. Nothing loads torch.

Shapes: ... any leading axes; every kind has its numbers in the last axis, and a matrix is (..., 3, 3).
"""

from __future__ import annotations

import math
from typing import Any

from .denoising.guidance import library

EULER = {"roll_pitch_yaw": "euler_xyz_zyx"}
"""Names of Euler angles -> their axes."""

SMALL = 1e-3
"""Below this angle (rad), sine and cosine are the first terms of their series."""


def to_matrix(kind: str, x: Any) -> Any:
    """Rotations (..., n) of a kind -> (..., 3, 3).

    Quaternions need no unit length, and a quaternion of zeros is no rotation. 6D becomes the nearest frame by
    Gram-Schmidt (Zhou et al. 2019, eq. 15).
    """
    if kind == "quaternion_xyzw":
        return _of_quaternion(_parts(x, 3, 0, 1, 2))
    if kind == "quaternion_wxyz":
        return _of_quaternion(x)
    if kind == "axis_angle":
        return _of_axis_angle(x)
    if kind == "rotation_matrix":
        return x.reshape(*x.shape[:-1], 3, 3)
    if kind == "rotation_6d":
        return _of_six(x)
    axes, order = _axes(kind)
    first, second, third = (_about(axis, x[..., axes.index(axis)]) for axis in order)
    return product(product(first, second), third)


def from_matrix(kind: str, matrix: Any) -> Any:
    """Rotations (..., 3, 3) -> (..., n) of a kind; the inverse of `to_matrix`.

    Quaternions have w >= 0, and where w is 0 their first number that is not 0 is positive. The angle of an axis-angle
    lies in [0, pi]. The second Euler angle lies within a quarter turn; at a quarter turn, the third one is 0.
    """
    if kind == "quaternion_xyzw":
        return _parts(_to_quaternion(matrix), 1, 2, 3, 0)
    if kind == "quaternion_wxyz":
        return _to_quaternion(matrix)
    if kind == "axis_angle":
        return _to_axis_angle(matrix)
    if kind == "rotation_matrix":
        return matrix.reshape(*matrix.shape[:-2], 9)
    if kind == "rotation_6d":
        return library(matrix).concat([matrix[..., 0], matrix[..., 1]], -1)
    axes, order = _axes(kind)
    angles = _to_euler(order, matrix)
    return _stack([angles[order.index(axis)] for axis in axes])


def product(left: Any, right: Any) -> Any:
    """The matrix product (..., n, m) of (..., n, 3) and (..., 3, m), number by number: autocast would round `@`."""
    return (left[..., :, :, None] * right[..., None, :, :]).sum(-2)


def transposed(matrix: Any) -> Any:
    """The inverse rotations (..., 3, 3)."""
    return matrix.swapaxes(-1, -2)


def wrapped(angle: Any, middle: Any = 0.0) -> Any:
    """Angles (rad) within half a turn of `middle`, which is included below and not above."""
    lib, turn = library(angle), 2 * math.pi
    return angle - turn * lib.floor((angle - middle + math.pi) / turn)


def _axes(kind: str) -> tuple[str, str]:
    """The axes of the numbers of Euler angles, and those of the product that is the matrix."""
    _, axes, order = EULER.get(kind, kind).split("_")
    return axes, order


def _stack(parts: list[Any]) -> Any:
    """Numbers (...) each -> (..., n)."""
    return library(parts[0]).stack(parts, -1)


def _parts(x: Any, *places: int) -> Any:
    return _stack([x[..., place] for place in places])


def _matrix(*numbers: Any) -> Any:
    """Nine numbers (...) each, row after row -> (..., 3, 3)."""
    stack = _stack(list(numbers))
    return stack.reshape(*stack.shape[:-1], 3, 3)


def _about(axis: str, angle: Any) -> Any:
    """The rotations (..., 3, 3) by angles (...) about an axis."""
    lib = library(angle)
    sine, cosine, zero, one = lib.sin(angle), lib.cos(angle), angle * 0, angle * 0 + 1
    rows = {
        "x": (one, zero, zero, zero, cosine, -sine, zero, sine, cosine),
        "y": (cosine, zero, sine, zero, one, zero, -sine, zero, cosine),
        "z": (cosine, -sine, zero, sine, cosine, zero, zero, zero, one),
    }
    return _matrix(*rows[axis])


def _to_euler(order: str, matrix: Any) -> list[Any]:
    """The angles about the axes of a product of three different axes."""
    lib, (i, j, k) = library(matrix), ("xyz".index(axis) for axis in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    sine = (sign * matrix[..., i, k]).clip(-1.0, 1.0)
    cosine = lib.sqrt(matrix[..., i, i] ** 2 + matrix[..., i, j] ** 2)
    is_locked = cosine < 1e-6
    first = lib.where(
        is_locked,
        lib.arctan2(sign * matrix[..., k, j], matrix[..., j, j]),
        lib.arctan2(-sign * matrix[..., j, k], matrix[..., k, k]),
    )
    third = lib.where(is_locked, 0 * sine, lib.arctan2(-sign * matrix[..., i, j], matrix[..., i, i]))
    return [first, lib.arctan2(sine, cosine), third]


def _unit(x: Any) -> Any:
    """Vectors (..., n) of length 1; zeros stay."""
    return x / _length(x).clip(1e-12)


def _length(x: Any) -> Any:
    return library(x).sqrt((x * x).sum(-1))[..., None]


def _of_six(x: Any) -> Any:
    first = _unit(x[..., :3])
    second = _unit(x[..., 3:] - (first * x[..., 3:]).sum(-1)[..., None] * first)
    (a, b, c), (d, e, f) = ([vector[..., place] for place in range(3)] for vector in (first, second))
    return _matrix(a, d, b * f - c * e, b, e, c * d - a * f, c, f, a * e - b * d)


def _of_quaternion(x: Any) -> Any:
    unit = _unit(x)
    w, x, y, z = (unit[..., place] for place in range(4))
    return _matrix(
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


def _to_quaternion(matrix: Any) -> Any:
    """Of the four formulas that divide by one of the four numbers, the one of the largest number (Shepperd 1978)."""
    lib = library(matrix)
    m = [[matrix[..., row, column] for column in range(3)] for row in range(3)]
    turned = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]]
    added = [m[1][2] + m[2][1], m[0][2] + m[2][0], m[0][1] + m[1][0]]
    squares = [
        1 + m[0][0] + m[1][1] + m[2][2],
        *(1 + m[i][i] - m[j][j] - m[k][k] for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1))),
    ]
    rows = [
        [squares[0], *turned],
        [turned[0], squares[1], added[2], added[1]],
        [turned[1], added[2], squares[2], added[0]],
        [turned[2], added[1], added[0], squares[3]],
    ]
    best, largest = _stack(rows[0]), squares[0]
    for row, square in zip(rows[1:], squares[1:], strict=True):
        best = lib.where((square > largest)[..., None], _stack(row), best)
        largest = lib.where(square > largest, square, largest)
    return _canonical(_unit(best))


def _canonical(x: Any) -> Any:
    """Of a quaternion (..., 4), w first, and its negative, which is the same rotation, the one of positive sign."""
    lib = library(x)
    sign = x[..., 3]
    for place in (2, 1, 0):
        sign = lib.where(abs(x[..., place]) > 1e-7, x[..., place], sign)
    return lib.where((sign < 0)[..., None], -x, x)


def _of_axis_angle(x: Any) -> Any:
    lib, square = library(x), (x * x).sum(-1)
    is_small = square < SMALL**2
    angle = lib.sqrt(lib.where(is_small, square * 0 + 1, square))
    a = lib.where(is_small, 1 - square / 6, lib.sin(angle) / angle)
    b = lib.where(is_small, 0.5 - square / 24, 2 * (lib.sin(angle / 2) / angle) ** 2)
    u, v, w = (x[..., place] for place in range(3))
    return _matrix(
        *(1 - b * (v * v + w * w), b * u * v - a * w, b * u * w + a * v),
        *(b * u * v + a * w, 1 - b * (u * u + w * w), b * v * w - a * u),
        *(b * u * w - a * v, b * v * w + a * u, 1 - b * (u * u + v * v)),
    )


def _to_axis_angle(matrix: Any) -> Any:
    quaternion = _to_quaternion(matrix)
    lib, w, vector = library(matrix), quaternion[..., :1], quaternion[..., 1:]
    square = (vector * vector).sum(-1)[..., None]
    is_small = square < SMALL**2 / 4
    sine = lib.sqrt(lib.where(is_small, square * 0 + 1, square))
    factor = lib.where(is_small, 2 + square / 3, 2 * lib.arctan2(sine, w) / sine)
    return factor * vector
