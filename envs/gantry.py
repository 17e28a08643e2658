"""The gantry gripper: it moves along x, y and z and turns about z, and so does its action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..specification import Stream
from .manipulator import Array, Manipulator

DIMENSIONS: dict[str, Any] = {
    "units": ("m", "m", "m", "rad", "m"),
    "labels": ("x", "y", "z", "yaw", "opening"),
    "kinds": ("position", "position", "position", "angle", "gripper"),
}


class Gantry(Manipulator):
    """The gantry gripper of `gantry.xml`.

    `gripper` is the point between the fingertips, their yaw, and the distance between them. The action is the gripper
    state to move to.
    """

    observations = (
        Stream("gripper", (5,), **DIMENSIONS, low=(-0.3, -0.3, -0.05, -1.5, -0.02), high=(0.3, 0.3, 0.2, 1.5, 0.1)),
    )
    position = "gripper"
    hands: ClassVar[Mapping[str, str]] = {"gripper": "hand"}
    joints = ("x", "y", "z", "yaw", "left_finger", "right_finger")

    @classmethod
    def action(cls, highest: float) -> Stream:
        """See `Manipulator.action`."""
        low, high = (-0.26, -0.22, 0.016, -1.2, 0), (0.26, 0.22, highest, 1.2, 0.08)
        return Stream("action", (5,), **DIMENSIONS, low=low, high=high)

    @classmethod
    def at(cls, pose: ArrayLike) -> dict[str, Array]:
        """See `Manipulator.at`."""
        return {"gripper": np.asarray(pose)}

    def read(self, positions: Array) -> dict[str, Array]:
        """See `Manipulator.read`."""
        axes = positions[..., self._place]
        return {"gripper": np.concatenate([axes[..., :4], axes[..., 4:5] + axes[..., 5:]], axis=-1)}

    def set(self, data: Any, state: Mapping[str, Array]) -> None:
        """See `Manipulator.set`."""
        gripper = state["gripper"]
        data.qpos[self._place] = [*gripper[:4], gripper[4] / 2, gripper[4] / 2]
        data.ctrl[:] = gripper

    def controls(self, positions: Array, actions: Array) -> Array:
        """See `Manipulator.controls`."""
        return actions

    def points(self, actions: Array) -> Array:
        """See `Manipulator.points`."""
        return actions[:, :3]

    def speed(self, state: Mapping[str, Array], velocities: Array) -> Array:
        """See `Manipulator.speed`."""
        return np.linalg.norm(velocities[..., self._speeds[:3]], axis=-1)
