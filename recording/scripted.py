"""Record the scripted expert of a task into a store of demonstrations."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from ..datasets.store import DemonstrationStore
from ..envs.task import Task


class Collected(NamedTuple):
    """Number of episodes in the store and in the store of failures, and the path of the latter, which may not exist."""

    successes: int
    failures: int
    failures_path: Path


def collect(task: Task, path: Path, *, episodes: int, first_seed: int, images: str) -> Collected:
    """Record episodes, counting seeds up from `first_seed`, until the store at `path` holds `episodes` successes.

    images: compression of the images in a new store, see `DemonstrationStore.create`.

    An existing store is continued, so an interrupted recording resumes. Failures go to a separate store beside it.

    Raises ValueError if the task has no expert, the store has another specification, another process records into it,
    or the expert fails more often than it succeeds.
    """
    if task.expert is None:
        raise ValueError(
            f"task {task.name!r} has no scripted expert to record: download or record demonstrations of it"
        )
    failures_path = path.with_name(f"{path.stem}-failures{path.suffix}")
    store = _open_existing(path, task)
    if store is None:
        store = DemonstrationStore.create(path, task.specification, images=images)
    with _exclusive(path):
        store = DemonstrationStore.open(path)  # as the last process left it
        failures = _open_existing(failures_path, task)
        used = [int(seed) for opened in (store, failures) if opened is not None for seed in opened.episode_seeds]
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


@contextmanager
def _exclusive(path: Path) -> Generator[None]:
    """Lock the store, so that no seed is recorded twice. Raises ValueError if another process records into it."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{path} is being recorded by another process: wait for it, or use another out=") from None
    try:
        yield
    finally:
        lock.release()


def demonstrate(task: Task, env: Any, seed: int) -> tuple[dict[str, NDArray[Any]], bool]:
    """Run the expert for one episode; returns its streams (T, ...) and whether it succeeded.

    The action of a step is the expert's response to the observation of that step.
    """
    assert task.expert is not None
    expert = task.expert(seed)
    observation, info = env.reset(seed=seed)
    steps: list[dict[str, Any]] = []
    done = False
    while not done:
        action = task.specification.action.cast(expert(info["state"]))
        steps.append({**observation, "action": action})
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    streams = {stream.name: np.stack([step[stream.name] for step in steps]) for stream in task.specification.streams}
    return streams, bool(info["success"])


def _open_existing(path: Path, task: Task) -> DemonstrationStore | None:
    """The store at `path`, or None. Raises ValueError if it has another specification than the task."""
    if not path.exists():
        return None
    store = DemonstrationStore.open(path)
    if differences := store.specification.differences(task.specification):
        raise ValueError(
            f"{path} must hold demonstrations of {task.name!r}, but its specification differs: {'; '.join(differences)}"
        )
    return store
