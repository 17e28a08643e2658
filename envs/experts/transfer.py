"""The scripted expert of `transfer`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arm import TwoArms
from ..task import Observation
from .arm import UPRIGHT
from .gantry import OPEN, SQUEEZE, Hand, Vector, facing, limited

WAIT = 0.1
"""How far (m) beside the place of the transfer the left hand waits."""
STRIDE = 0.12
"""The longest way (rad) of a joint in a step."""


class TransferExpert:
    """Demonstrate `transfer` for one episode; `seed` draws speeds, heights, the place, and how the left hand is turned.

    The right hand holds the cube from above, by the faces to its left and right. The left hand lies on its side, comes
    from its own arm, and takes the upper and the lower face. The right hand takes a cube again that fell.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._hand = Hand(random, lift=0.07)
        self._favourite = random.uniform(-0.4, 0.4)
        self._place = random.uniform((-0.03, -0.03, 0.11), (0.03, -0.01, 0.13))
        self._turn = random.choice([-1.0, 1.0]) * np.pi / 2

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (14,) for one `info["state"]` of `Transfer`."""
        left, right, cube, joints = (
            observation[name].astype(np.float64) for name in ("left_gripper", "right_gripper", "cube", "joints")
        )
        is_taken = bool(np.linalg.norm(left[:3] - cube[:3]) < 0.018 and left[6] < 0.044)
        giving = right[UPRIGHT]
        step = self._hand.release(giving, 0.0) if is_taken else self._give(giving, cube)
        upright = np.array([*step[:4], 0.0, 0.0, step[4]])
        poses = zip(TwoArms.feet.values(), (self._take(left, cube, is_taken=is_taken), upright), strict=True)
        way = np.concatenate([foot.joints(pose) for foot, pose in poses]) - joints
        longest = np.abs(way.reshape(2, 7)[:, :6]).max(axis=1, keepdims=True)
        shares = np.minimum(1.0, STRIDE / np.maximum(longest, STRIDE)).repeat(7, axis=1)
        shares[:, 6] = 1.0  # the fingers squeeze
        return (joints + shares.ravel() * way).astype(np.float32)

    def _give(self, hand: Vector, cube: Vector) -> Vector:
        """The next pose (5,) of the right hand, which takes the cube and holds it out."""
        action = self._hand.grasp(hand, cube, facing(cube, self._favourite))
        if action is None:
            action = self._hand.carry(hand, cube, self._place, yaw=0.0, bend=0.0)
        return action

    def _take(self, hand: Vector, cube: Vector, *, is_taken: bool) -> Vector:
        """The next pose (7,) of the left hand, which waits beside the place and takes a cube that is held out there."""
        gap = hand[:3] - cube[:3]
        is_around = np.linalg.norm(gap) < 0.014
        is_offered = np.linalg.norm(cube[:3] - self._place) < 0.02 and abs(cube[4]) < 0.4
        turns = np.array([self._turn, -np.pi / 2, 0.0])
        is_ready = np.hypot(gap[0], gap[2]) < 0.014 and np.abs(hand[3:6] - turns).max() < 0.15 and hand[6] > 0.06
        if is_taken:
            goal = self._place
        elif is_offered and (is_ready or is_around):
            goal = cube[:3]
        else:
            goal = (cube[:3] if is_offered else self._place) + (0.0, WAIT, 0.0)
        opening = SQUEEZE if is_taken or (is_offered and is_around) else OPEN
        return np.array([*hand[:3] + limited(goal - hand[:3], self._hand.lead), *turns, opening])
