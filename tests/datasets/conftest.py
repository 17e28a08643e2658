"""Stores that several test files of this folder share."""

import numpy as np
import pytest
from recede.datasets import store as store_module
from recede.datasets.facts import UNKNOWN, EpisodeFacts
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, make_episode


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunk files of 16 steps, so that small stores have several."""
    monkeypatch.setattr(store_module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(store_module, "SHARD_BYTES", 16 * 8 * 6 * 3)


@pytest.fixture
def recorded(tmp_path, small_chunks, request):
    """The path of a store with three episodes in several chunk files; the second episode is all zeros."""
    images = getattr(request, "param", "zstd")
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    zeros = {name: np.zeros_like(values) for name, values in make_episode(0, 40).items()}
    for seed, episode in enumerate([make_episode(1, 10), zeros, make_episode(3, 7)]):
        store.append(episode, seed=seed, facts=EpisodeFacts(operator="Ada") if seed == 1 else UNKNOWN)
    return tmp_path / "demos"
