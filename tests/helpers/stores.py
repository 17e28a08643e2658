"""Stores of random episodes that lie in several chunk files, and how tests read them back."""

import numpy as np
import zarr
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream

SPECIFICATION = Specification(
    (
        Stream("gripper", (3,), units="m", labels=("x", "y", "z"), low=-0.5, high=0.5),
        Stream("image", (8, 6, 3), "uint8"),
        Stream("contact", (1,), "bool"),
    ),
    Stream("action", (2,), units="m"),
    control_dt=0.1,
)


def make_episode(seed, length):
    rng = np.random.default_rng(seed)
    return {
        "gripper": rng.normal(size=(length, 3)).astype("float32"),
        "image": rng.integers(0, 256, (length, 8, 6, 3), dtype=np.uint8),
        "contact": rng.random((length, 1)) < 0.5,
        "action": rng.normal(size=(length, 2)).astype("float32"),
    }


def assert_episodes(store, episodes):
    """The store holds exactly these episodes, bit for bit."""
    assert len(store) == len(episodes)
    assert store.num_steps == sum(len(episode["action"]) for episode in episodes)
    for index, episode in enumerate(episodes):
        stored = store.episode(index)
        assert stored.keys() == episode.keys()
        for name, values in episode.items():
            assert stored[name].dtype == values.dtype, name
            np.testing.assert_array_equal(stored[name], values, err_msg=f"episode {index}, {name}")


def files(path, pattern="*"):
    return sorted(file for file in path.rglob(pattern) if file.is_file())


def read_all(path):
    store = DemonstrationStore.open(path)
    assert len(store.episode_facts) == len(store)
    return {stream.name: store.read(stream.name) for stream in store.specification.streams}


FOREIGN = Specification((Stream("state", (2,)),), Stream("action", (2,)), 0.1)
SOURCES = {name: (name, lambda rows: rows) for name in ("state", "action")}
"""What `buffer` holds, and where."""


def buffer(path, zarr_format=2, **options):
    """A replay buffer of two episodes of five steps."""
    group = zarr.create_group(path, zarr_format=zarr_format)
    for key, values in {
        "data/state": np.arange(20, dtype="float32").reshape(10, 2),
        "data/action": np.arange(20, dtype="float32").reshape(10, 2),
        "meta/episode_ends": np.array([5, 10]),
    }.items():
        group.create_array(key, data=values, **(options if key.startswith("data") else {}))
    return path
