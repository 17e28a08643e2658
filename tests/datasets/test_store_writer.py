"""Episodes that are written while they are recorded, what is noted of them, and the removal of the last one."""

import numpy as np
import pytest
from recede.datasets import store as module
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


def test_details_are_read_back_and_absent_ones_are_empty(store):
    details = [
        None,
        None,
        {"outcome": "success", "sentence": "à gauche 🙂", "led": [[0, 4]]},
        None,
        {},
        {"outcome": None},
    ]
    for number, noted in enumerate(details):
        if number == 2:
            assert not (store.path / "meta/details").exists()  # a store without notes has no arrays for them
        store.append(make_episode(number, 5), details=noted)
    opened = DemonstrationStore.open(store.path)
    assert [opened.details(number) for number in range(6)] == [noted or {} for noted in details]
    with pytest.raises(ValueError, match=r"one of 0 \.\. 5, got 6"):
        opened.details(6)
    with pytest.raises(ValueError, match="JSON"):
        store.append(make_episode(0, 5), details={"rate": float("nan")})
    assert len(DemonstrationStore.open(store.path)) == 6


def test_details_of_a_killed_append_are_not_taken_for_those_of_the_next_episode(store, monkeypatch):
    store.append(make_episode(0, 5), details={"number": 0})

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DemonstrationStore, "_commit", die)
        with pytest.raises(KeyboardInterrupt):
            store.append(make_episode(1, 5), details={"number": "killed"})
    store.append(make_episode(1, 5))
    store.append(make_episode(2, 5), details={"number": 2})
    assert [store.details(number) for number in range(3)] == [{"number": 0}, {}, {"number": 2}]


def test_damaged_details_are_named(store):
    store.append(make_episode(0, 5), details={"outcome": "success"})
    for key in ("meta/details/c/0", "meta/detail_ends/c/0"):
        intact = (store.path / key).read_bytes()
        (store.path / key).write_bytes(intact[:-1] + b"\0")
        with pytest.raises(ValueError, match=key):
            DemonstrationStore.open(store.path).details(0)
        (store.path / key).unlink()
        with pytest.raises(ValueError, match=f"{key} is missing"):
            DemonstrationStore.open(store.path).details(0)
        (store.path / key).write_bytes(intact)


def test_the_last_episode_is_removed_and_no_other(store):
    for number in range(3):
        store.append(make_episode(number, 20), seed=number, details={"number": number})
    assert store.drop_last() == 2
    opened = DemonstrationStore.open(store.path)
    assert opened.episode_seeds.tolist() == [0, 1]
    np.testing.assert_array_equal(opened.episode(1)["image"], make_episode(1, 20)["image"])
    store.append(make_episode(5, 9), seed=5, details={"number": 5})
    assert [store.details(number)["number"] for number in range(3)] == [0, 1, 5]
    np.testing.assert_array_equal(store.episode(2)["image"], make_episode(5, 9)["image"])
    for _ in range(3):
        store.drop_last()
    with pytest.raises(ValueError, match="record one first"):
        store.drop_last()
