"""What moves the things on a table: the streams, joints and controls of a robot of a table task.

`Gantry` (gantry.py) and `Arm` (arm.py) are the manipulators. Their functions take arrays with any leading axes (...),
so they read and command one world or many at once.

Shapes: Da size of the action, Du number of actuators, T actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Stream
from .physics import position_indices, velocity_indices

Array = NDArray[Any]

PERIOD = 0.1
"""A control step of the table tasks (s)."""


class Manipulator:
    """A robot in a model of MuJoCo. A subclass fills the class attributes and the methods that raise.

    model: the model of the scene that holds the robot.
    """

    observations: ClassVar[tuple[Stream, ...]]
    """The streams of the robot. A state must hold the first; the others follow from it."""
    position: ClassVar[str]
    """The one of `observations` that holds the position in the units of the action."""
    hands: ClassVar[Mapping[str, str]]
    """The one of `observations` that begins with x, y, z of a hand (m) -> the body of the hand."""
    cameras: ClassVar[Mapping[str, str]] = {"wrist": "wrist"}
    """Stream -> the camera on the robot whose images it holds."""
    joints: ClassVar[tuple[str, ...]]
    """All joints of the robot."""

    def __init__(self, model: Any) -> None:
        self._place, self._speeds = position_indices(model, self.joints), velocity_indices(model, self.joints)

    @classmethod
    def action(cls, highest: float) -> Stream:
        """The action of a task; highest: the highest position of a hand (m), where the action is one."""
        raise NotImplementedError

    @classmethod
    def at(cls, pose: ArrayLike) -> dict[str, Array]:
        """The first stream with the hand at x, y, z, yaw, opening (5,) in m and rad, pointing down."""
        raise NotImplementedError

    def read(self, positions: Array) -> dict[str, Array]:
        """The streams of `observations`, from the positions (..., nq) of the model."""
        raise NotImplementedError

    def set(self, data: Any, state: Mapping[str, Array]) -> None:
        """Put the robot where `state` has it, and command it to stay."""
        raise NotImplementedError

    def controls(self, positions: Array, actions: Array) -> Array:
        """The controls (..., Du) that actions (..., Da) within their limits ask for at positions (..., nq)."""
        raise NotImplementedError

    def points(self, actions: Array) -> Array:
        """Where actions (T, Da) bring the hand, the first of them if there are two: (T, 3) in m."""
        raise NotImplementedError

    def speed(self, state: Mapping[str, Array], velocities: Array) -> Array:
        """The speed (m/s) of the hand in states with velocities (..., nv): (...,)."""
        raise NotImplementedError


def limited(values: ArrayLike, low: Array, high: Array) -> Array:
    """The values within the limits."""
    return np.minimum(np.maximum(values, low), high)


def none_of(flags: Any) -> bool:
    """Whether no flag is true, to save work for arrays; never of a device, whose answer would be waited for."""
    return isinstance(flags, np.ndarray | np.generic) and not np.count_nonzero(flags)
