"""The built-in task: a robot carries a cube around a wall onto a marked target, by either side.

The wall blocks the straight path and is too tall to lift the cube over it. Both paths around it are equally long, so
demonstrations are multimodal, and the mean of the two paths hits the wall. x points from
the start side (x < 0) across the wall (x = 0), y along the wall, z up.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arm import Arm, PoseArm
from ..experts.arm import by_joints, by_pose
from ..experts.pick_place import PickPlaceExpert
from ..manipulator import none_of
from ..table_streams import Things
from ..tabletop import CUBE_HALF, WITHDRAWN, Array, TableTask, cube_at, distance, holds, plane, table_tasks
from ..task import Observation

TARGET_TOLERANCE = 0.03
"""Largest distance (m) from the target's centre at which the whole cube is on the mark (radius 0.06), at any yaw."""
AT_WALL = 0.06
"""Largest |x| (m) at which the cube is at the wall: half of both, and of a finger."""
CLEARANCE = 0.03
"""How far (m) from an end of the wall the centre of the cube clears it."""


def remaining_distance(
    cube: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]], *, wall: float = 0.1
) -> Array:
    """Length (m) of the shortest path from `cube` (..., 2) to `target` (..., 2), around the wall if it is in between.

    wall: half its length (m).

    >>> remaining_distance(np.array([[0.1, 0.0], [-0.2, 0.0]]), np.array([0.2, 0.0])).round(3)  # one goes round it
    array([0.1  , 0.477])
    """
    corner = wall + CLEARANCE
    (x, y), (target_x, target_y) = plane(cube), plane(target)
    straight = np.hypot(target_x - x, target_y - y).astype(np.float64)
    is_across = x * target_x < 0
    if none_of(is_across):  # for speed alone, as in `is_solved`
        return straight
    crossing = y + (target_y - y) * abs(x) / (abs(x) + abs(target_x))
    (x, y), (target_x, target_y) = plane(cube.astype(np.float64)), plane(target.astype(np.float64))
    left = np.hypot(x, y - corner) + np.hypot(target_x, target_y - corner)
    right = np.hypot(x, y + corner) + np.hypot(target_x, target_y + corner)
    return np.where(is_across & (abs(crossing) < corner), np.minimum(left, right), straight)


class PickPlace(TableTask):
    """Carry the cube around the wall and release it on the target.

    Success: the centre of the cube is within 3 cm of the target's (the whole cube is on the mark), the cube rests on
    the table, and the gripper has withdrawn above it. The way that the score counts is the shortest path around the
    wall (`remaining_distance`).

    At a reset the cube and the gripper above it are on the start side of the wall and the target is behind it, all
    drawn from the seed.
    """

    scene = "pick_place.xml"
    things = Things(cubes=("cube",), marks={"target": 2})
    wall: ClassVar[float] = 0.1
    """Half the length of the wall (m)."""
    space: ClassVar[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
        "hand": ((-0.24, -0.08), (-0.12, 0.08)),
        "cube": ((-0.24, -0.05), (-0.19, 0.05)),
        "target": ((0.14, -0.03), (0.2, 0.03)),
    }
    """Where they may be at a reset (m)."""

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """Cube and gripper on the start side, the target behind the wall."""
        # Anywhere above the start side and at any opening, so that recovery from a missed grasp is demonstrated too.
        low, high = self.space["hand"]
        pose = random.uniform((*low, 0.056, -0.4, 0.0), (*high, 0.085, 0.4, 0.08))
        # Within 35 degrees of the axes, so that the faces to grasp are unambiguous.
        low, high = self.space["cube"]
        x, y, yaw = random.uniform((*low, -0.6), (*high, 0.6))
        target = random.uniform(*self.space["target"])
        return {**self.robot.at(pose), "cube": cube_at((x, y), yaw), "target": target}

    def remaining(self, state: Observation) -> Array:
        """The shortest path of the cube."""
        return remaining_distance(state["cube"][..., :2], state["target"], wall=self.wall)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The cube rests on the mark, and the gripper has withdrawn."""
        cube = state["cube"]
        is_on_mark = distance(cube, state["target"]) <= TARGET_TOLERANCE
        if none_of(is_on_mark):
            return is_on_mark
        is_on_table = np.abs(cube[..., 2].astype(np.float64) - CUBE_HALF) < 0.003
        return is_on_mark & is_on_table & (state["gripper"][..., 2] >= WITHDRAWN) & self.rests(velocities)[..., 0]

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "carry the cube around the wall onto the mark"


class PickPlaceArm(PickPlace):
    """`PickPlace` with an arm that is commanded by poses of its hand, and a wall half as long."""

    scene = "pick_place_arm.xml"
    robot = PoseArm
    things = replace(PickPlace.things, highest=0.12)
    wall = 0.05
    space: ClassVar[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
        "hand": ((-0.11, -0.06), (-0.07, 0.06)),
        "cube": ((-0.11, -0.03), (-0.08, 0.03)),
        "target": ((0.07, -0.02), (0.1, 0.02)),
    }


class PickPlaceArmJoints(PickPlaceArm):
    """`PickPlaceArm` with targets of the joints."""

    robot = Arm


def phase(state: Observation, *, wall: float = PickPlace.wall, at_wall: float = AT_WALL) -> str:
    """What the cube is doing; wall: half the length of the wall (m), at_wall: the largest |x| (m) of a cube there."""
    cube = state["cube"]
    if distance(cube, state["target"]) <= TARGET_TOLERANCE:
        return "on the mark, not released"
    if abs(cube[0]) < at_wall and abs(cube[1]) < wall + CLEARANCE:
        return "at the wall"
    return "carrying" if holds(state["gripper"], cube) else "before the grasp"


_ARM_EXPERT = partial(PickPlaceExpert, wall=PickPlaceArm.wall, fork=0.095)
_ARM_PHASE = partial(phase, wall=PickPlaceArm.wall, at_wall=0.04)  # its ways are nearer to the wall

PICK_PLACE, PICK_PLACE_IMAGE = table_tasks("pick_place", PickPlace, PickPlaceExpert, phase)
PICK_PLACE_ARM, PICK_PLACE_ARM_IMAGE = table_tasks("pick_place_arm", PickPlaceArm, by_pose(_ARM_EXPERT), _ARM_PHASE)
PICK_PLACE_ARM_JOINTS, PICK_PLACE_ARM_JOINTS_IMAGE = table_tasks(
    "pick_place_arm_joints", PickPlaceArmJoints, by_joints(_ARM_EXPERT), _ARM_PHASE
)
