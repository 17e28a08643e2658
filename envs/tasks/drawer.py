"""`drawer`: the gantry gripper opens a drawer, puts a cube into it, and closes it."""

from __future__ import annotations

import numpy as np

from ..experts.drawer import DrawerExpert
from ..table_streams import Things
from ..tabletop import WITHDRAWN, Array, TableTask, cube_at, distance, holds, table_tasks
from ..task import Observation

CLOSED = 0.005
"""Largest opening (m) of a closed drawer."""
OPENED = 0.09
"""Opening (m) of a drawer that a cube goes into; it slides by 0.1."""
INSIDE = np.array([[0.02, -0.039], [0.09, 0.039]])
"""Where the centre of a cube is that is between the walls of the drawer: lowest and highest x, y (m) from its front."""
MIDDLE = 0.05
"""Distance (m) of the middle of the drawer from its front."""
FLOOR_HEIGHT = 0.026
"""Height (m) of the centre of a cube that lies flat in the drawer."""
HEIGHT_TOLERANCE = 0.003
"""Largest difference (m) between the height of the cube and that of one which lies flat in the drawer."""


def front(state: Observation) -> Array:
    """The middle (..., 2) of the front of the drawer."""
    return state["cabinet"] - state["drawer"] * np.array([1.0, 0.0])


def is_inside(state: Observation) -> Array:
    """Whether the cube lies in the drawer: (...,) bool."""
    place = state["cube"][..., :2] - front(state)
    is_between = ((place >= INSIDE[0]) & (place <= INSIDE[1])).all(-1)
    return is_between & (np.abs(state["cube"][..., 2] - FLOOR_HEIGHT) < HEIGHT_TOLERANCE)


class Drawer(TableTask):
    """Open the drawer, put the cube into it, close it, and withdraw.

    Success: the cube lies between the walls of the drawer (within 3 mm of the height of one that lies flat there) and
    is at rest, the drawer is open by 5 mm at most, and the gripper has withdrawn above the handle. The way that the
    score counts is that of the drawer to 9 cm, of the cube to the middle of the open drawer, and of the drawer back.
    At a reset the cube and the gripper above it are on the near side, the cabinet is on the far side, anywhere within
    2 cm along x and 16 cm along y, and the drawer is open by 2 cm at most.
    """

    scene = "drawer.xml"
    things = Things(cubes=("cube",), slides=("drawer",), marks={"cabinet": 2})
    max_steps = 250

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """The cube and the gripper on the near side, the cabinet on the far side, the drawer nearly closed."""
        x, y, yaw = random.uniform((-0.22, -0.14, -0.78), (-0.12, 0.14, 0.78))
        gripper = random.uniform((-0.22, -0.14, 0.06, -0.4, 0.0), (-0.08, 0.14, 0.085, 0.4, 0.08))
        cabinet = random.uniform((0.09, -0.08), (0.11, 0.08))
        return {
            "gripper": gripper,
            "cube": cube_at((x, y), yaw),
            "drawer": random.uniform(0, 0.02, 1),
            "cabinet": cabinet,
        }

    def remaining(self, state: Observation) -> Array:
        """The way of the drawer and of the cube."""
        opening = state["drawer"][..., 0].astype(np.float64)
        middle = state["cabinet"] + (MIDDLE - OPENED, 0.0)
        way = np.maximum(OPENED - opening, 0.0) + distance(state["cube"], middle) + OPENED
        return np.where(is_inside(state), opening, way)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The cube rests in the closed drawer, and the gripper has withdrawn."""
        is_closed = state["drawer"][..., 0] <= CLOSED
        is_withdrawn = state["gripper"][..., 2] >= WITHDRAWN
        return is_inside(state) & is_closed & is_withdrawn & self.rests(velocities)[..., 0]

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "put the cube into the drawer and close it"


def phase(state: Observation) -> str:
    """What the drawer and the cube are doing."""
    opening = state["drawer"][0]
    if is_inside(state):
        return "closed, not withdrawn" if opening <= CLOSED else "closing the drawer"
    if holds(state["gripper"], state["cube"]):
        return "carrying"
    return "opening the drawer" if opening < OPENED else "before the grasp"


DRAWER, DRAWER_IMAGE = table_tasks("drawer", Drawer, DrawerExpert, phase)
