"""What a task is: a gymnasium environment with a specification, and what is known beside it.

Every task keeps the same promises; `recede.envs.check.check_task` tries them all:

- the task can be pickled, because worker processes get it, and the spaces of its environment are those of the streams;
- `info["state"]`, where the task has an expert, is the observation that the expert answers, whatever the policy sees;
- observations are a dictionary with one array for each observation stream, of its shape, dtype and limits, which later
  steps leave as it is;
- actions are absolute, in the units of the action stream, and clipped to its limits by the environment;
- `info` holds `"success"` (bool) and `"score"` (float in [0, 1], of this step) after reset and after every step;
- an episode is terminated by success and truncated after `max_steps` steps, by the environment itself;
- a mirror is its own inverse and stays within the limits; `restore` begins in the observed state; a robot that is
  commanded its `position` stays there;
- with `render_mode="rgb_array"`, `render()` returns an (H, W, 3) uint8 image or raises OSError if this machine cannot
  render, and `pixels(actions)`, if there is one, says where in that image the actions (T, Da) point, as (T, 2) columns
  and rows;
- on one machine an episode is bitwise determined by the seed given to `reset` and the actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..specification import Source, Specification, nearest

Observation: TypeAlias = Mapping[str, NDArray[Any]]
"""One step: a stream's name -> array of the stream's shape."""

Expert: TypeAlias = Callable[[Observation], NDArray[np.float32]]
"""One episode's scripted demonstrator: it is shown each `info["state"]` in turn and answers with an action (Da,)."""


@dataclass(frozen=True)
class Task:
    """A task to learn: its environment, and how demonstrations of it are made or read.

    name: as in `task=name`. max_steps: control steps until an episode is truncated.
    make: builds an environment; `make(render_mode="rgb_array")` one that renders.
    expert: `expert(seed)` is a scripted demonstrator of one episode, or None where there is none.
    sources: for each stream, where it is found in the replay buffers that others publish for this task.
    restore: from an episode's first observation, the `options` with which `reset` begins in that state.
    mirror: where there is a mirror in which the task stays the same, how the rows (T, ...) of each stream look in it.
    position: the observation stream that says where the robot is, in the units of the action: to command it is to stay.

    Raises ValueError where `position` is no observation stream of the action's shape.
    """

    name: str
    specification: Specification
    max_steps: int
    make: Callable[..., gymnasium.Env[Any, Any]]
    expert: Callable[[int], Expert] | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    restore: Callable[[Observation], dict[str, Any]] | None = None
    mirror: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] | None = None
    position: str | None = None

    def __post_init__(self) -> None:
        if self.position is not None:
            check_position(self.position, self.specification)


def check_position(name: str, specification: Specification) -> None:
    """Raises ValueError unless that observation stream can say where a robot is: it must have the action's shape."""
    shapes = {stream.name: stream.shape for stream in specification.observations}
    if name not in shapes:
        raise ValueError(f"position must be an observation stream, got {name!r}: {nearest(name, shapes)}")
    if shapes[name] != specification.action.shape:
        raise ValueError(
            f"position must be a stream of the action's shape {specification.action.shape}, "
            f"got {name!r} of shape {shapes[name]}"
        )
