"""Where actions point in the images of cameras, by the task of the demonstrations.

Shapes: N chunks of T actions; Da size of the action.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.demonstrations import Demonstrations
from ...envs.task import Task


class Projection:
    """The cameras of a task of which it knows where actions point in their images. Any thread may use it.

    Raises ValueError if the action of the demonstrations is another one than that of the task.
    """

    def __init__(self, task: Task, demonstrations: Demonstrations) -> None:
        action, other = demonstrations.specification.action, task.specification.action
        if (action.shape, action.labels, action.units) != (other.shape, other.labels, other.units):
            raise ValueError(f"the action is another one than that of the task {task.name!r}")
        self._env: Any = task.make().unwrapped
        self._lock = Lock()  # the environment is for one thread
        names = {stream.name for stream in demonstrations.specification.observations if stream.is_image}
        images = [stream for stream in task.specification.observations if stream.is_image and stream.name in names]
        first = demonstrations.read("action", 0, 1)
        self._sizes = {
            stream.name: stream.shape[:2] for stream in images if self._pixels(stream.name, first) is not None
        }

    @property
    def cameras(self) -> list[str]:
        """The streams in whose images actions have a place."""
        return list(self._sizes)

    def points(self, chunks: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Camera -> where actions (N, T, Da) point in its images, as shares of their width and height (N, T, 2).

        The images of the demonstrations may have been resized, which keeps the shares.
        """
        return {
            name: np.stack([np.asarray(self._pixels(name, chunk), np.float64) for chunk in chunks]) / size[::-1]
            for name, size in self._sizes.items()
        }

    def _pixels(self, stream: str, actions: NDArray[Any]) -> Any:
        pixels_in = getattr(self._env, "pixels_in", None)
        with self._lock:
            return None if pixels_in is None else pixels_in(stream, actions)
