"""`peg_insertion`: the gantry gripper puts a square peg into a square hole that is 1 mm wider, and withdraws."""

from __future__ import annotations

import numpy as np

from ..experts.peg_insertion import PegInsertionExpert
from ..table_streams import Things
from ..tabletop import WITHDRAWN, Array, TableTask, cube_at, distance, holds, table_tasks
from ..task import Observation

PEG_HALF = 0.04
"""Half the height of the peg (m), which is 0.04 wide."""
DEPTH_TOLERANCE = 0.002
"""Largest height (m) of the lower end of the peg above the table, to which the hole goes down by 0.03."""
HOLE_TOLERANCE = 0.003
"""Largest distance (m) between the axes of the peg and of the hole; in the hole they are within 0.0007."""


class PegInsertion(TableTask):
    """Put the peg into the hole and withdraw.

    The hole is 1 mm wider than the peg, so there is half a millimetre on each side of it; its yaw is always 0.

    Success: the axis of the peg is within 3 mm of that of the hole, its lower end is 2 mm above the table at most, so
    28 of 30 mm are in the hole, it is at rest, and the gripper has withdrawn above it. The way that the score counts is
    the straight one of the peg to its place. At a reset the peg stands on the near side, turned in any way, and the
    hole is on the far side.
    """

    scene = "peg_insertion.xml"
    things = Things(cubes=("peg",), marks={"hole": 2}, highest=0.125)

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """The peg and the gripper above it on the near side, the hole on the far side."""
        x, y, yaw = random.uniform((-0.2, -0.13, -0.78), (-0.08, 0.13, 0.78))
        hole = random.uniform((0.06, -0.13), (0.18, 0.13))
        gripper = random.uniform((-0.2, -0.13, 0.095, -0.4, 0.0), (-0.08, 0.13, 0.115, 0.4, 0.08))
        peg = cube_at((x, y), yaw)
        peg[2] = PEG_HALF
        return {"gripper": gripper, "peg": peg, "hole": hole}

    def remaining(self, state: Observation) -> Array:
        """The straight way of the peg to its place in the hole."""
        return np.hypot(distance(state["peg"], state["hole"]), state["peg"][..., 2] - PEG_HALF).astype(np.float64)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The peg rests in the hole, and the gripper has withdrawn."""
        is_in_hole = distance(state["peg"], state["hole"]) <= HOLE_TOLERANCE
        is_deep = np.abs(state["peg"][..., 2] - PEG_HALF) <= DEPTH_TOLERANCE
        is_withdrawn = state["gripper"][..., 2] >= WITHDRAWN + PEG_HALF
        return is_in_hole & is_deep & is_withdrawn & self.rests(velocities)[..., 0]

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "put the peg into the hole"


def phase(state: Observation) -> str:
    """What the peg is doing."""
    peg, gap = state["peg"], distance(state["peg"], state["hole"])
    if gap <= HOLE_TOLERANCE and abs(peg[2] - PEG_HALF) <= DEPTH_TOLERANCE:
        return "in the hole, not released"
    if holds(state["gripper"], peg):
        return "above the hole" if gap <= 2 * HOLE_TOLERANCE else "carrying"
    return "before the grasp"


PEG_INSERTION, PEG_INSERTION_IMAGE = table_tasks("peg_insertion", PegInsertion, PegInsertionExpert, phase)
