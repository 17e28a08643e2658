"""Environments with ids of their own, as a package of others registers them: `task=gymnasium:toy_ids:toy/Reach-v0`."""

import os
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import toys
from gymnasium.spaces import Box, Dict, Discrete, Tuple

PLACE = Box(-1.0, 1.0, (2,), np.float64)


class Reach(gymnasium.Env):
    """`toys.Reach` with nested observations in float64, which says its success in the info of a step."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    observation_space = Dict(
        {
            "robot": Dict({"place": PLACE, "image": Box(0, 255, (8, 8, 3), np.uint8)}),
            "goal": PLACE,
            "Task id": Box(0, 1, (1, 2)),
        }
    )
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode=None, speed=1.0, fault="", mark=None):
        self.render_mode, self.speed, self.fault, self.mark = render_mode, speed, fault, mark
        self.inner = toys.Reach()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.inner.reset(seed=int(self.np_random.integers(2**31)))
        return self.observed(), {"state": "initial"}

    def step(self, action):
        self.steps += 1
        if self.fault == "dies once" and self.steps == 5 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os._exit(9)
        if self.fault == "raises" and self.steps == 5:
            raise RuntimeError("the gripper fell off")
        move = self.inner.position + self.speed * (np.asarray(action) - self.inner.position)
        self.inner.is_over = False
        _, _, _, _, info = self.inner.step(move)
        success = info["success"]
        return (
            self.observed(),
            float(success),
            False,
            False,
            {"solved": success, "energy": 0.25, "closeness": {"now": info["score"]}},
        )

    def observed(self):
        image = np.full((8, 8, 3), self.steps, np.uint8)
        place, goal = self.inner.position.copy(), self.inner.target.copy()
        if self.fault == "shape" and self.steps == 5:
            place = np.zeros(3)
        return {"robot": {"place": place, "image": image}, "goal": goal, "Task id": np.zeros((1, 2), np.float32)}

    def render(self):
        return np.full((8, 8, 3), self.steps, np.uint8)


class Spaces(gymnasium.Env):
    """An environment with other spaces, which is never stepped."""

    def __init__(self, observed=PLACE, commanded=PLACE):
        self.observation_space, self.action_space = observed, commanded


SPACES = {
    "Discrete": (PLACE, Discrete(3)),
    "Square": (PLACE, Box(-1.0, 1.0, (2, 2))),
    "Tuple": (Tuple((PLACE, PLACE)), PLACE),
    "Kind": (Dict({"place": PLACE, "kind": Discrete(3)}), PLACE),
    "Twins": (Dict({"a b": PLACE, "a_b": PLACE}), PLACE),
    "Volume": (Dict({"scan": Box(0.0, 1.0, (4, 4, 4))}), PLACE),
    "Channels": (Dict({"camera": Box(0, 255, (3, 48, 48), np.uint8)}), PLACE),
}
"""Name of an id -> what it observes and commands."""

gymnasium.register("toy/Reach-v0", Reach, max_episode_steps=40)
for name, (observed, commanded) in SPACES.items():
    gymnasium.register(f"toy/{name}-v0", Spaces, kwargs={"observed": observed, "commanded": commanded})
