"""The scripted expert of `pick_place`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation

Vector = NDArray[np.float64]

OPEN, SQUEEZE = 0.08, 0.015
"""Commanded finger openings (m); the cube is 0.04 m wide."""
LOOKAHEAD = 0.04
"""Distance along the route to the point that the gripper heads for (m), which rounds the corners.

Pure pursuit, Coulter 1992.
"""


class PickPlaceExpert:
    """Demonstrate `pick_place` for one episode; `seed` draws the side of the wall, the speed and the waypoints.

    A call maps one observation to an absolute action (5,), a small step ahead of the gripper. The phase (reach, close,
    carry, release) follows from the observation, so the expert recovers from slips and pushes. In front of the wall it
    takes the drawn side; beside the wall it takes the side where the gripper is.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._side = random.choice([-1.0, 1.0])
        self._lead = random.uniform(
            0.018, 0.022
        )  # distance of the action ahead of the gripper (m); it then moves at about 0.15 m/s
        self._travel_height = random.uniform(0.068, 0.078)
        self._grasp_height = random.uniform(0.018, 0.024)
        self._fork = random.uniform((-0.16, -0.005), (-0.15, 0.005))
        self._corner = random.uniform((0.03, 0.17), (0.05, 0.19))

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `PickPlace`."""
        gripper, cube, target = (observation[name].astype(np.float64) for name in ("gripper", "cube", "target"))
        is_between = np.hypot(*(cube[:2] - gripper[:2])) < 0.012 and abs(cube[2] - gripper[2]) < 0.015
        if np.hypot(*(cube[:2] - target)) < 0.012 and cube[2] < 0.0225:
            action = self._release(gripper)
        elif is_between and gripper[4] < 0.044:
            action = self._carry(gripper, cube, target)
        elif is_between:
            action = np.array([*cube[:2], self._grasp_height, _yaw(cube), SQUEEZE])
        else:
            goal = np.array([*cube[:2], self._grasp_height, _yaw(cube), OPEN])
            action = self._descend(gripper, goal, toward=cube[:2])
        return action.astype(np.float32)

    def _release(self, gripper: Vector) -> Vector:
        """Open the fingers in place, then rise once they are clear."""
        rise = 0.6 * self._lead if gripper[4] > 0.055 else 0.0
        return np.array([*gripper[:2], gripper[2] + rise, 0.0, OPEN])

    def _carry(self, gripper: Vector, cube: Vector, target: Vector) -> Vector:
        """Lift the cube, follow the route, and lower it onto the target."""
        height = gripper[2] - cube[2] + 0.0195  # presses the cube into the table by less than 1 mm
        return self._descend(
            gripper, np.array([*target, height, 0.0, SQUEEZE]), toward=self._ahead(gripper[:2], target)
        )

    def _descend(self, gripper: Vector, goal: Vector, toward: Vector) -> Vector:
        """One step to `goal` (5,) in the direction of `toward` (2,): high at first, and down only when aligned."""
        turn = goal[3] - gripper[3]
        misalignment = np.hypot(*(goal[:2] - gripper[:2])) + 0.05 * abs(turn) + max(0.0, goal[4] - 0.02 - gripper[4])
        height = min(goal[2] + 3 * max(0.0, misalignment - 0.008), self._travel_height)
        share = np.clip(1.3 - (height - gripper[2]) / 0.03, 0.0, 1.0)  # first up, then sideways
        step = share * _limited(toward - gripper[:2], self._lead)
        rise = np.clip(height - gripper[2], -self._lead, self._lead)
        return np.array([*gripper[:2] + step, gripper[2] + rise, gripper[3] + np.clip(turn, -0.15, 0.15), goal[4]])

    def _ahead(self, position: Vector, target: Vector) -> Vector:
        """The point (2,) of the route that is `LOOKAHEAD` beyond the point nearest to `position`."""
        is_beside = abs(position[0]) < 0.06 and abs(position[1]) > 0.1
        side = np.sign(position[1]) if is_beside else self._side
        x, y = self._corner
        route = np.array([(-0.3, 0.0), self._fork, (-x, side * y), (x, side * y), target])
        starts, legs = route[:-1], np.diff(route, axis=0)
        lengths = np.linalg.norm(legs, axis=1)
        along = np.clip(((position - starts) * legs).sum(1) / lengths**2, 0.0, 1.0)  # nearest point of each leg
        nearest = int(np.argmin(np.linalg.norm(starts + along[:, None] * legs - position, axis=1)))
        ends = np.cumsum(lengths)
        distance = ends[nearest] - lengths[nearest] + along[nearest] * lengths[nearest] + LOOKAHEAD
        return np.array([np.interp(distance, [0.0, *ends], axis) for axis in route.T])


def _yaw(cube: Vector) -> float:
    """The yaw in [-pi/4, pi/4] that aligns the fingers with two faces of the cube."""
    return float(np.arctan2(cube[4], cube[3]) / 4)


def _limited(step: Vector, length: float) -> Vector:
    return step * min(1.0, length / max(float(np.linalg.norm(step)), 1e-9))
