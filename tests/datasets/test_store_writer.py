"""Episodes that are written while they are recorded; and the removal of the last one."""

import numpy as np
import pytest
from recede.datasets import store as module
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, files, make_episode, read_all


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(module, "SHARD_FRAMES", 8)
    return DemonstrationStore.create(tmp_path / "demos.zarr", SPECIFICATION)


def parts(episode, size):
    length = len(episode["action"])
    return [{name: rows[start : start + size] for name, rows in episode.items()} for start in range(0, length, size)]


@pytest.mark.parametrize("size", [1, 7, 16, 50])
def test_an_episode_in_parts_is_the_episode_of_one_append(store, tmp_path, size):
    plain = DemonstrationStore.create(tmp_path / "plain.zarr", SPECIFICATION)
    for seed, length in enumerate((5, 40, 23)):
        episode = make_episode(seed, length)
        plain.append(episode, seed=seed)
        with store.begin() as writer:
            for part in parts(episode, size):
                writer.add(part)
            assert len(DemonstrationStore.open(store.path)) == seed  # nobody reads it before it is kept
            assert writer.keep(seed=seed) == seed
    expected = read_all(plain.path)
    for name, rows in read_all(store.path).items():
        np.testing.assert_array_equal(rows, expected[name], err_msg=name)
    assert DemonstrationStore.open(store.path).episode_seeds.tolist() == [0, 1, 2]


def test_full_files_are_written_while_the_episode_goes_on(store):
    with store.begin() as writer:
        for part in parts(make_episode(0, 20), 4):
            writer.add(part)
        assert len(files(store.path / "data/image/c")) == 2  # of 8 images each; 4 wait
        writer.keep()
    assert len(files(store.path / "data/image/c")) == 3


def test_a_discarded_episode_leaves_nothing(store):
    store.append(make_episode(0, 5), seed=4)
    before = read_all(store.path)
    with store.begin() as writer:
        writer.add(make_episode(1, 40))
    assert len(store) == 1
    for name, rows in read_all(store.path).items():
        np.testing.assert_array_equal(rows, before[name])
    assert len(files(store.path / "data/image/c")) == 1
    store.append(make_episode(2, 30))
    np.testing.assert_array_equal(store.episode(1)["image"], make_episode(2, 30)["image"])


def test_an_episode_without_steps_is_not_kept(store):
    with store.begin() as writer, pytest.raises(ValueError, match="at least one step"):
        writer.keep()
    assert len(DemonstrationStore.open(store.path)) == 0


def test_other_writers_wait_for_an_episode_under_way(store, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.1)
    other = DemonstrationStore.open(store.path)
    with store.begin(), pytest.raises(TimeoutError, match=str(store.path)):
        other.append(make_episode(0, 5))
    other.append(make_episode(0, 5))


def test_the_last_episode_is_removed_and_no_other(store):
    for number in range(3):
        store.append(make_episode(number, 20), seed=number, facts=EpisodeFacts(sentence=str(number)))
    assert store.drop_last() == 2
    opened = DemonstrationStore.open(store.path)
    assert opened.episode_seeds.tolist() == [0, 1]
    np.testing.assert_array_equal(opened.episode(1)["image"], make_episode(1, 20)["image"])
    store.append(make_episode(5, 9), seed=5, facts=EpisodeFacts(sentence="5"))
    assert [facts.sentence for facts in store.episode_facts] == ["0", "1", "5"]
    np.testing.assert_array_equal(store.episode(2)["image"], make_episode(5, 9)["image"])
    for _ in range(3):
        store.drop_last()
    with pytest.raises(ValueError, match="record one first"):
        store.drop_last()
