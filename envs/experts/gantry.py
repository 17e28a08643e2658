"""The motions that the experts of the gantry gripper share. Each follows from the observation, so experts recover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

OPEN, SQUEEZE = 0.08, 0.015
"""Commanded finger openings (m); a cube is 0.04 m wide."""
LARGEST_YAW = 1.15
"""Largest yaw (rad) at which an expert grasps."""


class Hand:
    """Small steps ahead of the gripper; `random` draws their length and the heights. Every step is an action (5,).

    lift: how much higher than over a bare table the gripper travels (m).
    """

    def __init__(self, random: np.random.Generator, *, lift: float = 0.0) -> None:
        self.lead = random.uniform(
            0.018, 0.022
        )  # distance of the action ahead of the gripper (m); it then moves at about 0.15 m/s
        self._travel_height = random.uniform(0.068, 0.078) + lift
        self._grasp_height = random.uniform(0.018, 0.024)

    def grasp(self, gripper: Vector, cube: Vector, yaw: float, *, below: float = 0.0) -> Vector | None:
        """A step to grasp `cube` (5,), which stands at the height `below` (m); None if the fingers hold it."""
        is_between = np.hypot(*(cube[:2] - gripper[:2])) < 0.012 and abs(cube[2] - gripper[2]) < 0.015
        if is_between and gripper[4] < 0.044:
            return None
        height = self._grasp_height + below
        if is_between:
            return np.array([*cube[:2], height, yaw, SQUEEZE])
        return self.descend(gripper, np.array([*cube[:2], height, yaw, OPEN]), toward=cube[:2])

    def carry(self, gripper: Vector, cube: Vector, place: Vector, *, yaw: float, bend: float) -> Vector:
        """A step to carry the held cube to `place` (3,), on a way that leaves the straight one by `bend` (rad)."""
        goal = np.array([*place + gripper[:3] - cube[:3], yaw, SQUEEZE])
        return self.descend(gripper, goal, toward=bowed(gripper[:2], goal[:2], bend))

    def release(self, gripper: Vector, yaw: float) -> Vector:
        """Open the fingers in place, then rise once they are clear."""
        rise = 0.6 * self.lead if gripper[4] > 0.055 else 0.0
        return np.array([*gripper[:2], gripper[2] + rise, yaw, OPEN])

    def descend(self, gripper: Vector, goal: Vector, toward: Vector) -> Vector:
        """One step to `goal` (5,) in the direction of `toward` (2,): high at first, and down only when aligned."""
        turn = goal[3] - gripper[3]
        misalignment = np.hypot(*(goal[:2] - gripper[:2])) + 0.05 * abs(turn) + max(0.0, goal[4] - 0.02 - gripper[4])
        height = min(goal[2] + 3 * max(0.0, misalignment - 0.008), self._travel_height)
        share = min(max(1.3 - (height - gripper[2]) / 0.03, 0.0), 1.0)  # first up, then sideways
        step = share * limited(toward - gripper[:2], self.lead)
        rise, turn = min(max(height - gripper[2], -self.lead), self.lead), min(max(turn, -0.15), 0.15)
        return np.array([*gripper[:2] + step, gripper[2] + rise, gripper[3] + turn, goal[4]])


def facing(cube: Vector, favourite: float, others: Sequence[Vector] = ()) -> float:
    """The yaw nearest to `favourite` that aligns the fingers with two faces of the cube.

    Faces beside which one of the cubes `others` stands in the way of a finger are taken only if there are no better.
    """

    def cost(yaw: float) -> float:
        across, along = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        gaps = [other[:2] - cube[:2] for other in others if abs(other[2] - cube[2]) < 0.03]
        is_blocked = any(abs(gap @ along) < 0.08 and abs(gap @ across) < 0.03 for gap in gaps)
        return abs(yaw - favourite) + 10 * is_blocked

    yaw = yaw_of(cube)
    return min((y for y in (yaw, yaw - np.pi / 2, yaw + np.pi / 2) if abs(y) <= LARGEST_YAW), key=cost)


def yaw_of(cube: Vector) -> float:
    """The yaw in [-pi/4, pi/4] that aligns the fingers with two faces of the cube."""
    return float(np.arctan2(cube[4], cube[3]) / 4)


def bowed(position: Vector, goal: Vector, bend: float) -> Vector:
    """A point (2,) as far away as `goal`, off the straight way by the angle `bend` (rad), which vanishes near it."""
    gap = goal - position
    angle = bend * min(1.0, float(np.hypot(*gap)) / 0.2)
    cosine, sine = np.cos(angle), np.sin(angle)
    return position + np.array([cosine * gap[0] - sine * gap[1], sine * gap[0] + cosine * gap[1]])


def limited(step: NDArray[Any], length: float) -> NDArray[Any]:
    """The step, shortened to `length` if it is longer."""
    return step * min(1.0, length / max(float(np.linalg.norm(step)), 1e-9))
