"""Stores that several test files of this folder share."""

import functools
import shutil

import numpy as np
import pytest
from recede.datasets import store as store_module
from recede.datasets.facts import UNKNOWN, EpisodeFacts
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, make_episode


def shrink_chunks(monkeypatch):
    monkeypatch.setattr(store_module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(store_module, "SHARD_BYTES", 16 * 8 * 6 * 3)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunk files of 16 steps, so that small stores have several."""
    shrink_chunks(monkeypatch)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """A function from a compression of images to the store of `recorded`, which it makes once."""

    @functools.cache
    def made(images):
        path = tmp_path_factory.mktemp("recorded") / "demos"
        zeros = {name: np.zeros_like(values) for name, values in make_episode(0, 40).items()}
        with pytest.MonkeyPatch.context() as monkeypatch:
            shrink_chunks(monkeypatch)
            store = DemonstrationStore.create(path, SPECIFICATION, images=images)
            for seed, episode in enumerate([make_episode(1, 10), zeros, make_episode(3, 7)]):
                store.append(episode, seed=seed, facts=EpisodeFacts(operator="Ada") if seed == 1 else UNKNOWN)
        return path

    return made


@pytest.fixture
def recorded(tmp_path, small_chunks, recordings, request):
    """The path of a store with three episodes in several chunk files; the second episode is all zeros."""
    return shutil.copytree(recordings(getattr(request, "param", "zstd")), tmp_path / "demos")
