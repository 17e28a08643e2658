"""What lies between two readings of a sensor: control and the conversion of recordings must agree on it.

Shapes: n pairs of readings, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ANGLES = ("angle", "roll_pitch_yaw")
"""Kinds whose dimensions are angles modulo a turn, beside `euler_AAA_BBB`."""


@dataclass(frozen=True)
class Interpolation:
    """Floats linearly; angles and quaternions along the shorter way, so that two close readings stay close."""

    quaternions: tuple[int, ...] = ()
    """The first dimension of each."""
    angles: tuple[int, ...] = ()

    @classmethod
    def of(cls, kinds: Sequence[str]) -> Interpolation:
        """That of a vector whose dimensions have these kinds (`Stream.kinds`), or none.

        >>> Interpolation.of(["position", *["quaternion_wxyz"] * 4, "angle"])
        Interpolation(quaternions=(1,), angles=(5,))
        """
        quaternions = [index for index, kind in enumerate(kinds) if kind.startswith("quaternion")]
        angles = [index for index, kind in enumerate(kinds) if kind in ANGLES or kind.startswith("euler")]
        return cls(tuple(quaternions[::4]), tuple(angles))

    def between(self, before: NDArray[Any], after: NDArray[Any], share: NDArray[Any]) -> NDArray[Any]:
        """The values (n, D) a share (n, 1) of the way from one reading to the next (n, D), all of one dtype.

        A quaternion has the norm 1, unless both readings are the same.
        """
        target = after.copy() if self.quaternions else after
        for first in self.quaternions:  # q and -q are one rotation
            block = slice(first, first + 4)
            target[(before[:, block] * after[:, block]).sum(axis=1) < 0, block] *= -1
        values = (before + share * (target - before)).astype(after.dtype)
        for first in self.quaternions:
            block = slice(first, first + 4)
            _normalise(values[:, block], (before[:, block] != target[:, block]).any(axis=1))
        for index in self.angles:
            values[:, index] = _between_angles(before[:, index], after[:, index], share[:, 0])
        return values


def _normalise(values: NDArray[Any], rows: NDArray[np.bool_]) -> None:
    """Normalise those rows of quaternions (n, 4) in place."""
    norms = np.linalg.norm(values[rows].astype(np.float64), axis=1, keepdims=True)
    values[rows] = values[rows] / np.where(norms > 0, norms, 1)


def _between_angles(before: NDArray[Any], after: NDArray[Any], share: NDArray[Any]) -> NDArray[Any]:
    """Angles (n,) a share of the shorter way round, in the turn of the readings: from -pi on, or from 0 on."""
    turns = np.round((after - before) / (2 * math.pi))
    values = before + share * (after - 2 * math.pi * turns - before)
    least = np.where(np.maximum(before, after) > math.pi, 0.0, -math.pi)
    wrapped = values - 2 * math.pi * np.floor((values - least) / (2 * math.pi))
    return np.where(turns == 0, values, wrapped).astype(after.dtype)
