"""The demonstration store: what goes in comes out, and whatever is wrong is said."""

import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recede.datasets import check
from recede.datasets import store as store_module
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
    assert len(store) == len(episodes)
    assert store.num_steps == sum(len(episode["action"]) for episode in episodes)
    for index, episode in enumerate(episodes):
        found = store.episode(index)
        assert found.keys() == episode.keys()
        for name, values in episode.items():
            assert found[name].dtype == values.dtype, name
            np.testing.assert_array_equal(found[name], values, err_msg=f"episode {index}, {name}")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(store_module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(store_module, "SHARD_BYTES", 16 * 8 * 6 * 3)


@pytest.fixture
def recorded(tmp_path, small_chunks, request):
    """A store of three episodes whose streams lie in several chunk files, the second one nothing but zeros."""
    images = getattr(request, "param", "zstd")
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    zeros = {name: np.zeros_like(values) for name, values in make_episode(0, 40).items()}
    for seed, episode in enumerate([make_episode(1, 10), zeros, make_episode(3, 7)]):
        store.append(episode, seed=seed)
    return tmp_path / "demos"


def files(path, pattern="*"):
    return sorted(file for file in path.rglob(pattern) if file.is_file())


def chunk_files(path):
    return [file for file in files(path) if "c" in file.parts and file.name.isdigit()]


def read_all(path):
    store = DemonstrationStore.open(path)
    return {stream.name: store.read(stream.name) for stream in store.specification.streams}


# --- round trips


@st.composite
def streams(draw, name):
    shape = (
        draw(st.sampled_from([(1,), (3,), (7,), (2, 3), (5, 4, 3)])) if name != "action" else (draw(st.integers(1, 4)),)
    )
    return Stream(name, shape, draw(st.sampled_from(["float32", "float64", "float16", "uint8", "int64", "bool"])))


@st.composite
def recordings(draw):
    names = draw(st.lists(st.sampled_from(["state", "image", "a", "b_2"]), min_size=1, max_size=3, unique=True))
    specification = Specification(tuple(draw(streams(name)) for name in names), draw(streams("action")), 0.05)
    episodes = []
    for length in draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)):
        episodes.append({})
        for stream in specification.streams:
            kind = {} if stream.dtype in ("bool", "uint8", "int64") else {"allow_nan": False, "allow_infinity": False}
            values = hnp.from_dtype(np.dtype(stream.dtype), **kind)
            episodes[-1][stream.name] = draw(hnp.arrays(stream.dtype, (length, *stream.shape), elements=values))
    return specification, episodes


@settings(max_examples=8, deadline=None)
@given(recording=recordings(), chunk_rows=st.sampled_from([1, 7, 2048]))
def test_any_episodes_of_any_specification_come_back_bit_for_bit(recording, chunk_rows):
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
def test_a_store_keeps_every_promise_of_demonstrations(tmp_path, small_chunks, monkeypatch, images, piece_bytes):
    monkeypatch.setattr(check, "PIECE_BYTES", piece_bytes)
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    assert check.check_demonstrations(store).startswith("0 episodes, 0 steps")
    for seed, length in enumerate((10, 40, 7)):
        episode = make_episode(seed, length)
        store.append(episode | {"gripper": episode["gripper"].clip(-0.5, 0.5)}, seed=seed)
    assert check.check_demonstrations(DemonstrationStore.open(store.path)).startswith("3 episodes, 57 steps")


def test_a_new_store_is_empty_and_an_unknown_seed_is_minus_one(tmp_path):
    store = DemonstrationStore.create(tmp_path / "new" / "demos", SPECIFICATION)
    assert (len(store), store.num_steps, store.read("image").shape) == (0, 0, (0, 8, 6, 3))
    store.append(make_episode(0, 3))
    assert store.episode_seeds.tolist() == [-1]


def test_smaller_dtypes_are_widened_and_actions_beyond_the_limits_recorded(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    episode = make_episode(0, 3) | {"gripper": np.full((3, 3), 9, np.int16)}
    store.append(episode)
    np.testing.assert_array_equal(store.read("gripper"), np.full((3, 3), 9, np.float32))


def test_an_open_store_is_a_snapshot(recorded):
    before, writer = DemonstrationStore.open(recorded), DemonstrationStore.open(recorded)
    seen = before.read("action")
    writer.append(make_episode(9, 30))
    assert (len(before), len(writer), len(DemonstrationStore.open(recorded))) == (3, 4, 4)
    np.testing.assert_array_equal(before.read("action"), seen)


def test_stores_may_be_appended_to_in_several_threads(tmp_path, small_chunks):
    """Nothing but zeros, which zarr leaves out unless a setting of the whole process says otherwise."""
    zeros = {name: np.zeros_like(values) for name, values in make_episode(0, 5).items()}

    def record(index):
        store = DemonstrationStore.create(tmp_path / str(index), SPECIFICATION)
        for _ in range(20):
            store.append(zeros, seed=0)
        return store.path

    with ThreadPoolExecutor(3) as threads:
        for path in threads.map(record, range(3)):
            assert_episodes(DemonstrationStore.open(path), 20 * [zeros])


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


def test_the_layout_is_the_one_described(recorded):
    group = zarr.open_group(recorded, mode="r")
    ours = group.attrs["recede"]
    assert (ours["format"], ours["num_episodes"]) == (1, 3)
    assert Specification.from_json(ours["specification"]) == SPECIFICATION
    assert sorted(group["data"].array_keys()) == ["action", "contact", "gripper", "image"]  # and no warning of zarr's
    assert sorted(group["meta"].array_keys()) == ["episode_ends", "episode_seeds"]
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


# --- episodes refused


def with_nan(name, index):
    episode = make_episode(0, 5)
    episode[name][index] = np.nan
    return episode


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (make_episode(0, 5) | {"griper": np.zeros((5, 3))}, r"got 'griper': did you mean 'gripper'\?"),
        ({k: v for k, v in make_episode(0, 5).items() if k != "action"}, r"every stream .*\['action'\] are missing"),
        (make_episode(0, 5) | {"contact": np.zeros((4, 1), bool)}, r"same length, at least 1, got .*'contact': 4"),
        (make_episode(0, 0), "same length, at least 1"),
        (make_episode(0, 5) | {"action": np.zeros((5, 3), "float32")}, r"'action'.* \('L', 2\), got \(5, 3\)"),
        (make_episode(0, 5) | {"action": np.float32(0)}, r"'action'.* \('L', 2\), got \(\)"),
        (
            make_episode(0, 5) | {"image": np.zeros((5, 8, 6, 3), "float32")},
            "'image'.*fit uint8 .*got float32: convert",
        ),
        (make_episode(0, 5) | {"action": np.zeros((5, 2), int)}, "'action'.*fit float32 .*got int64: convert"),
        (with_nan("action", (3, 1)), r"stream 'action', step 3, dimension action\[1\]: .*finite, got nan"),
        (with_nan("gripper", (4, 2)), r"stream 'gripper', step 4, dimension gripper.z: .*finite, got nan"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_before_anything_is_written(recorded, episode, message):
    before = {file: file.read_bytes() for file in files(recorded)}
    with pytest.raises(ValueError, match=message) as error:
        DemonstrationStore.open(recorded).append(episode)
    assert str(recorded) in str(error.value)
    assert {file: file.read_bytes() for file in files(recorded)} == before


def test_the_dimension_of_a_bad_image_value_is_its_place(tmp_path):
    specification = Specification((Stream("depth", (4, 5)),), Stream("action", (2,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "demos", specification)
    depth = np.zeros((3, 4, 5), "float32")
    depth[2, 1, 3] = np.inf
    with pytest.raises(ValueError, match=r"'depth', step 2, dimension depth\[1, 3\]: .*got inf"):
        store.append({"depth": depth, "action": np.zeros((3, 2), "float32")})


# --- damaged chunk files


@pytest.mark.parametrize("recorded", ["zstd", "png", "jpeg"], indirect=True)
def test_every_flipped_bit_and_every_cut_of_every_chunk_file_is_found(recorded):
    chunks = chunk_files(recorded)
    assert {file.relative_to(recorded).parts[1] for file in chunks} == {
        *("gripper", "image", "contact", "action", "episode_ends", "episode_seeds")
    }
    rng = np.random.default_rng(0)
    for file in chunks:
        intact = file.read_bytes()
        places = {0, 4, 5, 19, len(intact) // 2, len(intact) - 5, len(intact) - 1, int(rng.integers(len(intact)))}
        damaged = [intact[: int(length)] for length in (0, 3, len(intact) // 2, len(intact) - 1)]
        for place in places & {*range(len(intact))}:  # 4 and 19 hold the bits that zstd does not use
            damaged.append(bytearray(intact))
            damaged[-1][place] ^= 1 << int(rng.integers(8))
        for content in damaged:
            file.write_bytes(content)
            with pytest.raises(ValueError, match="damaged") as error:
                read_all(recorded)
            assert str(recorded) in str(error.value)
            assert str(file) in str(error.value)
        file.write_bytes(intact)
    read_all(recorded)


def test_every_missing_chunk_file_is_found(recorded):
    for file in chunk_files(recorded):
        intact = file.read_bytes()
        file.unlink()
        with pytest.raises(ValueError, match=f"{file} is missing: restore it from a copy"):
            read_all(recorded)
        file.write_bytes(intact)
    read_all(recorded)


def test_only_the_chunks_of_the_steps_read_matter(recorded):
    whole = read_all(recorded)["action"]
    (recorded / "data/action/c/1/0").unlink()
    store = DemonstrationStore.open(recorded)
    np.testing.assert_array_equal(store.read("action", 0, 16), whole[:16])
    np.testing.assert_array_equal(store.read("action", 32, 57), whole[32:])
    for start, stop in [(15, 17), (31, 33), (16, 17)]:
        with pytest.raises(ValueError, match=r"data/action: chunk file .*c/1/0 is missing"):
            store.read("action", start, stop)


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"\0" * 40)])
@pytest.mark.parametrize("key", ["data/action/c/3/0", "data/image/c/3/0/0/0", "meta/episode_ends/c/0"])
def test_an_append_does_not_paint_over_a_damaged_chunk(recorded, key, damage):
    intact = (recorded / key).read_bytes()
    store = DemonstrationStore.open(recorded)
    damage(recorded / key)
    with pytest.raises(ValueError, match=f"{key} is (missing|damaged)"):
        store.append(make_episode(4, 20))
    (recorded / key).write_bytes(intact)
    assert len(DemonstrationStore.open(recorded)) == 3
    store.append(make_episode(4, 20))
    np.testing.assert_array_equal(store.episode(3)["image"], make_episode(4, 20)["image"])


def test_what_an_unfinished_append_left_is_ignored_and_overwritten(recorded):
    episodes = [DemonstrationStore.open(recorded).episode(index) for index in range(3)]
    group = zarr.open_group(recorded, mode="r+")
    for key, size in [("data/action", 200), ("data/image", 90), ("meta/episode_ends", 4)]:
        array = group[key]
        end = 3 if key.startswith("meta") else 57
        array.resize((size, *array.shape[1:]))
        array[end:] = 5
    (recorded / "data/action/c/7/0").write_bytes(b"half a chunk")
    (recorded / "data/action/c/12/0").unlink()
    assert_episodes(DemonstrationStore.open(recorded), episodes)
    episodes += [make_episode(5, 60), make_episode(6, 4)]
    for episode in episodes[3:]:
        DemonstrationStore.open(recorded).append(episode)
    assert_episodes(DemonstrationStore.open(recorded), episodes)
    assert zarr.open_group(recorded, mode="r")["data/action"].shape == (121, 2)


# --- stores refused


def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def set_ends(path, ends):
    zarr.open_group(path, mode="r+")["meta/episode_ends"][:] = ends


def shorten(path, key, length):
    array = zarr.open_group(path, mode="r+")[key]
    array.resize((length, *array.shape[1:]))


def ours(**changes):
    return lambda path: rewrite(path / "zarr.json", lambda c: c["attributes"]["recede"].update(changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "zarr.json").unlink(), "not a zarr group .*: name the folder of a store"),
        (
            lambda p: (p / "zarr.json").write_text('{"zarr_format": 3, "no'),
            "zarr.json is damaged .*: restore that file",
        ),
        (lambda p: (p / "zarr.json").write_bytes(b"\xff\xfe"), "zarr.json is damaged"),
        (lambda p: (p / "zarr.json").write_text("[]"), "zarr.json is damaged"),
        (lambda p: rewrite(p / "zarr.json", lambda c: c["attributes"].clear()), "no demonstration store .*task="),
        (ours(format=2), "'recede.format' must be 1, got 2: read the store with the version of recede that wrote it"),
        (lambda p: rewrite(p / "zarr.json", lambda c: c["attributes"].update(recede=7)), "format' must be 1, got None"),
        (ours(num_episodes=-1), "'recede.num_episodes' must be a count, got -1: restore zarr.json"),
        (ours(num_episodes="3"), "'recede.num_episodes' must be a count, got '3'"),
        (ours(num_episodes=4), r"meta/episode_ends must hold an entry for each of 4 episodes, got shape \(3,\)"),
        (ours(specification={}), "'recede.specification' is damaged .*: restore zarr.json"),
        (ours(specification=None), "'recede.specification' is damaged .*: restore zarr.json"),
        (
            lambda p: set_ends(p, [10, 10, 57]),
            "meta/episode_ends must ascend, got 10 for episode 1 after 10 for episode 0",
        ),
        (lambda p: set_ends(p, [0, 50, 57]), "meta/episode_ends must ascend, got 0 for episode 0 after a start at 0"),
        (
            lambda p: shorten(p, "data/image", 56),
            "data/image must reach the last episode's end at step 57, got 56 steps",
        ),
        (lambda p: shorten(p, "meta/episode_seeds", 2), "meta/episode_seeds must hold an entry for each of 3 episodes"),
        (lambda p: shutil.rmtree(p / "data/action"), "there is no array data/action: restore it"),
        (lambda p: shutil.rmtree(p / "meta"), "there is no array meta/episode_ends: restore it"),
        (lambda p: (p / "data/action/zarr.json").write_text("{"), "the description of data/action is damaged"),
        (lambda p: shutil.copy(p / "meta/zarr.json", p / "data/action/zarr.json"), "data/action must be an array"),
        (
            lambda p: shutil.copy(p / "data/gripper/zarr.json", p / "data/action/zarr.json"),
            r"data/action must hold steps of shape \(2,\) in float32 .*, got \(3,\) in float32",
        ),
    ],
)
def test_a_store_that_is_not_sound_is_refused(recorded, damage, message):
    damage(recorded)
    with pytest.raises(ValueError, match=message) as error:
        DemonstrationStore.open(recorded)
    assert str(error.value).startswith(str(recorded))


def test_a_path_without_a_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is nothing here: check the path"):
        DemonstrationStore.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=f"{path}: not a zarr group"):
            DemonstrationStore.open(path)
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="int64")
    with pytest.raises(ValueError, match="array: not a zarr group"):
        DemonstrationStore.open(tmp_path / "array")


def test_damage_anywhere_in_a_description_raises_a_value_error_or_does_no_harm(recorded):
    rng = np.random.default_rng(0)
    for file in files(recorded, "zarr.json"):
        intact = file.read_bytes()
        for place in rng.integers(0, len(intact), 12):
            content = bytearray(intact)
            content[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(content)
            try:
                read_all(recorded)
            except ValueError as error:
                assert str(recorded) in str(error)  # noqa: PT017
        file.write_bytes(intact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("actoin",), r"there is no stream 'actoin': did you mean 'action'\?"),
        (("action", -1), r"steps must lie in 0 .. 57, got -1 .. 57"),
        (("action", 0, 58), r"got 0 .. 58"),
        (("action", 5, 4), r"got 5 .. 4"),
    ],
)
def test_reading_what_is_not_there_is_refused(recorded, arguments, message):
    with pytest.raises(ValueError, match=message):
        DemonstrationStore.open(recorded).read(*arguments)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_episode_that_is_not_there_is_refused(recorded, index):
    with pytest.raises(ValueError, match=rf"must be one of 0 .. 2, got {index}"):
        DemonstrationStore.open(recorded).episode(index)


def test_create_takes_no_path_that_exists_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for path in before:
        with pytest.raises(FileExistsError, match=f"{path}: exists already: open it to append to it"):
            DemonstrationStore.create(path, SPECIFICATION)
    for dtype in ("complex64", "U3", "object"):
        specification = Specification((Stream("text", (1,), dtype),), Stream("action", (2,)), 0.1)
        with pytest.raises(ValueError, match=r"stream 'text': dtype must be one of bool, float16, .*, got"):
            DemonstrationStore.create(tmp_path / "new", specification)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


# --- zarr v2


@pytest.fixture
def version_two(recorded, tmp_path):
    """The recorded store, written again in zarr v2, one stream of it big-endian."""
    source, target = zarr.open_group(recorded, mode="r"), zarr.create_group(tmp_path / "v2", zarr_format=2)
    target.attrs["recede"] = source.attrs["recede"]
    for key in ["data/action", "data/contact", "data/gripper", "data/image", "meta/episode_ends", "meta/episode_seeds"]:
        values = source[key][:]
        if key == "data/gripper":
            values = values.astype(">f4")
        array = target.create_array(
            key,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(16, *values.shape[1:]),
            config={"write_empty_chunks": True},
        )
        array[:] = values
    return tmp_path / "v2"


def test_a_store_in_zarr_v2_is_read_but_not_appended_to(recorded, version_two):
    store = DemonstrationStore.open(version_two)
    assert_episodes(store, [DemonstrationStore.open(recorded).episode(index) for index in range(3)])
    with pytest.raises(ValueError, match="zarr v2 store can only be read: record into a new store"):
        store.append(make_episode(0, 3))


def test_a_missing_or_cut_chunk_of_a_zarr_v2_store_is_found(version_two):
    file = version_two / "data/image/1.0.0.0"
    intact = file.read_bytes()
    for length in (0, 7, len(intact) // 2, len(intact) - 1):
        file.write_bytes(intact[:length])
        with pytest.raises(ValueError, match=f"{file} is damaged"):
            DemonstrationStore.open(version_two).read("image")
    file.unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        DemonstrationStore.open(version_two).read("image")


def test_floats_are_rounded_to_the_stream_and_those_too_large_refused(tmp_path):
    specification = Specification((Stream("x", (1,)),), Stream("action", (1,)), control_dt=0.1)
    store = DemonstrationStore.create(tmp_path / "s.zarr", specification)
    store.append({"x": np.array([[0.1]]), "action": np.zeros((1, 1))})
    assert store.read("x") == np.float32(0.1)
    with pytest.raises(ValueError, match=r"'x'.*finite, got inf"):
        store.append({"x": np.array([[1e300]]), "action": np.zeros((1, 1))})
