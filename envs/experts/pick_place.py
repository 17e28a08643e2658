"""The scripted expert of `pick_place`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import SQUEEZE, Hand, Vector, yaw_of

LOOKAHEAD = 0.04
"""Distance along the route to the point that the gripper heads for (m), which rounds the corners.

Pure pursuit, Coulter 1992.
"""


class PickPlaceExpert:
    """Demonstrate `pick_place` for one episode; `seed` draws the side of the wall, the speed and the waypoints.

    A call maps one observation to an absolute action (5,), a small step ahead of the gripper. The phase (reach, close,
    carry, release) follows from the observation, so the expert recovers from slips and pushes. In front of the wall it
    takes the drawn side; beside the wall it takes the side where the gripper is.

    wall: half the length of the wall (m).
    fork: how far in front of the wall the two ways part (m).
    """

    def __init__(self, seed: int, *, wall: float = 0.1, fork: float = 0.155) -> None:
        random = np.random.default_rng(seed)
        self._wall = wall
        self._side = random.choice([-1.0, 1.0])
        self._hand = Hand(random)
        self._fork = random.uniform((-fork - 0.005, -0.005), (-fork + 0.005, 0.005))
        self._corner = random.uniform((0.03, wall + 0.07), (0.05, wall + 0.09))
        self._routes: dict[tuple[float, ...], tuple[Vector, Vector, Vector]] = {}
        self.notes = {"side": "left" if self._side > 0 else "right"}

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `PickPlace`."""
        gripper, cube, target = (observation[name].astype(np.float64) for name in ("gripper", "cube", "target"))
        if np.hypot(*(cube[:2] - target)) < 0.012 and cube[2] < 0.0225:
            action = self._hand.release(gripper, 0.0)
        else:
            action = self._hand.grasp(gripper, cube, yaw_of(cube))
        if action is None:  # lift the cube, follow the route, and lower it onto the target
            height = gripper[2] - cube[2] + 0.0195  # presses the cube into the table by less than 1 mm
            goal = np.array([*target, height, 0.0, SQUEEZE])
            action = self._hand.descend(gripper, goal, toward=self._ahead(gripper[:2], target))
        return action.astype(np.float32)

    def _ahead(self, position: Vector, target: Vector) -> Vector:
        """The point (2,) of the route that is `LOOKAHEAD` beyond the point nearest to `position`."""
        is_beside = abs(position[0]) < 0.06 and abs(position[1]) > self._wall
        side = np.sign(position[1]) if is_beside else self._side
        if (key := (side, *target)) not in self._routes:
            self._routes[key] = self._route(side, target)
        route, legs, lengths = self._routes[key]
        starts = route[:-1]
        along = np.clip(((position - starts) * legs).sum(1) / lengths**2, 0.0, 1.0)  # nearest point of each leg
        nearest = int(np.argmin(np.linalg.norm(starts + along[:, None] * legs - position, axis=1)))
        ends = np.cumsum(lengths)
        distance = ends[nearest] - lengths[nearest] + along[nearest] * lengths[nearest] + LOOKAHEAD
        return np.array([np.interp(distance, [0.0, *ends], axis) for axis in route.T])

    def _route(self, side: float, target: Vector) -> tuple[Vector, Vector, Vector]:
        """The points (5, 2) of the way by one side of the wall, the legs (4, 2) between them and their lengths (4,)."""
        x, y = self._corner
        route = np.array([(-0.3, 0.0), self._fork, (-x, side * y), (x, side * y), target])
        legs = np.diff(route, axis=0)
        return route, legs, np.linalg.norm(legs, axis=1)
