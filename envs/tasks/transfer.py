"""`transfer`: the right one of two arms takes a cube from the table and hands it over to the left one in the air."""

from __future__ import annotations

import numpy as np

from ..arm import TwoArms
from ..experts.transfer import TransferExpert
from ..table_streams import Things
from ..tabletop import Array, TableTask, cube_at, holds, table_tasks
from ..task import Observation

HELD = 0.02
"""Largest distance (m) between the centre of the cube and the point between the fingertips that hold it."""
GRIPPED = 0.045
"""Largest opening (m) of fingers that hold the cube, which is 0.04 m wide."""
RAISED = 0.08
"""Smallest height (m) of the centre of a cube that was handed over."""
AWAY = 0.08
"""Smallest distance (m) of the right hand from a cube that it has let go."""


class Transfer(TableTask):
    """Hand the cube over from the right arm to the left one.

    Success: the centre of the cube is within 20 mm of the point between the left fingertips, which are 45 mm apart at
    most, it is 80 mm or more above the table and at rest, and the point between the right fingertips is 80 mm or more
    away from it. The way that the score counts is that of the left hand to the cube, and that of the cube up to 80 mm.
    At a reset the cube is on the side of the right arm, where the left one does not reach, turned by up to 35 degrees;
    the right hand is above that side, and the left hand above its own.
    """

    scene = "transfer.xml"
    robot = TwoArms
    things = Things(cubes=("cube",))

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """The cube and the right hand on the right side, the left hand on the left side."""
        left = random.uniform((-0.05, 0.09, 0.12, -0.4, 0.0), (0.05, 0.15, 0.18, 0.4, 0.08))
        right = random.uniform((-0.08, -0.19, 0.08, -0.4, 0.0), (0.08, -0.11, 0.14, 0.4, 0.08))
        x, y, yaw = random.uniform((-0.09, -0.2, -0.6), (0.09, -0.15, 0.6))
        return {**self.robot.at([left, right]), "cube": cube_at((x, y), yaw)}

    def remaining(self, state: Observation) -> Array:
        """The way of the left hand to the cube, and of the cube up."""
        cube, hand = (state[name][..., :3].astype(np.float64) for name in ("cube", "left_gripper"))
        return np.linalg.norm(hand - cube, axis=-1) + np.maximum(RAISED - cube[..., 2], 0.0)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The left hand alone holds the cube in the air."""
        cube, left, right = (state[name] for name in ("cube", "left_gripper", "right_gripper"))
        gaps = [np.linalg.norm((hand - cube)[..., :3], axis=-1) for hand in (left[..., :5], right[..., :5])]
        is_held = (gaps[0] <= HELD) & (left[..., 6] <= GRIPPED)
        is_handed_over = is_held & (gaps[1] >= AWAY) & (cube[..., 2] >= RAISED)
        return is_handed_over & self.rests(velocities)[..., 0]

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "hand the cube over to the left arm"


def phase(state: Observation) -> str:
    """Which hand the cube is in."""
    in_left, in_right = (holds(state[name], state["cube"]) for name in ("left_gripper", "right_gripper"))
    if in_left:
        return "in both hands" if in_right else "in the left hand, not withdrawn"
    return "carrying" if in_right else "before the grasp"


TRANSFER, TRANSFER_IMAGE = table_tasks(  # without a mirror: the right arm gives
    "transfer", Transfer, TransferExpert, phase, has_mirror=False
)
