"""Recorded actions, applied again: does the environment do what it did when they were recorded?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..datasets.demonstrations import Demonstrations
from ..envs.task import Observation, Task


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far one episode came from its recording.

    deviations: for each observation stream, the largest absolute difference between what was observed and what was
    recorded, in any dimension at any step, in the stream's units. success: whether it ended in success.
    num_steps: steps that were applied; fewer than `recorded_steps` where the episode ended before its recording did.
    """

    episode: int
    success: bool
    num_steps: int
    recorded_steps: int
    deviations: dict[str, float]


def replay(task: Task, demonstrations: Demonstrations, episodes: Sequence[int] | None = None) -> Iterator[Replayed]:
    """Apply the recorded actions of each episode open loop, from the state that its recording began in.

    An episode begins from the seed that it was recorded with, or, where that is unknown, by `task.restore` from its
    first observation. episodes: indices; None for all.

    Raises ValueError, before anything is replayed, where the demonstrations are of another specification than the
    task, an episode does not exist, or there is neither a seed nor a way to restore the initial state.
    """
    episodes = range(len(demonstrations)) if episodes is None else episodes
    _check(task, demonstrations, episodes)
    return _replay(task, demonstrations, episodes)


def _check(task: Task, demonstrations: Demonstrations, episodes: Sequence[int]) -> None:
    if differences := demonstrations.specification.differences(task.specification):
        raise ValueError(
            f"the demonstrations must have the specification of the task {task.name!r} (theirs is named first): "
            + "; ".join(differences)
        )
    count = len(demonstrations)
    for episode in episodes:
        if not 0 <= episode < count:
            raise ValueError(f"the episode must be one of 0 .. {count - 1}, got {episode}")
        if demonstrations.episode_seeds[episode] < 0 and task.restore is None:
            raise ValueError(
                f"episode {episode} was recorded without its seed, and the task {task.name!r} cannot restore an "
                "observed state: record the seeds, or give the task a restore function"
            )


def _replay(task: Task, demonstrations: Demonstrations, episodes: Sequence[int]) -> Iterator[Replayed]:
    env = task.make()
    try:
        for episode in episodes:
            yield _replay_episode(env, task, demonstrations, episode)
    finally:
        env.close()


def _replay_episode(env: gymnasium.Env[Any, Any], task: Task, demonstrations: Demonstrations, episode: int) -> Replayed:
    start, stop = demonstrations.bounds(episode)
    recorded = {stream.name: demonstrations.read(stream.name, start, stop) for stream in task.specification.streams}
    actions = recorded.pop("action")
    observation, info = _begin(env, task, int(demonstrations.episode_seeds[episode]), recorded)
    observed: list[Observation] = []
    for action in actions:
        observed.append(observation)  # before the action, as it was recorded
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    deviations = {name: _deviation([step[name] for step in observed], rows) for name, rows in recorded.items()}
    return Replayed(episode, bool(info["success"]), len(observed), len(actions), deviations)


def _deviation(observed: list[NDArray[Any]], recorded: NDArray[Any]) -> float:
    steps = np.stack(observed).astype(np.float64)
    return float(np.abs(steps - recorded[: len(steps)]).max())


def _begin(
    env: gymnasium.Env[Any, Any], task: Task, seed: int, recorded: Observation
) -> tuple[Observation, dict[str, Any]]:
    if seed >= 0:
        return env.reset(seed=seed)
    assert task.restore is not None  # checked before the first episode
    return env.reset(options=task.restore({name: rows[0] for name, rows in recorded.items()}))
