"""Many worlds of a task on a table in one `mujoco.batch.Batch`, which steps them on all processors.

Shapes: N worlds, n of them in a call; Da size of the action.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from .manipulator import Array
from .physics import POSES, batch_module, failure, mujoco
from .vector import LoopedWorlds, Rows, Worlds


class TableWorlds(Worlds):
    """Many worlds of a task on a table.

    One environment of the task resets each world, reads and judges all of them, and draws the images of those that are
    looked at, with one renderer for all. If a wrapper changes its model at a reset, each world has a model of its own.

    make: makes that environment, a `TableTask` or a wrapper of one that acts at its reset only.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], count: int) -> None:
        self._made = make()
        self._env: Any = self._made.unwrapped
        super().__init__(self._env.specification, count)
        self._batch = batch = self._env.simulations(count)
        names = ("qpos", "mocap_pos", "qvel", "ctrl")
        self._positions, self._marks, self._velocities, self._controls = (batch.bind(name) for name in names)
        streams = self.specification.observations
        self._images = {s.name: np.zeros((count, *s.shape), np.uint8) for s in streams if s.is_image}
        self._poses = {name: batch.bind(name) for name in POSES} if self._images else {}
        self._models = None if self._made is self._env else [batch.model] * count
        self._fixed = {stream.name: np.zeros((count, *stream.shape)) for stream in self._env.things.fixed}
        self._generators: list[np.random.Generator | None] = [None] * count
        self._sentences, self._errors = np.full(count, "", object), np.full(count, None, object)
        self._has_failed = np.zeros(count, bool)
        self._whole, self._score, self._steps = np.zeros(count), np.zeros(count), np.zeros(count, int)

    def begin(self, ids: Array, seeds: Sequence[int | None]) -> tuple[Rows, dict[str, Any]]:
        """See `Worlds.begin`."""
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)  # the warning counters too
        self._errors[ids], self._has_failed[ids] = None, False
        for index, seed in zip(ids, seeds, strict=True):
            try:
                self._begin(index, seed)
            except Exception as error:
                self._fail(index, error)
        if self._models is not None:
            self._batch.set_models(self._models)
        observation, info, self._score[ids] = self._judged(ids)
        return observation, info

    def advance(self, ids: Array, actions: Array) -> tuple[Rows, Array, Array, Array, dict[str, Any]]:
        """See `Worlds.advance`."""
        if not self._whole[ids].all():
            raise gymnasium.error.ResetNeeded("reset every world before its first step")
        self._controls[ids] = self._env.controls(self._positions[ids], actions)
        going = ids[~self._has_failed[ids]]
        self._steps[going] += 1
        self._step(going)
        if self._images:
            self._draw(going[self.is_looked_at[going] & ~self._has_failed[going]])
        observation, info, score = self._judged(ids)
        rewards, self._score[ids] = score - self._score[ids], score
        has_failed = self._has_failed[ids]
        rewards[has_failed] = 0.0
        truncated = (self._steps[ids] >= self._env.max_steps) & ~info["success"] | has_failed
        return observation, rewards, info["success"].copy(), truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment that judges."""
        self._made.close()

    def _begin(self, index: int, seed: int | None) -> None:
        env = self._env
        if seed is None:
            env.np_random = self._generators[index] or np.random.default_rng()
        try:
            observation, info = self._made.reset(seed=seed)
        finally:
            self._generators[index] = env.np_random
        self._sentences[index] = info["sentence"]
        fixed, self._whole[index] = env.start(self._batch.state[index])
        for values, rows in ((self._fixed, fixed), (self._images, observation)):
            for name in values:
                values[name][index] = rows[name]
        if self._models is not None:
            self._models[index] = copy.copy(self._batch.model)  # which the environment has changed
        self._steps[index] = 0

    def _step(self, ids: Array) -> None:
        """Step some worlds, and note the errors of those that fail."""
        try:
            self._batch.step(ids, nstep=self._env.substeps)
        except RuntimeError:
            failed = ids[self._batch.status[ids] != 0]
            if not len(failed):
                raise
            for index in failed:  # as `mj_step` fails; the others took their step
                self._fail(index, mujoco.FatalError(self._batch.error(index)))
        counts = self._batch.warning[ids, :, 1]  # of each kind: the last information, and the number
        for row in np.flatnonzero(counts.any(-1)):
            self._fail(ids[row], failure(counts[row], int(self._steps[ids[row]])))

    def _draw(self, ids: Array) -> None:
        """Draw the images of some worlds."""
        for index in ids:
            poses = {name: values[index] for name, values in self._poses.items()}
            model = None if self._models is None else self._models[index]
            try:
                images = self._env.images(poses, model)
            except Exception as error:
                self._fail(index, error)
                continue
            for name, image in images.items():
                self._images[name][index] = image

    def _fail(self, index: int, error: Exception) -> None:
        self._errors[index], self._has_failed[index] = error, True

    def _judged(self, ids: Array) -> tuple[Rows, dict[str, Any], Array]:
        """The observations, infos and scores of some worlds."""
        env, fixed = self._env, {name: values[ids] for name, values in self._fixed.items()}
        state = env.read(self._positions[ids], self._marks[ids], fixed)
        success, score = env.judge(state, self._velocities[ids], self._whole[ids])
        has_failed = self._has_failed[ids]
        success[has_failed], score[has_failed] = False, 0.0
        info = {"success": success, "score": score, "state": state}
        info |= {"sentence": self._sentences[ids], "error": self._errors[ids]}
        images = {name: values[ids] for name, values in self._images.items()}
        names = (stream.name for stream in self.specification.observations)
        return {name: images[name] if name in images else state[name] for name in names}, info, score


def table_worlds(make: Callable[[], gymnasium.Env[Any, Any]], count: int) -> Worlds:
    """So many worlds of a task on a table, in a batch if MuJoCo has one. make: see `TableWorlds`."""
    if batch_module() is not None:
        return TableWorlds(make, count)
    specification = make().unwrapped.specification  # type: ignore[attr-defined]
    return LoopedWorlds(make, specification, count)
