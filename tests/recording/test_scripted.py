"""Demonstrations that are recorded in the worlds of a task are those of an environment."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import toys
from recede.datasets.store import DemonstrationStore
from recede.envs.catalogue import load_task
from recede.envs.vector import LoopedWorlds
from recede.recording import scripted
from recede.recording.scripted import collect


def in_worlds(task):
    return replace(task, make_batch=partial(LoopedWorlds, task.make, task.specification))


def content(path):
    """All that a store holds."""
    if not path.exists():
        return None
    store = DemonstrationStore.open(path)
    names = [stream.name for stream in store.specification.streams]
    rows = {name: store.read(name, 0, store.num_steps).tobytes() for name in names}
    return rows, store.episode_ends.tolist(), store.episode_seeds.tolist(), list(store.episode_facts)


def recorded(task, path, *, episodes, first_seed=0):
    """The stores of successes and failures, and the faults."""
    result = collect(task, path, episodes=episodes, first_seed=first_seed, images="zstd")
    return content(path), content(result.failures_path), result.faults


@pytest.mark.parametrize("name", ["reach", "sort"])
def test_demonstrations_at_once_are_those_one_by_one(name, tmp_path, monkeypatch):
    task = load_task(name)
    alone = recorded(replace(task, make_batch=None), tmp_path / "alone.zarr", episodes=5)
    monkeypatch.setattr(scripted, "WORLDS", 3)
    monkeypatch.setattr(scripted, "demonstrate", None)  # it is not needed
    assert recorded(task, tmp_path / "at_once.zarr", episodes=5) == alone


@pytest.mark.parametrize(
    "task",
    [
        replace(toys.REACH, expert=toys.lazy_expert),
        *(toys.faulty(kind) for kind in ("reset", "step", "nan", "endless")),
        replace(toys.REACH, make_batch=int),
    ],
    ids=["failures", "reset", "step", "nan", "endless", "no worlds"],
)
def test_failures_and_faults_are_those_one_by_one(task, tmp_path, monkeypatch):
    monkeypatch.setattr(scripted, "WORLDS", 3)
    alone = recorded(replace(task, make_batch=None), tmp_path / "alone.zarr", episodes=5, first_seed=1)
    at_once = task if task.make_batch else in_worlds(task)
    assert recorded(at_once, tmp_path / "at_once.zarr", episodes=5, first_seed=1) == alone
    assert alone[1] or alone[2] or task.make_batch
    assert np.array(alone[0][2]).size == 5
