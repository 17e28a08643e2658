"""The experts of the gantry, driving an arm whose hand points down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..arm import Arm
from ..task import Expert, Observation

UPRIGHT = [0, 1, 2, 3, 6]
"""The dimensions of a pose that an expert of the gantry knows: x, y, z, yaw, opening."""


def by_pose(expert: Callable[[int], Expert]) -> Callable[[int], Expert]:
    """Makes experts for an arm that is commanded by poses, of those of the gantry."""
    return partial(ArmExpert, expert, False)


def by_joints(expert: Callable[[int], Expert]) -> Callable[[int], Expert]:
    """Makes experts for an arm that is commanded by its joints, of those of the gantry."""
    return partial(ArmExpert, expert, True)


class ArmExpert:
    """An expert of the gantry that drives an arm.

    expert: makes the expert of the gantry.
    is_joints: whether the action is the targets of the joints; else it is a pose of the hand.
    seed: of the episode.
    """

    def __init__(self, expert: Callable[[int], Expert], is_joints: bool, seed: int) -> None:
        self._expert, self._is_joints = expert(seed), is_joints

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (7,) for one `info["state"]`."""
        step = self._expert({**observation, "gripper": observation["gripper"][UPRIGHT]})
        if self._is_joints:
            return Arm.at(step)["joints"].astype(np.float32)
        pose = np.zeros(7, np.float32)
        pose[UPRIGHT] = step
        return pose
