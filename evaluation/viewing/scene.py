"""Pictures of recorded steps, by the simulation of their task.

A task that restores observed states shows the recorded state of a step. Another one takes the recorded actions from the
seed of the episode on, so a picture costs the steps before it; the next picture goes on from there.

Shapes: N chunks of T actions; Da size of the action.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.demonstrations import Demonstrations
from ...envs.faults import RunningEnv
from ...envs.task import Observation, Task

TOLERANCE = 1e-3
"""A simulated observation that differs from the recorded one by more, as a share of its range, shows another scene."""


class Scene:
    """The simulation of a task, in the steps of demonstrations. Only one thread may use it.

    Raises ValueError if the specifications of demonstrations and task differ, or if no episode can be shown.
    """

    def __init__(self, task: Task, demonstrations: Demonstrations) -> None:
        if differences := demonstrations.specification.differences(task.specification):
            raise ValueError(
                f"{demonstrations.path} must have the streams of the task {task.name!r}, whose values come second, to "
                f"show the scene: {'; '.join(differences)}"
            )
        if task.restore is None and (demonstrations.episode_seeds < 0).all():
            raise ValueError(f"no episode has its seed, and the task {task.name!r} restores no observed state")
        self.task, self._demonstrations = task, demonstrations
        self._env = RunningEnv(partial(task.make, render_mode="rgb_array"), task.specification)
        self._place = (-1, -1)  # the episode and the step that the simulation is in
        self._observation: Observation = {}
        self._read: tuple[int, dict[str, NDArray[Any]]] = -1, {}  # an episode, and its vectors
        self._shape = (1, 1)
        self.fault = ""
        """Why there is no picture."""
        self.differs = False
        """Whether the newest picture shows another state than the recorded one."""

    def picture(self, episode: int, step: int) -> NDArray[np.uint8] | None:
        """An (H, W, 3) image of a step; None if it cannot be shown, and `fault` says why."""
        if self.task.restore is None and self._demonstrations.episode_seeds[episode] < 0:
            self.fault = "the seed of the episode is unknown"
            return None
        try:
            self._go_to(episode, step)
            image = self._env.preview(np.asarray(self._row("action", episode, step)), 0.0)
            image = self._env.picture() if image is None else image
        except Exception as error:  # each simulation and each graphics library raises errors of its own
            self.fault, self._place = self._env.fault(error).cause, (-1, -1)
            self._env.close()
            return None
        self._shape = image.shape[:2]
        self.differs = any(self._has_other(name, episode, step) for name in self._observation)
        return image

    def points(self, chunks: NDArray[Any]) -> NDArray[np.float64] | None:
        """Where actions (N, T, Da) point in the newest picture, as shares of its width and height; None if unknown."""
        pixels = None if self._place[0] < 0 else getattr(self._env.env.unwrapped, "pixels", None)
        if pixels is None:
            return None
        try:
            points = [np.asarray(pixels(chunk), np.float64) for chunk in chunks]
        except Exception:  # of an adapter that knows no pixels; the picture is worth more than the points
            return None
        return np.stack(points) / self._shape[::-1]

    def close(self) -> None:
        """End the simulation."""
        self._env.close()

    def _row(self, name: str, episode: int, step: int) -> NDArray[Any]:
        """A step of a stream. The vectors of an episode are read once."""
        start, stop = self._demonstrations.bounds(episode)
        if self._demonstrations.stream(name).is_image:
            return self._demonstrations.read(name, start + step, start + step + 1)[0]
        if self._read[0] != episode:
            self._read = episode, {}
        if name not in self._read[1]:
            self._read[1][name] = self._demonstrations.read(name, start, stop)
        return self._read[1][name][step]

    def _go_to(self, episode: int, step: int) -> None:
        seed = int(self._demonstrations.episode_seeds[episode])
        if self.task.restore is not None:
            names = [stream.name for stream in self.task.specification.observations]
            options = self.task.restore({name: self._row(name, episode, step) for name in names})
            self._observation, _ = self._env.reset(max(seed, 0), options=options)
        else:
            at, now = self._place
            if at != episode or now > step:
                self._observation, _ = self._env.reset(seed)
                now = 0
            for index in range(now, step):
                self._observation, *_ = self._env.step(self._row("action", episode, index))
        self._place = episode, step

    def _has_other(self, name: str, episode: int, step: int) -> bool:
        stream, recorded = self._demonstrations.stream(name), self._row(name, episode, step)
        if stream.is_image:
            return False  # of a camera; the vectors decide
        span = np.subtract(stream.high, stream.low) if stream.low else np.maximum(np.abs(recorded), 1.0)
        difference = np.abs(np.subtract(self._observation[name], recorded, dtype=np.float64))
        return bool((difference > TOLERANCE * span).any())
