"""Record a task's scripted expert into a store of demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..datasets.store import DemonstrationStore
from ..envs.task import Task


class Collected(NamedTuple):
    """Episodes in the store and in the store of failures, and where that one is, if any failed."""

    successes: int
    failures: int
    failures_path: Path


def collect(task: Task, path: Path, *, episodes: int, first_seed: int = 0, images: str = "zstd") -> Collected:
    """Record until the store at `path` holds `episodes` successes; seed after seed from `first_seed` on.

    images: how those of a new store are compressed, see `DemonstrationStore.create`.

    A store that is there already is continued, so that an interrupted recording goes on where it stopped. Failures are
    kept apart, in a store beside it. Raises ValueError where the task has no expert, the store is of another
    specification, or the expert fails more often than it succeeds.
    """
    if task.expert is None:
        raise ValueError(
            f"task {task.name!r} has no scripted expert to record: download or record demonstrations of it"
        )
    failures_path = path.with_name(f"{path.stem}-failures{path.suffix}")
    store, failures = _open(path, task), _open(failures_path, task)
    if store is None:
        store = DemonstrationStore.create(path, task.specification, images=images)
    used = [int(seed) for each in (store, failures) if each is not None for seed in each.episode_seeds]
    seed = 1 + max([first_seed - 1, *used])
    env = task.make()
    with tqdm(total=episodes, initial=len(store), desc=f"collect {task.name}", unit="episode") as bar:
        while len(store) < episodes:
            streams, success = demonstrate(task, env, seed)
            if success:
                store.append(streams, seed=seed)
                bar.update()
            else:
                if failures is None:
                    failures = DemonstrationStore.create(failures_path, task.specification, images=images)
                failures.append(streams, seed=seed)
                if len(failures) > len(store) + 10:
                    raise ValueError(f"the expert of {task.name!r} fails more often than not, see {failures_path}")
            seed += 1
    env.close()
    return Collected(len(store), 0 if failures is None else len(failures), failures_path)


def demonstrate(task: Task, env: object, seed: int) -> tuple[dict[str, NDArray[np.generic]], bool]:
    """One episode of the expert, by stream (T, ...), and whether it succeeded; each action follows its observation."""
    assert task.expert is not None
    expert = task.expert(seed)
    observation, info = env.reset(seed=seed)  # type: ignore[attr-defined]
    seen, done = [], False
    while not done:
        action = expert(info["state"])
        seen.append({**observation, "action": action})
        observation, _, terminated, truncated, info = env.step(action)  # type: ignore[attr-defined]
        done = terminated or truncated
    streams = {stream.name: np.stack([step[stream.name] for step in seen]) for stream in task.specification.streams}
    return streams, bool(info["success"])


def _open(path: Path, task: Task) -> DemonstrationStore | None:
    if not path.exists():
        return None
    store = DemonstrationStore.open(path)
    differences = store.specification.differences(task.specification)
    if differences:
        raise ValueError(f"{path} holds demonstrations of something else than {task.name!r}: {'; '.join(differences)}")
    return store
