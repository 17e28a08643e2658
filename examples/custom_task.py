"""A task of your own: an environment, what a success is, and a script that demonstrates it.

python examples/custom_task.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import recede
from recede.envs.check import check_task
from recede.envs.gymnasium_adapter import box
from recede.envs.task import Task

BOAT, DOCK = (recede.Stream(name, (2,), units="m", labels=("x", "y")) for name in ("boat", "dock"))
TARGET = recede.Stream("action", (2,), units="m", labels=("x", "y"), low=-1.0, high=1.0)
SPECIFICATION = recede.Specification(observations=(BOAT, DOCK), action=TARGET, control_dt=0.1)


class Harbour(gymnasium.Env):
    """Bring a boat to its dock. It follows its target slowly, and a current carries it to the side."""

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Dict({s.name: box(s) for s in SPECIFICATION.observations})
        self.action_space = box(SPECIFICATION.action)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # everything random comes from self.np_random, so a seed is an episode
        (self.boat, self.dock), self.steps = self.np_random.uniform(-0.8, 0.8, (2, 2)), 0
        return self.observed()

    def step(self, action):
        self.boat = self.boat + 0.2 * (np.clip(action, -1, 1) - self.boat) + [0.01, 0]
        self.steps += 1
        observation, info = self.observed()
        return observation, 0.0, info["success"], self.steps == 60 and not info["success"], info

    def observed(self):
        """Streams for the policy; success, score in [0, 1], and the state for the script."""
        distance = float(np.linalg.norm(self.boat - self.dock))
        observation = {"boat": self.boat.astype(np.float32), "dock": self.dock.astype(np.float32)}
        return observation, {"success": distance < 0.06, "score": max(0.0, 1 - distance), "state": observation}

    def render(self):
        return np.full((8, 8, 3), self.steps, dtype=np.uint8)


def expert(seed):
    return lambda state: state["dock"]  # seed -> state -> action


HARBOUR = Task("harbour", SPECIFICATION, 60, Harbour, expert, position="boat")

print(check_task(HARBOUR))  # tries every promise; a broken one is an error with its remedy
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
collected = recede.collect(HARBOUR, folder / "harbour.zarr", episodes=10, first_seed=0, images="zstd")
print(f"{collected.successes} demonstrations in {folder / 'harbour.zarr'}: recede train dataset=...")
