"""The planning expert of `push_t`. It decides by its observations, never by a clock, so that it can be imitated.

It plans one push at a time with a quasi-static model: friction under the block has an ellipsoidal limit surface, and
the fingertips stick to the block within the cone of their friction (Lynch et al. 1992, "Manipulation and active
sensing by pushing using tactile feedback").

Shapes: N places at the sides of the block, L lengths of a push.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import Hand, Vector

SIDES = (
    ((0.037, -0.052), (0.037, 0.052), (1, 0)),
    ((0.016, 0.06), (0.029, 0.06), (0, 1)),
    ((0.029, -0.06), (0.016, -0.06), (0, -1)),
    ((0.007, 0.032), (0.007, 0.053), (-1, 0)),
    ((0.007, -0.053), (0.007, -0.032), (-1, 0)),
    ((-0.066, 0.015), (-0.013, 0.015), (0, 1)),
    ((-0.013, -0.015), (-0.066, -0.015), (0, -1)),
    ((-0.073, -0.008), (-0.073, 0.008), (-1, 0)),
)
"""Where the fingertips may push: two ends along each side (m) and the outward normal, relative to the block."""
SPACING = 0.01
"""Largest distance between two places of a side (m)."""
REACH = 0.045
"""Ratio of the largest torque to the largest force of the friction under the block (m)."""
FRICTION = 0.4
"""Coefficient of friction between the fingertips and the block."""
TIP_HALF = np.array([0.008, 0.01])
"""Half the size of the closed fingers along x and y (m)."""
GAP = 0.012
"""Distance from the side at which the fingertips come down (m)."""
LENGTHS = np.array([0.002, 0.004, 0.008, 0.015, 0.025, 0.04])
"""The lengths of a push that are compared (m)."""
SPEED, DETOUR = 0.14, 0.9
"""Of the gripper (m/s), and the time that it takes to rise and come down elsewhere (s)."""
LOW = 0.018
"""Height of the gripper that pushes (m)."""


class PushTExpert:
    """Demonstrate `push_t` for one episode; `seed` draws the speed, and how much each place and each turn is liked.

    Of all places at the sides of the block, the expert takes the one whose push comes nearest to the mark per second,
    the way there included. So it stays where it pushes as long as that helps. It corrects a push that went wrong by
    the next ones.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._hand = Hand(random, lift=-0.018)
        self._lever = random.uniform(0.05, 0.08)
        ends = [np.linspace(a, b, 1 + int(np.ceil(np.linalg.norm(np.subtract(b, a)) / SPACING))) for a, b, _ in SIDES]
        self._places = np.concatenate(ends)
        self._normals = np.repeat([normal for *_, normal in SIDES], [len(places) for places in ends], axis=0)
        self._liking = random.uniform(0.7, 1.0, len(self._places))

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `PushT`."""
        gripper, block, target = (observation[name].astype(np.float64) for name in ("gripper", "block", "target"))
        yaw = float(np.arctan2(block[4], block[3]))
        if np.hypot(*(block[:2] - target)) < 0.006 and abs(yaw) < np.deg2rad(5):
            rise = np.clip(self._hand.lead, 0.0, 0.08 - gripper[2])
            return np.array([*gripper[:2], gripper[2] + rise, gripper[3], 0.0], np.float32)
        turned = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        places, normals, liking, gaps = self._candidates(gripper, (gripper[:2] - block[:2]) @ turned, turned)
        arms, normals = places @ turned.T, normals @ turned.T
        halves = np.abs(normals) @ TIP_HALF
        starts = block[:2] + arms + normals * (halves + GAP)[:, None]
        times = DETOUR + np.hypot(*(starts - gripper[:2]).T) / SPEED
        times[len(self._places) :] = gaps / SPEED
        gains = self._gains(arms, -normals, block[:2] - target, yaw)
        rates = gains * liking[:, None] / (times[:, None] + LENGTHS / SPEED)
        best, length = np.unravel_index(int(np.argmax(rates)), rates.shape)
        if best < len(self._places):
            goal = np.array([*starts[best], LOW, 0.0, 0.0])
            return self._hand.descend(gripper, goal, toward=goal[:2]).astype(np.float32)
        step = min(self._hand.lead, gaps[best - len(self._places)] + LENGTHS[length] + 0.002)
        return np.array([*gripper[:2] - step * normals[best], LOW, 0.0, 0.0], np.float32)

    def _candidates(self, gripper: Vector, tip: Vector, turned: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """Places and normals (N, 2) relative to the block, how much each is liked (N,), and gaps of the last ones.

        The last ones are the places that the fingertips face at the position `tip` (2,) relative to the block.
        """
        places, normals, gaps = [], [], list[float]()
        for start, end, normal in np.array([(a, b, n) for a, b, n in SIDES], dtype=np.float64):
            length = np.linalg.norm(end - start)
            along = float((tip - start) @ (end - start) / length)
            gap = float((tip - start) @ normal - np.abs(turned @ normal) @ TIP_HALF)
            if gripper[2] < 0.028 and -0.006 < along < length + 0.006 and -0.006 < gap < GAP + 0.008:
                places.append(start + along * (end - start) / length)
                normals.append(normal)
                gaps.append(max(0.0, gap))
        count = len(places)
        return (
            np.concatenate([self._places, np.reshape(places, (count, 2))]),
            np.concatenate([self._normals, np.reshape(normals, (count, 2))]),
            np.concatenate([self._liking, np.ones(count)]),
            np.array(gaps),
        )

    def _gains(self, arms: Vector, directions: Vector, gap: Vector, yaw: float) -> Vector:
        """How much nearer (m) pushes at `arms` (N, 2) along unit vectors (N, 2) come to the mark: (N, L)."""
        across = np.stack([-directions[:, 1], directions[:, 0]], axis=1)
        normal_arm, across_arm = _cross(arms, directions), _cross(arms, across)
        # The force that moves the place straight along its direction, limited by the cone of friction.
        tilt = -normal_arm * across_arm / (REACH**2 + across_arm**2)
        force = directions + np.clip(tilt, -FRICTION, FRICTION)[:, None] * across
        torque = _cross(arms, force) / REACH**2
        speed = 1 + normal_arm * torque  # of the place along its direction, for a unit of force
        moved = gap + (force / speed[:, None])[:, None] * LENGTHS[:, None]
        turned = (yaw + (torque / speed)[:, None] * LENGTHS + np.pi) % (2 * np.pi) - np.pi
        before = np.sqrt(gap @ gap + (self._lever * yaw) ** 2)
        return before - np.sqrt((moved**2).sum(-1) + (self._lever * turned) ** 2)


def _cross(one: Vector, other: Vector) -> Vector:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
