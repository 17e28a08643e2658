"""`stack`: the gantry gripper puts an orange cube onto a blue one and withdraws."""

from __future__ import annotations

import numpy as np

from ..experts.stack import StackExpert
from ..table_streams import Things
from ..tabletop import CUBE_HALF, WITHDRAWN, Array, TableTask, cube_at, distance, draw_apart, holds, table_tasks
from ..task import Observation

OVERHANG = 0.015
"""Largest distance (m) between the axes of the cubes; a cube on the edge falls at 0.02."""
HEIGHT_TOLERANCE = 0.003
"""Largest difference (m) between the height of a cube and that of one which lies flat."""


class Stack(TableTask):
    """Put the orange cube (`cube`) onto the blue one (`base`) and withdraw.

    Success: the axes of the cubes are within 1.5 cm of each other, the base stands on the table and the cube on the
    base (within 3 mm), both at rest, and the gripper is 4 cm higher than a withdrawal from the table needs. The way
    that the score counts is that of the cube to its place. At a reset cubes and gripper are anywhere, at least 11 cm
    apart, and the cubes are turned in any way.
    """

    scene = "stack.xml"
    things = Things(
        cubes=(
            "cube",
            "base",
        ),
        highest=0.11,
    )
    max_steps = 150

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """The cubes anywhere on the table, the gripper anywhere above them."""
        places = draw_apart(random, (-0.2, -0.14), (0.2, 0.14), gap=0.11)
        cube, base = (cube_at(place, yaw) for place, yaw in zip(places, random.uniform(-0.78, 0.78, 2), strict=True))
        gripper = random.uniform((-0.2, -0.14, 0.07, -0.4, 0.0), (0.2, 0.14, 0.1, 0.4, 0.08))
        return {"gripper": gripper, "cube": cube, "base": base}

    def remaining(self, state: Observation) -> Array:
        """The straight way of the cube to its place on the base."""
        gap = (state["cube"] - state["base"])[..., :3].astype(np.float64) - (0, 0, 2 * CUBE_HALF)
        return np.linalg.norm(gap, axis=-1)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The cube rests on the base, and the gripper has withdrawn."""
        cube, base, gripper = (state[name] for name in ("cube", "base", "gripper"))
        is_above = distance(cube, base) <= OVERHANG
        is_flat = np.abs(base[..., 2] - CUBE_HALF) < HEIGHT_TOLERANCE
        is_on_base = np.abs(cube[..., 2] - base[..., 2] - 2 * CUBE_HALF) < HEIGHT_TOLERANCE
        is_withdrawn = gripper[..., 2] >= WITHDRAWN + 2 * CUBE_HALF
        return is_above & is_flat & is_on_base & is_withdrawn & self.rests(velocities).all(-1)

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "put the orange cube onto the blue cube"


def phase(state: Observation) -> str:
    """What the orange cube is doing."""
    cube, base = state["cube"], state["base"]
    if distance(cube, base) <= OVERHANG and abs(cube[2] - base[2] - 2 * CUBE_HALF) < HEIGHT_TOLERANCE:
        return "on the base, not released"
    return "carrying" if holds(state["gripper"], cube) else "before the grasp"


STACK, STACK_IMAGE = table_tasks("stack", Stack, StackExpert, phase)
