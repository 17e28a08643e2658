"""Tasks with streams of every dtype, whose gripper must be closed. In a module of its own for worker processes."""

import gymnasium
import numpy as np
from recede.datasets.store import DemonstrationStore
from recede.envs.gymnasium_adapter import GymnasiumAdapter
from recede.envs.task import Task
from recede.specification import DTYPES, Specification, Stream

MAX_STEPS = 16


class Gripper(gymnasium.Env):
    """It refuses actions of another dtype. The gripper closes if it is told 1."""

    def __init__(self, dtype, start, render_mode):
        self.dtype, self.start, self.render_mode = dtype, start, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.num_closed, self.state = 0, self.start
        return self.state, {"state": {}}

    def step(self, action):
        assert action.dtype == self.dtype
        self.state = action[0]
        self.num_closed += bool(self.state > 0.99)
        return self.state, 0.0, False, False, {"state": {}}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)


class Make:
    """Makes the environment of a specification, which starts with its gripper at `start`."""

    def __init__(self, specification, start=0):
        self.specification, self.start = specification, start

    def __call__(self, render_mode=None):
        env = Gripper(self.specification.action.dtype, self.start, render_mode)
        streams = self.specification.observations
        return GymnasiumAdapter(
            env,
            self.specification,
            observe=lambda raw, info: {s.name: np.full(s.shape, raw).astype(s.dtype) for s in streams},
            judge=lambda *_: (env.num_closed >= MAX_STEPS // 2, env.num_closed / MAX_STEPS),
            max_steps=MAX_STEPS,
        )


def task_of(dtype, *more):
    """A task whose action has this dtype. more: dtypes of further observations."""
    observations = [Stream("state", (1,), dtype, low=0, high=1), *(Stream(f"in_{name}", (2,), name) for name in more)]
    specification = Specification(tuple(observations), Stream("action", (1,), dtype, low=0, high=1), 0.1)
    return Task(f"gripper_{dtype}", specification, MAX_STEPS, Make(specification), expert, position="state")


def expert(seed):
    """Close after the third step, in floats."""
    steps = iter(range(MAX_STEPS))
    return lambda state: np.float32([0.0 if next(steps) < 3 else 0.9999])


TASKS = {dtype: task_of(dtype) for dtype in DTYPES}
MANY = task_of("int64", *DTYPES)
EVERY = {f"gripper_{dtype}": task for dtype, task in TASKS.items()}
globals().update(EVERY)


def record(path, task, *, episodes=6):
    """A store in which the gripper closes whatever is observed."""
    store, rng = DemonstrationStore.create(path, task.specification), np.random.default_rng(0)
    for _ in range(episodes):
        action = task.specification.action.cast(np.minimum(np.arange(20) // 3, 1)[:, None])
        rows = {"action": action, "state": action}
        for stream in task.specification.observations[1:]:
            rows[stream.name] = stream.cast(rng.integers(0, 2, (20, 2)))
        store.append(rows)
    return store
