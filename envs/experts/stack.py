"""The scripted expert of `stack`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import Hand, facing


class StackExpert:
    """Demonstrate `stack` for one episode; `seed` draws the speed, the heights, a favourite yaw and a bend.

    It takes the faces of the cube that are nearer to its favourite yaw, if the other cube does not stand beside them,
    and carries the cube on a bow to the left or to the right. It takes a cube that fell, or stands too near to an edge
    of the base, again.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._hand = Hand(random, lift=0.02)
        self._favourite = random.uniform(-0.9, 0.9)
        self._bend = random.choice([-1.0, 1.0]) * random.uniform(0.4, 0.7)

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `Stack`."""
        gripper, cube, base = (observation[name].astype(np.float64) for name in ("gripper", "cube", "base"))
        gap = float(np.hypot(*(cube[:2] - base[:2])))
        is_on_base = abs(cube[2] - base[2] - 0.04) < 0.0025
        if gap < 0.01 and is_on_base:
            return self._hand.release(gripper, gripper[3]).astype(np.float32)
        below = 0.04 if is_on_base and gap < 0.03 else 0.0
        action = self._hand.grasp(gripper, cube, facing(cube, self._favourite, [base]), below=below)
        if action is None:  # lift the cube and lower it onto the base, with its faces along those of the base
            place, yaw = base[:3] + np.array([0, 0, 0.0395]), facing(base, gripper[3])
            action = self._hand.carry(gripper, cube, place, yaw=yaw, bend=self._bend)
        return action.astype(np.float32)
