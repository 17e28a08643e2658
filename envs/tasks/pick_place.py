"""The built-in task: a gantry gripper carries a cube around a wall onto a marked target, by either side.

The wall blocks the straight path and is too tall to lift the cube over it. Both paths around it are equally long, so
demonstrations are multimodal, and the mean of the two paths hits the wall. The scene is `pick_place.xml`: x points from
the start side (x < 0) across the wall (x = 0), y along the wall, z up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..experts.pick_place import PickPlaceExpert
from ..table_streams import Things
from ..tabletop import CUBE_HALF, WITHDRAWN, Array, TableTask, cube_at, distance, plane, table_tasks
from ..task import Observation

TARGET_TOLERANCE = 0.03
"""Largest distance (m) from the target's centre at which the whole cube is on the mark (radius 0.06), at any yaw."""
WALL_CORNER = 0.13
"""|y| (m) at which the centre of the cube clears an end of the wall."""


def remaining_distance(cube: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]) -> Array:
    """Length (m) of the shortest path from `cube` (..., 2) to `target` (..., 2), around the wall if it is in between.

    >>> remaining_distance(np.array([[0.1, 0.0], [-0.2, 0.0]]), np.array([0.2, 0.0])).round(3)  # one goes round it
    array([0.1  , 0.477])
    """
    (x, y), (target_x, target_y) = plane(cube), plane(target)
    straight = np.hypot(target_x - x, target_y - y).astype(np.float64)
    is_across = x * target_x < 0
    if not np.count_nonzero(is_across):  # for speed alone, as in `is_solved`
        return straight
    crossing = y + (target_y - y) * abs(x) / (abs(x) + abs(target_x))
    (x, y), (target_x, target_y) = plane(cube.astype(np.float64)), plane(target.astype(np.float64))
    left = np.hypot(x, y - WALL_CORNER) + np.hypot(target_x, target_y - WALL_CORNER)
    right = np.hypot(x, y + WALL_CORNER) + np.hypot(target_x, target_y + WALL_CORNER)
    return np.where(is_across & (abs(crossing) < WALL_CORNER), np.minimum(left, right), straight)


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

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """Cube and gripper on the start side, the target behind the wall."""
        # Anywhere above the start side and at any opening, so that recovery from a missed grasp is demonstrated too.
        gripper = random.uniform((-0.24, -0.08, 0.056, -0.4, 0.0), (-0.12, 0.08, 0.085, 0.4, 0.08))
        # Within 35 degrees of the axes, so that the faces to grasp are unambiguous.
        x, y, yaw = random.uniform((-0.24, -0.05, -0.6), (-0.19, 0.05, 0.6))
        target = random.uniform((0.14, -0.03), (0.2, 0.03))
        return {"gripper": gripper, "cube": cube_at((x, y), yaw), "target": target}

    def remaining(self, state: Observation) -> Array:
        """The shortest path of the cube."""
        return remaining_distance(state["cube"][..., :2], state["target"])

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The cube rests on the mark, and the gripper has withdrawn."""
        cube = state["cube"]
        is_on_mark = distance(cube, state["target"]) <= TARGET_TOLERANCE
        if not np.count_nonzero(is_on_mark):
            return is_on_mark
        is_on_table = np.abs(cube[..., 2].astype(np.float64) - CUBE_HALF) < 0.003
        return is_on_mark & is_on_table & (state["gripper"][..., 2] >= WITHDRAWN) & self.rests(velocities)[..., 0]

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "carry the cube around the wall onto the mark"


PICK_PLACE, PICK_PLACE_IMAGE = table_tasks("pick_place", PickPlace, PickPlaceExpert)
