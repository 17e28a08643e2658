"""Demonstration stores: recorded episodes are read back bit for bit, and the layout is as described."""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recede.datasets import check
from recede.datasets import store as store_module
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.facts import UNKNOWN, EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.specification import DTYPES, Specification, Stream
from stores import SPECIFICATION, assert_episodes, make_episode


@st.composite
def streams(draw, name):
    if name == "image":
        return Stream(name, (5, 4, draw(st.integers(1, 4))), "uint8")
    return Stream(name, (draw(st.integers(1, 7)),), draw(st.sampled_from(DTYPES)))


@st.composite
def recordings(draw):
    names = draw(st.lists(st.sampled_from(["state", "image", "a", "b_2"]), min_size=1, max_size=3, unique=True))
    specification = Specification(tuple(draw(streams(name)) for name in names), draw(streams("action")), 0.05)
    episodes = []
    for length in draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)):
        episodes.append({})
        for stream in specification.streams:
            is_float = stream.dtype.startswith("float")
            kind = {"allow_nan": False, "allow_infinity": False} if is_float else {}
            values = hnp.from_dtype(np.dtype(stream.dtype), **kind)
            episodes[-1][stream.name] = draw(hnp.arrays(stream.dtype, (length, *stream.shape), elements=values))
    return specification, episodes


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(recording=recordings(), chunk_rows=st.sampled_from([1, 7, 2048]))
def test_episodes_of_any_specification_are_read_back_bit_for_bit(recording, chunk_rows):
    specification, episodes = recording
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "CHUNK_ROWS", chunk_rows)
        writer = DemonstrationStore.create(f"{folder}/demos", specification)
        for seed, episode in enumerate(episodes):
            assert writer.append(episode, seed=seed) == seed
        reader = DemonstrationStore.open(f"{folder}/demos")
        for store in (writer, reader):
            assert_episodes(store, episodes)
            assert store.specification == specification
            assert store.episode_seeds.tolist() == list(range(len(episodes)))
            assert store.episode_ends.tolist() == np.cumsum([len(e["action"]) for e in episodes]).tolist()
            assert store.episode_ends.dtype == store.episode_seeds.dtype == np.int64
        everything = np.concatenate([episode["action"] for episode in episodes])
        for start, stop in [(0, None), (1, len(everything)), (len(everything) // 2, len(everything) // 2)]:
            np.testing.assert_array_equal(reader.read("action", start, stop), everything[start:stop])


@pytest.mark.parametrize("images", ["zstd", "png", "jpeg"])
@pytest.mark.parametrize("piece_bytes", [2**26, 1000], ids=["whole", "in pieces"])
def test_a_store_passes_check_demonstrations(tmp_path, small_chunks, monkeypatch, images, piece_bytes):
    monkeypatch.setattr(check, "PIECE_BYTES", piece_bytes)
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    assert check.check_demonstrations(store).startswith("0 episodes, 0 steps")
    for seed, length in enumerate((10, 40, 7)):
        episode = make_episode(seed, length)
        store.append(episode | {"gripper": episode["gripper"].clip(-0.5, 0.5)}, seed=seed)
    assert check.check_demonstrations(DemonstrationStore.open(store.path)).startswith("3 episodes, 57 steps")


@pytest.mark.parametrize("images", ["zstd", "png"])
def test_episodes_that_are_appended_at_once_are_those_appended_one_by_one(tmp_path, small_chunks, images):
    notes = [UNKNOWN, EpisodeFacts(operator="one"), UNKNOWN, EpisodeFacts(sentence="two"), UNKNOWN]
    lengths = enumerate([10, 40, 1, 7, 16])
    episodes = [NewEpisode(make_episode(seed, length), seed, notes[seed]) for seed, length in lengths]
    at_once, alone = (DemonstrationStore.create(tmp_path / name, SPECIFICATION, images=images) for name in "ab")
    assert [at_once.append_many(episodes[:1]), at_once.append_many(episodes[1:])] == [0, 4]
    for streams, seed, facts in episodes:
        alone.append(streams, seed=seed, facts=facts)
    for store in (at_once, DemonstrationStore.open(at_once.path)):
        assert store.episode_ends.tolist() == alone.episode_ends.tolist()
        assert store.episode_seeds.tolist() == list(range(5))
        assert list(store.episode_facts) == notes
        assert all(store.content(s.name) == alone.content(s.name) for s in SPECIFICATION.streams)


def test_if_one_of_many_episodes_is_refused_none_is_appended(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    with pytest.raises(ValueError, match="must hold every stream"):
        store.append_many([NewEpisode(make_episode(0, 5)), NewEpisode({})])
    with pytest.raises(ValueError, match="there must be an episode to append, got none"):
        store.append_many([])
    assert len(DemonstrationStore.open(store.path)) == 0


def test_a_new_store_is_empty_and_an_unknown_seed_is_minus_one(tmp_path):
    store = DemonstrationStore.create(tmp_path / "new" / "demos", SPECIFICATION)
    assert (len(store), store.num_steps, store.read("image").shape) == (0, 0, (0, 8, 6, 3))
    store.append(make_episode(0, 3))
    assert store.episode_seeds.tolist() == [-1]


def test_smaller_dtypes_are_widened_and_values_beyond_the_limits_are_kept(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    episode = make_episode(0, 3) | {"gripper": np.full((3, 3), 9, np.int16)}
    store.append(episode)
    np.testing.assert_array_equal(store.read("gripper"), np.full((3, 3), 9, np.float32))


def test_an_open_store_is_a_snapshot(recorded):
    before, writer = DemonstrationStore.open(recorded), DemonstrationStore.open(recorded)
    actions = before.read("action")
    writer.append(make_episode(9, 30))
    assert (len(before), len(writer), len(DemonstrationStore.open(recorded))) == (3, 4, 4)
    np.testing.assert_array_equal(before.read("action"), actions)


def test_threads_may_append_to_different_stores(tmp_path, small_chunks):
    """The episodes are all zeros, which zarr skips unless a setting of the whole process is set."""
    zeros = {name: np.zeros_like(values) for name, values in make_episode(0, 5).items()}

    def record(index):
        store = DemonstrationStore.create(tmp_path / str(index), SPECIFICATION)
        for _ in range(8):
            store.append(zeros, seed=0)
        return store.path

    with ThreadPoolExecutor(3) as threads:
        for path in threads.map(record, range(3)):
            assert_episodes(DemonstrationStore.open(path), 8 * [zeros])


def test_two_open_stores_append_in_turns(recorded):
    one, other = DemonstrationStore.open(recorded), DemonstrationStore.open(recorded)
    episodes = [one.episode(index) for index in range(3)] + [make_episode(seed, 5 + seed) for seed in range(4)]
    assert [writer.append(episode) for writer, episode in zip([one, other, other, one], episodes[3:], strict=True)] == [
        3,
        4,
        5,
        6,
    ]
    assert_episodes(one, episodes)
    assert_episodes(DemonstrationStore.open(recorded), episodes)


def test_the_layout_is_as_described(recorded):
    group = zarr.open_group(recorded, mode="r")
    attributes = group.attrs["recede"]
    assert (attributes["format"], attributes["num_episodes"]) == (1, 3)
    assert Specification.from_json(attributes["specification"]) == SPECIFICATION
    assert sorted(group["data"].array_keys()) == ["action", "contact", "gripper", "image"]  # zarr warns of nothing
    assert sorted(group["meta"].array_keys()) == ["episode_ends", "episode_seeds", "fact_ends", "facts"]
    assert group["meta/episode_ends"][:].tolist() == [10, 50, 57]
    assert group["data/image"].shape == (57, 8, 6, 3)


def test_chunks_hold_about_a_megabyte_or_a_few_thousand_steps_or_one_image(tmp_path):
    specification = Specification((Stream("image", (96, 96, 3), "uint8"),), Stream("action", (2,)), 0.1)
    DemonstrationStore.create(tmp_path / "demos", specification)
    group = zarr.open_group(tmp_path / "demos", mode="r")
    assert group["data/image"].chunks == (1, 96, 96, 3)
    assert group["data/image"].shards == (303, 96, 96, 3)
    assert group["data/action"].chunks == (2048, 2)
    assert group["data/action"].shards is None


def test_the_store_needs_no_torch():
    code = "import sys, recede.datasets.formats.replay_buffer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_floats_are_rounded_to_the_dtype_of_the_stream_and_refused_if_they_overflow(tmp_path):
    specification = Specification((Stream("x", (1,)),), Stream("action", (1,)), control_dt=0.1)
    store = DemonstrationStore.create(tmp_path / "s.zarr", specification)
    store.append({"x": np.array([[0.1]]), "action": np.zeros((1, 1))})
    assert store.read("x") == np.float32(0.1)
    with pytest.raises(ValueError, match=r"'x'.*finite, got inf"):
        store.append({"x": np.array([[1e300]]), "action": np.zeros((1, 1))})
