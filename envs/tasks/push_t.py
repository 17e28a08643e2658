"""`push_t`: the closed fingers of the gantry gripper push a T-shaped block over the table onto a T-shaped mark."""

from __future__ import annotations

import numpy as np

from ..experts.push_t import PushTExpert
from ..table_streams import Things
from ..tabletop import WITHDRAWN, Array, TableTask, distance, draw_apart, table_tasks
from ..task import Observation

BLOCK_HALF = 0.0125
"""Half the height of the block (m)."""
POSITION_TOLERANCE = 0.01
"""Largest distance (m) of the block's centre of mass from that of the mark."""
YAW_TOLERANCE = np.deg2rad(8)
"""Largest difference (rad) between the yaw of the block and that of the mark."""
HEIGHT_TOLERANCE = 0.003
"""Largest difference (m) between the height of the block and that of one which lies flat."""
LEVER = 0.05
"""The way (m) that a turn by one radian counts: that of a point at this distance from the centre of mass."""


def turn(block: Array) -> Array:
    """How far (rad, >= 0) blocks (..., 5) are turned away from the mark: (...,)."""
    return np.abs(np.arctan2(block[..., 4].astype(np.float64), block[..., 3]))


class PushT(TableTask):
    """Push the T-shaped block onto the T-shaped mark, whose yaw is always 0, and withdraw.

    Success: the centre of mass of the block is within 1 cm of that of the mark, its yaw within 8 degrees, it rests on
    the table, and the gripper has withdrawn above it. The way that the score counts is the distance to the mark and
    5 cm for every radian of the turn. At a reset block and mark are at least 10 cm apart in the middle of the table,
    where the gripper reaches every side of them, and the block is turned in any way; the gripper is anywhere above
    them, with its fingers nearly closed.
    """

    scene = "push_t.xml"
    things = Things(blocks=("block",), marks={"target": 2})
    max_steps = 300

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """Block and mark in the middle of the table, the gripper anywhere above them."""
        (x, y), target = draw_apart(random, (-0.13, -0.1), (0.13, 0.1), gap=0.1)
        yaw = random.uniform(-np.pi, np.pi)
        gripper = random.uniform((-0.2, -0.14, 0.06, -0.2, 0.0), (0.2, 0.14, 0.085, 0.2, 0.01))
        return {"gripper": gripper, "block": np.array([x, y, BLOCK_HALF, np.cos(yaw), np.sin(yaw)]), "target": target}

    def remaining(self, state: Observation) -> Array:
        """The distance to the mark, and the turn."""
        return distance(state["block"], state["target"]).astype(np.float64) + LEVER * turn(state["block"])

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The block rests on the mark, turned like it, and the gripper has withdrawn."""
        block = state["block"]
        is_on_mark = (distance(block, state["target"]) <= POSITION_TOLERANCE) & (turn(block) <= YAW_TOLERANCE)
        is_flat = np.abs(block[..., 2] - BLOCK_HALF) < HEIGHT_TOLERANCE
        return is_on_mark & is_flat & (state["gripper"][..., 2] >= WITHDRAWN) & self.rests(velocities)[..., 0]

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "push the T onto the mark"


def phase(state: Observation) -> str:
    """Where the block is."""
    block = state["block"]
    if distance(block, state["target"]) > POSITION_TOLERANCE:
        return "off the mark"
    return "on the mark, turned" if turn(block) > YAW_TOLERANCE else "on the mark, not withdrawn"


PUSH_T, PUSH_T_IMAGE = table_tasks("push_t", PushT, PushTExpert, phase)
