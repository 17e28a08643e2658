"""Disturbances of a task, each of a stated severity: what a policy meets on a robot, and did not meet in training.

An episode's disturbances follow from its seed, so policies and severities can be compared in the same episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..specification import Specification, Stream, nearest
from .disturbance_kinds import KINDS, PUSH_SHARE, RANDOMISED
from .task import Task
from .vector import BatchOf

OF_EPISODES = RANDOMISED
OF_THE_WORLD = ("push", *OF_EPISODES)
OF_IMAGES = ("camera", "light", "colour")


def disturbed(task: Task, kind: str, severity: float) -> Task:
    """The task under a disturbance. A delay changes no task; whoever rolls out the policy delays its chunks.

    Raises ValueError if the task cannot be disturbed so.
    """
    specification = task.specification
    if kind not in KINDS:
        raise ValueError(f"there is no disturbance {kind!r}: {nearest(kind, KINDS)}")
    if kind == "delay":
        return task
    sensed = tuple(stream for stream in specification.observations if not stream.context)
    noisy = {"observation_noise": sensed, "action_noise": (specification.action,)}.get(kind, ())
    for stream in noisy:
        if not stream.is_image and not stream.low:
            raise ValueError(f"{kind} is a share of the range, and stream {stream.name!r} has no limits: give it some")
    if kind in OF_IMAGES and not any(stream.is_image for stream in specification.observations):
        raise ValueError(f"{kind} changes only images, and task {task.name!r} has none: choose another disturbance")
    if kind in OF_THE_WORLD:
        env = task.make()
        try:
            has_it = hasattr(env.unwrapped, "disturb")
        finally:
            env.close()
        if not has_it:
            raise ValueError(f"the environment of task {task.name!r} has no method disturb, so {kind} cannot be tried")
    make = partial(_make, task.make, specification, kind, severity)
    batch = task.make_batch
    if kind not in OF_EPISODES or not isinstance(batch, BatchOf):
        return replace(task, make=make, make_batch=None)  # one world at a time is disturbed
    return replace(task, make=make, make_batch=replace(batch, make=make))


def randomised(task: Task, names: Sequence[str]) -> Task:
    """The task in a world that differs in each episode by the named kinds, each of its usual severity.

    Raises ValueError if the task cannot be randomised so.
    """
    for name in names:
        task = disturbed(task, name, KINDS[name].usual or 0.0)
    return task


def _make(
    make: Callable[..., Any], specification: Specification, kind: str, severity: float, **options: Any
) -> Disturbed:
    return Disturbed(make(**options), specification, kind, severity)


class Disturbed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment under one kind of disturbance. See `disturbed`."""

    def __init__(self, env: Any, specification: Specification, kind: str, severity: float) -> None:
        super().__init__(env)
        self.specification, self.kind, self.severity = specification, kind, severity
        self._random = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode, whose disturbances are drawn anew."""
        self._random = np.random.default_rng([seed or 0, list(KINDS).index(self.kind)])
        if self.kind in OF_EPISODES:  # before the first image
            self.env.unwrapped.disturb(self.kind, self.severity, self._random)  # type: ignore[attr-defined]
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: Any) -> Any:
        """Take a step, perhaps with another action, or a push."""
        if self.kind == "action_noise":
            action = self._noisy(self.specification.action, np.asarray(action))
        if self.kind == "push":
            newtons = self.severity if self._random.random() < PUSH_SHARE else 0.0
            self.env.unwrapped.disturb(self.kind, newtons, self._random)  # type: ignore[attr-defined]
        observation, *rest = self.env.step(action)
        return self._observed(observation), *rest

    def _observed(self, observation: Mapping[str, NDArray[Any]]) -> Any:
        if self.kind != "observation_noise":
            return observation
        return {
            stream.name: observation[stream.name] if stream.context else self._noisy(stream, observation[stream.name])
            for stream in self.specification.observations
        }

    def _noisy(self, stream: Stream, values: NDArray[Any]) -> NDArray[Any]:
        low, high = (0, 255) if stream.is_image else (np.array(stream.low), np.array(stream.high))
        noise = self.severity * (np.subtract(high, low)) * self._random.standard_normal(values.shape)
        return stream.cast(np.clip(values + noise, low, high))
