"""`reach`: the point between the fingertips of a robot goes to a ball in the air, and stops there."""

from __future__ import annotations

import numpy as np

from ..arm import Arm, PoseArm
from ..experts.arm import by_joints, by_pose
from ..experts.reach import ReachExpert
from ..table_streams import Things
from ..tabletop import Array, TableTask, draw_apart, table_tasks
from ..task import Observation

REACHED = 0.01
"""Largest distance (m) from the centre of the ball, which has a radius of 0.015."""
SLOW = 0.02
"""Largest speed (m/s) of a hand that has stopped."""


class Reach(TableTask):
    """Reach the ball with the point between the fingertips.

    Success: the point is within 1 cm of the centre of the ball and slower than 2 cm/s. The way that the score counts is
    the distance to the ball. At a reset hand and ball are anywhere above the table, at least 15 cm apart.
    """

    scene = "reach.xml"
    things = Things(marks={"target": 3}, highest=0.11)
    max_steps = 100
    low, high = (-0.2, -0.16, 0.03), (0.2, 0.16, 0.1)
    """Where hand and ball may be at a reset (m)."""

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """Hand and ball anywhere above the table."""
        point, target = draw_apart(random, self.low, self.high, gap=0.15)
        return {**self.robot.at([*point, *random.uniform((-0.4, 0.0), (0.4, 0.08))]), "target": target}

    def remaining(self, state: Observation) -> Array:
        """The distance to the ball."""
        return np.linalg.norm((state["gripper"][..., :3] - state["target"]).astype(np.float64), axis=-1)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The hand stands in the ball."""
        return (self.remaining(state) <= REACHED) & (self.speed(state, velocities) <= SLOW)

    def sentence(self, state: Observation) -> str:
        """The same in all episodes."""
        return "reach the ball with the gripper"


class ReachArm(Reach):
    """`Reach` with an arm that is commanded by poses of its hand, within its reach."""

    scene = "reach_arm.xml"
    robot = PoseArm
    low, high = (-0.09, -0.12, 0.03), (0.07, 0.12, 0.1)


class ReachArmJoints(ReachArm):
    """`ReachArm` with targets of the joints."""

    robot = Arm


def phase(state: Observation) -> str:
    """Where the gripper is."""
    gap = np.linalg.norm(state["gripper"][:3] - state["target"])
    return "at the ball, moving" if gap <= REACHED else "on the way"


REACH, REACH_IMAGE = table_tasks("reach", Reach, ReachExpert, phase)
REACH_ARM, REACH_ARM_IMAGE = table_tasks("reach_arm", ReachArm, by_pose(ReachExpert), phase)
REACH_ARM_JOINTS, REACH_ARM_JOINTS_IMAGE = table_tasks(
    "reach_arm_joints", ReachArmJoints, by_joints(ReachExpert), phase
)
