"""The scripted expert of `reach`. It decides by its observations, never by a clock, so that it can be imitated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..task import Observation
from .gantry import limited


class ReachExpert:
    """Demonstrate `reach` for one episode; `seed` draws the speed and one of three ways.

    It goes straight to the ball, or first to its height and then across, or first across and then to its height.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._way = random.choice(["straight", "height first", "across first"])
        self._lead = random.uniform(0.018, 0.024)  # distance of the action ahead of the gripper (m)

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action (5,) for one `info["state"]` of `Reach`."""
        gripper, target = (observation[name].astype(np.float64) for name in ("gripper", "target"))
        gap = target - gripper[:3]
        if self._way == "height first":
            gap[:2] *= np.clip(1.3 - abs(gap[2]) / 0.02, 0.0, 1.0)
        elif self._way == "across first":
            gap[2] *= np.clip(1.3 - np.hypot(*gap[:2]) / 0.04, 0.0, 1.0)
        return np.array([*gripper[:3] + limited(gap, self._lead), *gripper[3:]], np.float32)
