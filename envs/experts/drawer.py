"""The scripted expert of `drawer`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import OPEN, Hand, Vector, facing

POST, NOTCH = np.array([-0.038, 0.0]), np.array([-0.0195, 0.0])
"""The post of the handle, and the middle between it and the front of the drawer, relative to the front (m)."""
LOW = 0.026
"""Height of the gripper at the handle (m)."""
ASIDE = np.array([-0.17, 0.0, 0.0195])
"""Where the expert puts down a cube that it holds while the drawer is closed (m)."""
WIDE = 0.085
"""Opening of the drawer (m) from which on the cube is taken."""


class DrawerExpert:
    """Demonstrate `drawer` for one episode; `seed` draws the speed, the heights, the ways and the grip at the handle.

    It pinches the post of the handle, or hooks the closed fingers behind it. It carries the cube on a bow to the left
    or to the right. It takes a cube that fell again, and opens a drawer that slid back.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._hand = Hand(random)
        self._is_hook = random.random() < 0.5
        self._favourite = random.uniform(-0.9, 0.9)
        self._bend = random.choice([-1.0, 1.0]) * random.uniform(0.2, 0.5)
        self._place = random.uniform((0.04, -0.015), (0.055, 0.015))

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `Drawer`."""
        gripper, cube, cabinet = (observation[name].astype(np.float64) for name in ("gripper", "cube", "cabinet"))
        opening = float(observation["drawer"][0])
        front = cabinet - (opening, 0.0)
        return self._step(gripper, cube, front, opening).astype(np.float32)

    def _step(self, gripper: Vector, cube: Vector, front: Vector, opening: float) -> Vector:
        is_at_cube = np.hypot(*(gripper[:2] - cube[:2])) < 0.03 and gripper[2] < 0.056
        beside = np.abs(cube[:2] - front - (0.055, 0.0))
        if beside[0] < 0.035 and beside[1] < 0.039 and cube[2] < 0.0285:
            if is_at_cube or opening < 0.003:
                return self._hand.release(gripper, gripper[3])
            return self._slide(gripper, front, -opening - 0.01)
        grasp = self._hand.grasp(gripper, cube, facing(cube, self._favourite))
        is_held = grasp is None
        if opening < WIDE - 0.01 * is_held:
            if is_held and cube[2] > 0.0225:  # put it down first
                return self._hand.carry(gripper, cube, ASIDE, yaw=gripper[3], bend=self._bend)
            if is_at_cube:
                return self._hand.release(gripper, gripper[3])
            return self._slide(gripper, front, 0.11 - opening)
        if grasp is not None:
            return grasp
        place = np.array([*front + self._place, 0.0255])  # lift the cube and lower it into the drawer
        return self._hand.carry(gripper, cube, place, yaw=0.0, bend=self._bend)

    def _slide(self, gripper: Vector, front: Vector, way: float) -> Vector:
        """A step to open the drawer by `way` (m), which is negative to close it."""
        place, finger_opening = (front + NOTCH, 0.0) if self._is_hook else (front + POST, OPEN)
        is_there = np.all(np.abs(gripper[:2] - place) < 0.01) and gripper[2] < LOW + 0.008
        if is_there and gripper[4] < 0.026:
            pull = np.clip(way, -self._hand.lead, self._hand.lead)
            return np.array([gripper[0] - pull, place[1], LOW, 0.0, 0.0])
        if is_there and not self._is_hook:
            return np.array([*place, LOW, 0.0, 0.0])
        is_ready = not self._is_hook or gripper[4] < 0.02
        goal = np.array([*place, LOW if is_ready else 0.07, 0.0, finger_opening])
        return self._hand.descend(gripper, goal, toward=goal[:2])
