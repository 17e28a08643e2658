"""Demonstration stores refuse episodes, paths and reads that do not fit, with the value and the remedy."""

import json
import shutil

import numpy as np
import pytest
import zarr
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, files, make_episode


def with_nan(name, index):
    episode = make_episode(0, 5)
    episode[name][index] = np.nan
    return episode


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (make_episode(0, 5) | {"griper": np.zeros((5, 3))}, r"got 'griper': did you mean 'gripper'\?"),
        ({k: v for k, v in make_episode(0, 5).items() if k != "action"}, r"every stream .*action.* missing"),
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


def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def set_ends(path, ends):
    zarr.open_group(path, mode="r+")["meta/episode_ends"][:] = ends


def shorten(path, key, length):
    array = zarr.open_group(path, mode="r+")[key]
    array.resize((length, *array.shape[1:]))


def with_attributes(**changes):
    return lambda path: rewrite(path / "zarr.json", lambda c: c["attributes"]["recede"].update(changes))


def with_stream(**changes):
    """The specification of the store as another program could have written it."""
    stream = {"name": "pose", "shape": (3,), "dtype": "float32"} | changes
    return with_attributes(
        specification={"observations": [stream], "action": {"name": "action", "shape": (2,)}, "control_dt": 0.1}
    )


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
        (lambda p: rewrite(p / "zarr.json", lambda c: c["attributes"].clear()), "not a demonstration store .*task="),
        (with_attributes(format=2), "recede.format.* got 2.*version"),
        (lambda p: rewrite(p / "zarr.json", lambda c: c["attributes"].update(recede=7)), "format' must be 1, got None"),
        (with_attributes(num_episodes=-1), "recede.num_episodes.* got -1.*restore zarr.json"),
        (with_attributes(num_episodes="3"), "recede.num_episodes.* got '3'"),
        (with_attributes(num_episodes=4), r"meta/episode_ends .*4 episodes, got shape \(3,\)"),
        (with_attributes(specification={}), "'recede.specification' .*'observations'.* restore zarr.json"),
        (with_attributes(specification=None), "'recede.specification' .* restore zarr.json"),
        (with_stream(dtype="float32", shape=(3, 3)), r"float32 \(3, 3\): flatten it to \(9,\): record .*new store"),
        (with_stream(dtype="float32", shape=(8, 6, 3)), r"float32 \(8, 6, 3\): scale the image.*: record .*new store"),
        (with_stream(dtype="float32", shape=(3, 8, 6)), r"float32 \(3, 8, 6\).*: record .*new store"),
        (with_stream(dtype="complex64"), "dtype must be .*'complex64': record .*new store"),
        (
            lambda p: set_ends(p, [10, 10, 57]),
            "meta/episode_ends must ascend, got 10 for episode 1 after 10",
        ),
        (lambda p: set_ends(p, [0, 50, 57]), "meta/episode_ends must ascend, got 0 for episode 0"),
        (
            lambda p: shorten(p, "data/image", 56),
            "data/image .*57, got 56 steps",
        ),
        (lambda p: shorten(p, "meta/episode_seeds", 2), "meta/episode_seeds .*3 episodes"),
        (lambda p: shutil.rmtree(p / "data/action"), "there is no array data/action: restore it"),
        (lambda p: shutil.rmtree(p / "meta"), "there is no array meta/episode_ends: restore it"),
        (lambda p: (p / "data/action/zarr.json").write_text("{"), "data/action/zarr.json is damaged .*restore it"),
        (lambda p: shutil.copy(p / "meta/zarr.json", p / "data/action/zarr.json"), "data/action must be an array"),
        (
            lambda p: shutil.copy(p / "data/gripper/zarr.json", p / "data/action/zarr.json"),
            r"data/action .*\(2,\) in float32 .*, got \(3,\) in float32",
        ),
    ],
)
def test_an_inconsistent_store_is_refused(recorded, damage, message):
    damage(recorded)
    with pytest.raises(ValueError, match=message) as error:
        DemonstrationStore.open(recorded)
    assert str(error.value).startswith(str(recorded))


@pytest.mark.parametrize("part", ["data", "data/action", "data/action/c", "zarr.json", "meta/episode_ends"])
def test_a_path_within_a_store_is_refused_with_the_path_of_the_store(recorded, part):
    with pytest.raises(ValueError, match=f"it lies within {recorded}, so name that"):
        DemonstrationStore.open(recorded / part)


def test_a_path_without_a_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*check the path"):
        DemonstrationStore.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=f"{path}: not a zarr group"):
            DemonstrationStore.open(path)
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="int64")
    with pytest.raises(ValueError, match="array: not a zarr group"):
        DemonstrationStore.open(tmp_path / "array")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("actoin",), r"there is no stream 'actoin': did you mean 'action'\?"),
        (("action", -1), r"steps must lie in 0 .. 57, got -1 .. 57"),
        (("action", 0, 58), r"got 0 .. 58"),
        (("action", 5, 4), r"got 5 .. 4"),
    ],
)
def test_reading_a_stream_or_step_that_does_not_exist_is_refused(recorded, arguments, message):
    with pytest.raises(ValueError, match=message):
        DemonstrationStore.open(recorded).read(*arguments)


@pytest.mark.parametrize("index", [-1, 3])
def test_reading_an_episode_that_does_not_exist_is_refused(recorded, index):
    with pytest.raises(ValueError, match=rf"must be one of 0 .. 2, got {index}"):
        DemonstrationStore.open(recorded).episode(index)


def test_create_refuses_an_existing_path_and_writes_nothing(tmp_path):
    (tmp_path / "file").write_text("content")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for path in before:
        with pytest.raises(FileExistsError, match=f"{path} already exists.*open it"):
            DemonstrationStore.create(path, SPECIFICATION)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "content"
