"""Replay recorded actions in an environment, to test whether it does the same as in the recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.demonstrations import Demonstrations
from ..envs.faults import Fault, RunningEnv
from ..envs.task import Observation, Task


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far one episode deviated from its recording."""

    episode: int
    """The number of the episode in its file or folder."""

    success: bool
    """Whether the last step was a success."""

    num_steps: int
    """The number of replayed steps, fewer than recorded if the environment ended the episode earlier."""

    recorded_steps: int
    """The number of recorded steps."""

    deviations: dict[str, float]
    """A stream's name -> the largest absolute difference from its recording, in any dimension at any step, in units."""


def replay(
    task: Task, demonstrations: Demonstrations, episodes: Sequence[int] | None = None
) -> Iterator[Replayed | Fault]:
    """Apply the recorded actions of each episode open loop, from the initial state of its recording.

    The initial state comes from the recorded seed, or, if that is unknown, from `task.restore` of the first
    observation. episodes: indices, or None for all. An episode that breaks off has a fault instead, whose seed is -1 if
    it is unknown.

    Raises ValueError, before anything is replayed, if the specifications of demonstrations and task differ, if an
    episode does not exist, or if it has no seed and the task cannot restore its initial state.
    """
    episodes = range(len(demonstrations)) if episodes is None else episodes
    _check(task, demonstrations, episodes)
    return _replay(task, demonstrations, episodes)


def _check(task: Task, demonstrations: Demonstrations, episodes: Sequence[int]) -> None:
    if differences := demonstrations.specification.differences(task.specification):
        raise ValueError(
            f"the demonstrations must have the specification of the task {task.name!r}, whose values come second: "
            + "; ".join(differences)
        )
    count = len(demonstrations)
    for episode in episodes:
        if not 0 <= episode < count:
            raise ValueError(f"the episode must be one of 0 .. {count - 1}, got {episode}")
        if demonstrations.episode_seeds[episode] < 0 and task.restore is None:
            raise ValueError(
                f"episode {demonstrations.episode_numbers[episode]} was recorded without its seed, and the task "
                f"{task.name!r} cannot restore an observed state: record the seeds, or give the task a restore function"
            )


def _replay(task: Task, demonstrations: Demonstrations, episodes: Sequence[int]) -> Iterator[Replayed | Fault]:
    env = RunningEnv(task.make, task.specification)
    try:
        for episode in episodes:
            try:
                result = _replay_episode(env, task, demonstrations, episode)
            except Exception as error:  # whatever it is, it is no reason to lose the other episodes
                result = env.fault(error)
                env.close()  # its state is unknown
            yield result
    finally:
        env.close()


def _replay_episode(env: RunningEnv, task: Task, demonstrations: Demonstrations, episode: int) -> Replayed:
    start, stop = demonstrations.bounds(episode)
    recorded = {stream.name: demonstrations.read(stream.name, start, stop) for stream in task.specification.streams}
    actions = recorded.pop("action")
    observation, info = _begin(env, task, int(demonstrations.episode_seeds[episode]), recorded)
    observed: list[Observation] = []
    for action in actions:
        observed.append(observation)  # before the action, as in the recording
        observation, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    deviations = {name: _deviation([step[name] for step in observed], rows) for name, rows in recorded.items()}
    return Replayed(
        int(demonstrations.episode_numbers[episode]), bool(info["success"]), len(observed), len(actions), deviations
    )


def _deviation(observed: list[NDArray[Any]], recorded: NDArray[Any]) -> float:
    steps = np.stack(observed).astype(np.float64)
    return float(np.abs(steps - recorded[: len(steps)]).max())


def _begin(env: RunningEnv, task: Task, seed: int, recorded: Observation) -> tuple[Observation, dict[str, Any]]:
    if seed >= 0:
        return env.reset(seed)
    assert task.restore is not None  # checked before the first episode
    return env.reset(seed, options=task.restore({name: rows[0] for name, rows in recorded.items()}))
