"""`reach`: the point between the fingertips of the gantry gripper goes to a ball in the air, and stops there."""

from __future__ import annotations

import numpy as np

from ..experts.reach import ReachExpert
from ..gantry import Array, GantryTask, draw_apart, gantry_tasks
from ..gantry_streams import specification
from ..task import Observation

REACHED = 0.01
"""Largest distance (m) from the centre of the ball, which has a radius of 0.015."""
SLOW = 0.02
"""Largest speed (m/s) of a gripper that has stopped."""


class Reach(GantryTask):
    """Reach the ball with the point between the fingertips.

    Success: the point is within 1 cm of the centre of the ball and slower than 2 cm/s. The way that the score counts is
    the distance to the ball. At a reset gripper and ball are anywhere above the table, at least 15 cm apart.
    """

    scene = "reach.xml"
    streams = specification(marks={"target": 3}, highest=0.11)
    max_steps = 100

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """Gripper and ball anywhere above the table."""
        point, target = draw_apart(random, (-0.2, -0.16, 0.03), (0.2, 0.16, 0.1), gap=0.15)
        return {"gripper": np.array([*point, *random.uniform((-0.4, 0.0), (0.4, 0.08))]), "target": target}

    def remaining(self, state: Observation) -> Array:
        """The distance to the ball."""
        return np.linalg.norm((state["gripper"][..., :3] - state["target"]).astype(np.float64), axis=-1)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The gripper stands in the ball."""
        return (self.remaining(state) <= REACHED) & (self.speed(velocities) <= SLOW)

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "reach the ball with the gripper"


def phase(state: Observation) -> str:
    """Where the gripper is."""
    gap = np.linalg.norm(state["gripper"][:3] - state["target"])
    return "at the ball, moving" if gap <= REACHED else "on the way"


REACH, REACH_IMAGE = gantry_tasks("reach", Reach, ReachExpert, phase)
