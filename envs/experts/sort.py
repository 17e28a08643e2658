"""The scripted expert of `sort`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import Hand, facing


class SortExpert:
    """Demonstrate `sort` for one episode; `seed` draws the speed, the heights, a favourite yaw and a bend.

    It takes the faces of the named cube that are nearer to its favourite yaw, if the other cube does not stand beside
    them, and carries the cube on a bow to the left or to the right. It takes a cube that fell again.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._hand = Hand(random)
        self._favourite = random.uniform(-0.9, 0.9)
        self._bend = random.choice([-1.0, 1.0]) * random.uniform(0.4, 0.7)

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `Sort`."""
        cube_index, mark_index = divmod(int(observation["goal"].argmax()), 2)
        names = ("orange", "blue")[cube_index], ("blue", "orange")[cube_index], ("teal", "red")[mark_index]
        gripper, cube, other, mark = (observation[name].astype(np.float64) for name in ("gripper", *names))
        if np.hypot(*(cube[:2] - mark)) < 0.012 and cube[2] < 0.0225:
            return self._hand.release(gripper, gripper[3]).astype(np.float32)
        action = self._hand.grasp(gripper, cube, facing(cube, self._favourite, [other]))
        if action is None:  # lift the cube and lower it onto the mark, pressing it into the table by less than 1 mm
            action = self._hand.carry(gripper, cube, np.array([*mark, 0.0195]), yaw=gripper[3], bend=self._bend)
        return action.astype(np.float32)
