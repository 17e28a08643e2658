"""Tasks of Meta-World (Yu et al. 2019) and of the Fetch robot of gymnasium-robotics, with experts whose hands shake.

    pip install metaworld gymnasium-robotics
    PYTHONPATH=benchmarks recede collect task=third_party:push episodes=60 out=data/push.zarr

Both observe a vector and command four numbers in [-1, 1]: a motion of the hand and the gripper. The experts of
Meta-World are its own scripts. gymnasium-robotics has none, so two scripts are here. Noise of standard deviation
`NOISE` is added to every motion that an expert commands, and not to its gripper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from recede.envs.gymnasium_adapter import GymnasiumAdapter
from recede.envs.task import Task
from recede.specification import Specification, Stream

NOISE = 0.2
ACTION = Stream("action", (4,), low=-1.0, high=1.0)
META_WORLD = Specification((Stream("state", (39,)),), ACTION, control_dt=0.0125)
FETCH = Specification((Stream("state", (28,)),), ACTION, control_dt=0.04)
META_WORLD_STEPS, FETCH_STEPS = 300, 100
REACHED = 0.05
"""Metres between object and goal of a Fetch task that count as success."""

Vector = NDArray[np.float64]
Observation = Mapping[str, NDArray[Any]]
Script = Callable[[Vector, dict[str, bool]], Vector]
"""(state (28,), a memory of its own) -> action (4,)."""


class Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment of Meta-World, whose object and goal are drawn from the seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        del options
        self.unwrapped.seed(seed)  # type: ignore[attr-defined]
        return self.unwrapped.reset()


class Shown(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts the observation into `info` as the state, which is what an expert sees."""

    def __init__(self, env: gymnasium.Env[Any, Any], observe: Callable[[Any, Any], dict[str, Any]]) -> None:
        super().__init__(env)
        self.observe = observe

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        raw, info = self.env.reset(seed=seed, options=options)
        return raw, {**info, "state": self.observe(raw, info)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Do one control step."""
        raw, reward, terminated, truncated, info = self.env.step(action)
        return raw, reward, terminated, truncated, {**info, "state": self.observe(raw, info)}


def shaking(act: Callable[[Vector], Vector], noise: float, seed: int) -> Callable[[Observation], NDArray[Any]]:
    """An expert whose motions have noise; its gripper has none."""
    generator, scale = np.random.default_rng(seed), noise * np.array([1, 1, 1, 0])

    def noisy(observation: Observation) -> NDArray[Any]:
        action = np.clip(act(observation["state"].astype(np.float64)), -1, 1) + scale * generator.standard_normal(4)
        return action.clip(-1, 1).astype(np.float32)

    return noisy


# --- Meta-World


def _observe_state(raw: Any, info: Any) -> dict[str, Any]:
    del info
    return {"state": np.asarray(raw, np.float32)}


def _judge_info(raw: Any, reward: float, terminated: bool, info: Mapping[str, Any]) -> tuple[bool, float]:
    del raw, reward, terminated
    success = bool(info.get("success", 0.0))
    return success, float(success)


def _make_meta_world(name: str, render_mode: str | None = None) -> GymnasiumAdapter:
    kind = import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-goal-observable"]
    env = kind(render_mode=render_mode, seed=0)
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    shown = Shown(Seeded(env), _observe_state)
    return GymnasiumAdapter(shown, META_WORLD, observe=_observe_state, judge=_judge_info, max_steps=META_WORLD_STEPS)


def _meta_world_expert(name: str, noise: float, seed: int) -> Callable[[Observation], NDArray[Any]]:
    script = import_module("metaworld.policies").ENV_POLICY_MAP[name]()
    return shaking(script.get_action, noise, seed)


def meta_world(name: str, noise: float = NOISE) -> Task:
    """A task of Meta-World."""
    return Task(
        name=name,
        specification=META_WORLD,
        max_steps=META_WORLD_STEPS,
        make=partial(_make_meta_world, name),
        expert=partial(_meta_world_expert, name, noise),
    )


push, pick_place, peg, hammer, assembly = (
    meta_world(f"{name}-v3") for name in ("push", "pick-place", "peg-insert-side", "hammer", "assembly")
)


# --- gymnasium-robotics


def _observe_goal(raw: Mapping[str, Any], info: Any) -> dict[str, Any]:
    del info
    return {"state": np.concatenate([raw["observation"], raw["desired_goal"]]).astype(np.float32)}


def _judge_distance(raw: Mapping[str, Any], reward: float, terminated: bool, info: Any) -> tuple[bool, float]:
    del reward, terminated, info
    success = bool(np.linalg.norm(raw["achieved_goal"] - raw["desired_goal"]) < REACHED)
    return success, float(success)


def _make_fetch(name: str, render_mode: str | None = None) -> GymnasiumAdapter:
    gymnasium.register_envs(import_module("gymnasium_robotics"))
    env = gymnasium.make(name, render_mode=render_mode, max_episode_steps=2 * FETCH_STEPS)
    shown = Shown(env, _observe_goal)
    return GymnasiumAdapter(shown, FETCH, observe=_observe_goal, judge=_judge_distance, max_steps=FETCH_STEPS)


def _pick(state: Vector, memory: dict[str, bool]) -> Vector:
    """Above the object, down to it, close, carry."""
    hand, block, goal, width = state[:3], state[3:6], state[25:28], state[9:11].sum()
    distance = np.linalg.norm(block - hand)
    if distance < 0.03 and width < 0.055:
        memory["holds"] = True
    if distance > 0.06:
        memory["holds"] = False
    if memory.get("holds"):
        return np.append(8 * (goal - block), -1)
    if distance < 0.015:
        return np.array([0, 0, 0, -1])
    is_above = np.linalg.norm((block - hand)[:2]) < 0.02
    return np.append(8 * (block + np.array([0, 0, 0.0 if is_above else 0.1]) - hand), 1)


def _push(state: Vector, memory: dict[str, bool]) -> Vector:
    """Over the block to the side that lies opposite to the goal, down, and towards the goal."""
    hand, block, goal = state[:3], state[3:6], state[25:28]
    direction = (goal - block)[:2] / (np.linalg.norm((goal - block)[:2]) + 1e-6)
    start = block - 0.07 * np.append(direction, 0)
    ahead = direction @ (block - hand)[:2]
    if np.linalg.norm((start - hand)[:2]) > 0.12 or ahead < 0:
        memory["behind"] = False
    if memory.get("behind"):
        sideways = (block - hand)[:2] - ahead * direction
        target = np.append(hand[:2] + 0.05 * direction + 1.5 * sideways, block[2])
    else:
        height = 0.12 if np.linalg.norm((start - hand)[:2]) > 0.02 else 0.0
        target = start + np.array([0, 0, height])
        memory["behind"] = bool(np.linalg.norm(start - hand) < 0.02)
    return np.append(10 * (target - hand), -1)


def _fetch_expert(script: Script, noise: float, seed: int) -> Callable[[Observation], NDArray[Any]]:
    memory: dict[str, bool] = {}
    return shaking(lambda state: script(state, memory), noise, seed)


def fetch(name: str, script: Script, noise: float = NOISE) -> Task:
    """A task of the Fetch robot."""
    return Task(
        name=name,
        specification=FETCH,
        max_steps=FETCH_STEPS,
        make=partial(_make_fetch, name),
        expert=partial(_fetch_expert, script, noise),
    )


fetch_push, fetch_pick = fetch("FetchPush-v4", _push), fetch("FetchPickAndPlace-v4", _pick)
