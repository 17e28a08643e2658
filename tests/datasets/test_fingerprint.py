"""Digests of what a training reads are kept for its next start, and never outlive what they are of."""

import shutil

import numpy as np
import pytest
import torch
from recede.datasets.fingerprint import kept_stream_digests, stream_digests
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream

SPECIFICATION = Specification((Stream("hand", (2,)), Stream("camera", (4, 5, 3), "uint8")), Stream("action", (2,)), 0.1)


class Unread(dict):
    """Streams that nobody may gather from."""

    def items(self):
        raise AssertionError("the streams were read")


def append(store, seed):
    rng = np.random.default_rng(seed)
    rows = {s.name: rng.integers(0, 9, (6, *s.shape)).astype(s.dtype) for s in SPECIFICATION.streams}
    store.append(rows)


def streams_of(store):
    return {stream.name: torch.from_numpy(store.read(stream.name)) for stream in SPECIFICATION.streams}


@pytest.fixture
def store(tmp_path):
    store = DemonstrationStore.create(tmp_path / "store.zarr", SPECIFICATION, images="png")
    append(store, 0)
    append(store, 1)
    return store


def test_they_are_computed_once_for_the_same_content(store, tmp_path):
    cache = tmp_path / "cache"
    expected = stream_digests(store, streams_of(store), 2)
    assert kept_stream_digests(store, streams_of(store), 2, cache=cache) == expected
    moved = DemonstrationStore.open(shutil.copytree(store.path, tmp_path / "moved.zarr"))
    assert kept_stream_digests(moved, Unread(), 2, cache=cache) == expected


def test_other_content_and_a_damaged_file_are_computed_anew(store, tmp_path):
    cache = tmp_path / "cache"
    before = kept_stream_digests(store, streams_of(store), 2, cache=cache)
    append(store, 2)
    after = kept_stream_digests(store, streams_of(store), 3, cache=cache)
    assert (after[:2], len(after)) == (before, 3)
    with pytest.raises(AssertionError, match="were read"):
        kept_stream_digests(store, Unread(), 1, cache=cache)
    for path in cache.rglob("episodes.json"):
        path.write_text(path.read_text().replace(after[0], "0" * 16))
    assert kept_stream_digests(store, streams_of(store), 3, cache=cache) == after


def test_without_a_place_to_keep_them_they_are_computed(store, tmp_path):
    (tmp_path / "cache").write_text("a file")
    expected = stream_digests(store, streams_of(store), 2)
    assert kept_stream_digests(store, streams_of(store), 2, cache=tmp_path / "cache") == expected
