"""The scripted expert of `peg_insertion`. It decides by its observations, never by a clock, so it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import SQUEEZE, Hand, Vector, facing, limited, yaw_of

STANDING, RIM = 0.04, 0.07
"""Height of the centre of a peg that stands on the table, and of one that stands on the rim of the hole (m)."""
HOVER = 0.003
"""How far above the rim the peg is aligned (m)."""
GRASP = 0.027
"""How much higher than a cube the peg is grasped (m): the fingertips stay above the block with the hole."""
ALIGNED, UPRIGHT = 0.0006, 0.025
"""Distance (m) and turn (rad) from the hole within which the peg goes down."""


class PegInsertionExpert:
    """Demonstrate `peg_insertion` for one episode; `seed` draws the speed, heights, ways and how the hole is searched.

    It aligns the peg in the air, just above the hole, and does so again if the peg stands on the rim; or it puts the
    peg onto the rim and lets it slide in a spiral, to the left or to the right, until it drops. It takes a peg that
    still stands after a fall again.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._hand = Hand(random, lift=0.03)
        self._favourite = random.uniform(-0.9, 0.9)
        self._bend = random.choice([-1.0, 1.0]) * random.uniform(0.2, 0.6)
        self._slides = random.random() < 0.5
        self._spiral = np.sign(self._bend) * random.uniform(0.6, 1.0)

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `PegInsertion`."""
        gripper, peg, hole = (observation[name].astype(np.float64) for name in ("gripper", "peg", "hole"))
        if np.hypot(*(peg[:2] - hole)) < 0.002 and peg[2] < STANDING + 0.0015:
            return self._hand.release(gripper, gripper[3]).astype(np.float32)
        below = GRASP + float(peg[2]) - STANDING
        action = self._hand.grasp(gripper, peg, facing(peg, self._favourite), below=below)
        if action is None:
            action = self._insert(gripper, peg, hole)
        return action.astype(np.float32)

    def _insert(self, gripper: Vector, peg: Vector, hole: Vector) -> Vector:
        gap = hole - peg[:2]
        far = np.hypot(*gap)
        is_upright = abs(yaw_of(peg)) < UPRIGHT
        if far > 0.012 or abs(gripper[3]) > 0.1:
            place = np.array([*hole, RIM + HOVER])
            return self._hand.carry(gripper, peg, place, yaw=0.0, bend=self._bend)
        if (far < ALIGNED and is_upright) or peg[2] < RIM - 0.002:
            step, down = gap, -0.015
        elif not self._slides:
            step, down = gap, np.clip(RIM + HOVER - peg[2], -0.01, 0.01)
        else:
            cosine, sine = np.cos(self._spiral), np.sin(self._spiral)
            turned = np.array([cosine * gap[0] - sine * gap[1], sine * gap[0] + cosine * gap[1]])
            step, down = limited(turned * 10, 0.003), -0.004
        return np.array([*gripper[:2] + step, gripper[2] + down, 0.0, SQUEEZE])
