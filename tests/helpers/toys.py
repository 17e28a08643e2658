"""A task whose steps take microseconds, in its own module so that worker processes can import it."""

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from recede.envs.gymnasium_adapter import box
from recede.envs.task import Task
from recede.realtime import MonotonicClock
from recede.robots.simulation import Simulation
from recede.specification import Specification, Stream

AREA = {"units": "m", "labels": ("x", "y"), "low": -1.0, "high": 1.0}
SPECIFICATION = Specification(
    (Stream("position", (2,), **AREA), Stream("target", (2,), **AREA)), Stream("action", (2,), **AREA), control_dt=0.1
)
MAX_STEPS = 40


class Reach(gymnasium.Env):
    """Move a point to a target. Refuses steps after the end, and renders white frames after success."""

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Dict({s.name: box(s) for s in SPECIFICATION.observations})
        self.action_space = box(SPECIFICATION.action)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.target = self.np_random.uniform([(-0.7, -0.7), (0, -0.7)], [(-0.2, 0.7), (0.7, 0.7)])
        self.num_steps, self.is_over = 0, False
        return self._observe()

    def step(self, action):
        assert not self.is_over, "a finished environment was stepped again"
        move = np.clip(action, -1, 1) - self.position
        self.position = self.position + move * min(1.0, 0.06 / max(np.linalg.norm(move), 1e-9))
        self.num_steps += 1
        observation, info = self._observe()
        self.is_over = info["success"] or self.num_steps == MAX_STEPS
        return observation, 0.0, bool(info["success"]), self.num_steps == MAX_STEPS, info

    def _observe(self):
        distance = float(np.linalg.norm(self.position - self.target))
        observation = {"position": self.position.astype(np.float32), "target": self.target.astype(np.float32)}
        info = {"success": distance < 0.1, "score": max(0.0, 1 - distance), "state": observation}
        return observation, info

    def render(self):
        success = self._observe()[1]["success"]
        return np.full((8, 8, 3), 255 if success else self.num_steps, dtype=np.uint8)


class Dying(Reach):
    """A simulation that kills its process."""

    def step(self, action):
        os._exit(3)


class Slow(Reach):
    """A simulation whose episodes take a second."""

    def step(self, action):
        time.sleep(0.03)
        return super().step(action)


BAD_SEEDS = (3, 50_000, 100_001)
"""One seed of each: demonstrations, the choice of a checkpoint, evaluation."""


class Faulty(Reach):
    """A simulation with a fault, of one kind: in step 5 of the bad seeds, or at every call.

    mark: a file that says that it has crashed.
    """

    def __init__(self, render_mode=None, *, kind="", mark=None):
        super().__init__(render_mode)
        self.kind, self.mark, self.is_bad = kind, mark, False

    def reset(self, *, seed=None, options=None) -> Any:
        self.is_bad = seed in BAD_SEEDS
        if self.is_bad and self.kind == "reset":
            return {}["nothing"]
        observation, info = super().reset(seed=seed)
        return observation if self.kind == "old reset" else (observation, info)

    def step(self, action) -> Any:
        is_now = self.is_bad and self.num_steps == 4
        if is_now and self.kind == "step":
            np.zeros(3) + np.zeros(4)
        if is_now and self.kind == "die":
            os._exit(7)
        if is_now and self.kind == "crash once" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        observation, reward, terminated, truncated, info = super().step(action)
        if is_now and self.kind == "nan":
            observation["position"][0] = np.nan
        if is_now and self.kind == "shape":
            observation["position"] = np.zeros(3, np.float32)
        if is_now and self.kind == "missing":
            del observation["target"]
        if is_now and self.kind == "score":
            info["score"] *= 100
        if is_now and self.kind == "success":
            del info["success"]
        if self.is_bad and self.kind == "endless":
            self.is_over = terminated = truncated = False
        if self.kind == "old step":
            return observation, reward, terminated or truncated, info
        return observation, reward, terminated, truncated, info

    def render(self):
        if self.kind == "no render":
            raise NotImplementedError("this simulation has no window")
        if self.kind == "render" and self.num_steps == 4:
            raise RuntimeError("the window was closed")
        return super().render()


def faulty(kind, **options):
    """A task whose environments are `Faulty`."""
    return replace(REACH, make=partial(Faulty, kind=kind, **options))


class Watching(Reach):
    """A simulation whose score says whether its process has loaded torch."""

    def _observe(self):
        observation, info = super()._observe()
        return observation, info | {"score": float("torch" in sys.modules)}


def half(state):
    """A phase: in which half the point is; nobody knows it of targets far below."""
    return (
        {True: "left", False: "right"}[bool(state["position"][0] < 0)] if state["target"][1] > -0.6 else {}["nothing"]
    )


def expert(seed):
    return lambda observation: observation["target"]


def lazy_expert(seed):
    """An expert that does not move on every third seed."""
    return lambda observation: observation["position" if seed % 3 == 0 else "target"]


def hopeless_expert(seed):
    return lambda observation: observation["position"]


REACH = Task("reach", SPECIFICATION, MAX_STEPS, Reach, expert, position="position")
DYING = replace(REACH, make=Dying)
SLOW = replace(REACH, make=Slow)
WATCHING = replace(REACH, make=Watching)
LAZY = replace(REACH, expert=lazy_expert)
HOPELESS = replace(REACH, expert=hopeless_expert)
STEP, NAN, OLD_STEP, NO_RENDER, DIE = (faulty(kind) for kind in ("step", "nan", "old step", "no render", "die"))
LAMBDA = replace(REACH, make=lambda render_mode=None: Reach(render_mode))
NO_POSITION = replace(REACH, position=None)
NO_TASK = 3


def make_robot(rate):
    """A user's driver: the toy in the process of the control loop, without a judge of success."""
    return Simulation(REACH, MonotonicClock(), rate=rate)


def echo(request):
    """A planner whose chunk (16, 2) depends on the whole request: sums of the history, and the prefix."""
    total = sum(float(np.sum(values)) for values in request.history.values())
    chunk = np.full((16, 2), total, dtype=np.float32)
    if request.prefix is not None:
        prefix = request.prefix
        chunk += prefix.weights[:, None] * prefix.actions
        chunk[-1] = prefix.start, prefix.limit + 100 * prefix.exact
    return chunk


def load_echo(seconds=0.0):
    """`echo`, which takes `seconds`."""

    def predict(request):
        time.sleep(seconds)
        return echo(request)

    return predict


def load_noting(path):
    """`echo`, which adds a line for each request to a file: the start of its prefix, or 0."""

    def predict(request):
        with path.open("a") as file:
            file.write(f"{request.prefix.start if request.guidance else 0}\n")
        return echo(request)

    return predict


def load_nothing(message):
    raise ValueError(message)
