"""What a task is: a gymnasium environment with a specification, and its scripted expert, data sources and mirror.

Every task keeps the same promises; `recede.envs.check.check_task` checks all of them:

- The task can be pickled, because it is sent to worker processes. The spaces of its environment are those of the
  streams.
- Observations are a dictionary with one array for each observation stream, of its shape, dtype and limits. Later steps
  do not change an array that was returned.
- Actions are absolute, in the units of the action stream. The environment clips them to the stream's limits.
- `info` holds `"success"` (bool) and `"score"` (float in [0, 1], of this step) after reset and every step. If the task
  has an expert, `info["state"]` is the observation for the expert, whatever the policy observes. `info["sentence"]`, if
  there is one, says what the episode asks for.
- An episode is terminated by success and truncated after `max_steps` steps, by the environment itself.
- On one machine, the seed given to `reset` and the actions determine an episode bit for bit.
- If there is a `make_batch`, each of its worlds is equal to an environment of `make` to the last bit, given the same
  seeds and actions.
- A mirror is its own inverse and stays within the limits. A reset with `restore` begins in the observed state. A robot
  that is commanded its `position` stays there.
- With `render_mode="rgb_array"`, `render()` returns an (H, W, 3) uint8 image, or raises OSError if this machine cannot
  render. If there is a method `pixels(actions)`, it returns where the actions (T, Da) point in that image: (T, 2)
  columns and rows. `pixels_in(stream, actions)` returns the same for the images of a stream, or None if its camera
  moves.
- If there is a `phase`, it names a phase in any state of any episode.
- If there is a method `preview(action, share)`, it returns such an image of the scene after that share of a control
  step with the action (Da,), and changes nothing. People drive by it: it is called 30 times a second beside the
  simulation, so it should take a few milliseconds, with a coarser image if need be.
- If there is a method `disturb(kind, severity, random)`, it disturbs the world by a severity, drawn from the generator:
  "push" is a force on the robot (N) in the next step. "camera" moves the cameras (m); "light", "mass", "friction" and
  "colour" change these by a share; all from the next reset on, until it is called again. See `envs.disturbances`.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..specification import Source, Specification, nearest
from .vector import Worlds

Observation: TypeAlias = Mapping[str, NDArray[Any]]
"""One step: stream name -> array of the stream's shape."""

Expert: TypeAlias = Callable[[Observation], NDArray[np.float32]]
"""A scripted demonstrator of one episode: from each `info["state"]` in turn to an action (Da,)."""


@dataclass(frozen=True)
class Task:
    """A task to learn: its environment, and how its demonstrations are recorded or read.

    Raises ValueError if `position` is not an observation stream of the action's shape.
    """

    name: str
    """The value of `task=name` on the command line."""
    specification: Specification
    """The streams that a policy observes and commands."""
    max_steps: int
    """Control steps until an episode is truncated."""
    make: Callable[..., gymnasium.Env[Any, Any]]
    """Makes an environment; `make(render_mode="rgb_array")` makes one that renders."""
    expert: Callable[[int], Expert] | None = None
    """`expert(seed)` returns the scripted demonstrator of one episode; None if there is none."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Stream name -> its source in the replay buffers that others publish for this task."""
    restore: Callable[[Observation], dict[str, Any]] | None = None
    """From the first observation of an episode to the `options` of a reset to that state."""
    mirror: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] | None = None
    """Stream name -> function from its rows (T, ...) to their mirror images; None if the task has no mirror."""
    position: str | None = None
    """The observation stream that holds the robot's position in the units of the action; commanding it holds still."""
    make_batch: Callable[[int], Worlds] | None = None
    """`make_batch(count)` makes so many worlds in one process, each equal to an environment; None if there is none."""
    phase: Callable[[Observation], str] | None = None
    """From the last state of a failed episode (`state_of`) to the phase in which it ended, as "carrying"; None if the
    task names no phases."""

    def __post_init__(self) -> None:
        if self.position is not None:
            check_position(self.position, self.specification)


def state_of(observation: Observation, info: Mapping[str, Any]) -> Observation:
    """Everything that a step shows: `info["state"]`, and what else is observed."""
    return {**observation, **info.get("state", {})}


def check_position(name: str, specification: Specification) -> None:
    """Raise ValueError unless `name` is an observation stream of the action's shape."""
    shapes = {stream.name: stream.shape for stream in specification.observations}
    if name not in shapes:
        raise ValueError(f"position must be an observation stream, got {name!r}: {nearest(name, shapes)}")
    if shapes[name] != specification.action.shape:
        raise ValueError(
            f"position must be a stream of the action's shape {specification.action.shape}, "
            f"got {name!r} of shape {shapes[name]}"
        )


def check_picklable(value: Any, what: str, remedy: str = "") -> None:
    """Raise ValueError unless another process can get `value`. what, remedy: words for the message."""
    try:
        _Pickler(io.BytesIO()).dump(value)
    except Exception as error:  # whatever the parts of the user raise
        raise ValueError(
            f"{what} must be picklable, but {error}: use functions and classes at the top of a module, and "
            f"functools.partial, instead of lambdas and nested functions{', ' if remedy else ''}{remedy}"
        ) from None


class _Pickler(pickle.Pickler):
    """Refuses what another process cannot import: the parts of a program without a file, as of `python -c`."""

    def reducer_override(self, obj: Any) -> Any:
        path = getattr(sys.modules["__main__"], "__file__", None)
        has_file = path is not None and Path(path).exists()
        if not has_file and callable(obj) and getattr(obj, "__module__", None) == "__main__":
            raise pickle.PicklingError(f"{obj} is defined in a program without a file")
        return NotImplemented
