"""Replay buffers in the layout of Diffusion Policy: small ones, and the published Push-T demonstrations."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numcodecs
import numpy as np
import pytest
import zarr
from recede.datasets import check
from recede.datasets.formats.replay_buffer import ReplayBuffer
from recede.datasets.opening import open_demonstrations
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream
from zarr.codecs import BloscCodec

SPECIFICATION = Specification(
    (Stream("agent", (2,), units="px"), Stream("heading", (2,)), Stream("image", (6, 5, 3), "uint8")),
    Stream("action", (2,), units="px"),
    control_dt=0.1,
)


def heading(state):
    return np.stack([np.sin(state[:, 4]), np.cos(state[:, 4])], axis=-1)


SOURCES = {
    "agent": ("state", lambda rows: rows[:, :2]),
    "heading": ("state", heading),
    "image": ("img", lambda rows: rows.astype(np.uint8)),
    "action": ("action", lambda rows: rows),
}
ENDS = [4, 9, 20]


class Published(NamedTuple):
    specification: Specification
    sources: dict


def make_arrays(length=20):
    rng = np.random.default_rng(0)
    return {
        "state": rng.normal(size=(length, 5)).astype("float32"),
        "img": rng.integers(0, 256, (length, 6, 5, 3)).astype("float32"),
        "action": rng.normal(size=(length, 2)).astype("float32"),
        "n_contacts": rng.integers(0, 3, (length, 1)).astype("float32"),
    }


def publish(path, zarr_format=2, ends=ENDS, **changes):
    """Write a replay buffer like the published ones: Blosc with bitshuffle, chunks along time."""
    group = zarr.create_group(path, zarr_format=zarr_format)
    if zarr_format == 2:
        codec = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    else:
        codec = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    for key, values in (make_arrays() | changes).items():
        chunks = (7, *values.shape[1:])
        group.create_array(f"data/{key}", shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=codec)
        group[f"data/{key}"][:] = values
    group.create_array("meta/episode_ends", data=np.asarray(ends), chunks=(5,), compressors=codec)
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_streams_are_the_converted_rows_of_their_sources(tmp_path, zarr_format):
    buffer = ReplayBuffer(publish(tmp_path / "buffer", zarr_format), SPECIFICATION, SOURCES)
    arrays = make_arrays()
    expected = {
        "agent": arrays["state"][:, :2],
        "heading": heading(arrays["state"]),
        "image": arrays["img"].astype(np.uint8),
        "action": arrays["action"],
    }
    assert (len(buffer), buffer.num_steps) == (3, 20)
    assert buffer.episode_ends.tolist() == ENDS
    assert buffer.episode_seeds.tolist() == [-1, -1, -1]
    assert buffer.episode_ends.dtype == buffer.episode_seeds.dtype == np.int64
    for stream in SPECIFICATION.streams:
        assert buffer.read(stream.name).dtype == np.dtype(stream.dtype)
        np.testing.assert_array_equal(buffer.read(stream.name), expected[stream.name])
        np.testing.assert_array_equal(buffer.read(stream.name, 6, 15), expected[stream.name][6:15])
        np.testing.assert_array_equal(buffer.episode(1)[stream.name], expected[stream.name][4:9])
        assert buffer.read(stream.name, 20).shape == (0, *stream.shape)
    assert buffer.keys == ["action", "img", "n_contacts", "state"]
    for key in buffer.keys:
        np.testing.assert_array_equal(buffer.foreign_rows(key, 3, 9), arrays[key][3:9])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_buffer_passes_check_demonstrations(tmp_path, monkeypatch, zarr_format):
    monkeypatch.setattr(check, "PIECE_BYTES", 500)  # several pieces of every stream
    buffer = ReplayBuffer(publish(tmp_path / "buffer", zarr_format), SPECIFICATION, SOURCES)
    assert check.check_demonstrations(buffer).startswith("3 episodes, 20 steps")


def test_doubles_are_cast_and_rows_after_the_last_episode_are_ignored(tmp_path):
    action = np.random.default_rng(0).normal(size=(25, 2))
    buffer = ReplayBuffer(publish(tmp_path / "buffer", action=action), SPECIFICATION, SOURCES)
    np.testing.assert_array_equal(buffer.read("action"), action[:20].astype("float32"))
    with pytest.raises(ValueError, match=r"steps must lie in 0 .. 20, got 0 .. 25"):
        buffer.foreign_rows("action", 0, 25)


@pytest.mark.parametrize(
    ("buffer", "sources", "message"),
    [
        ({"ends": [4, 4, 20]}, {}, "meta/episode_ends must ascend, got 4 for episode 1 after 4 for episode 0"),
        ({"ends": [4.0, 9.0]}, {}, "meta/episode_ends must be a vector of integers, got float64"),
        ({"action": np.zeros((19, 2))}, {}, "data/action must reach the last episode's end at step 20, got 19 steps"),
        ({}, {"agent": ("states", heading)}, r"there is no data/states: did you mean 'state'\?"),
        ({}, {"agnet": ("state", heading)}, r"got 'agnet': did you mean 'agent'\?"),
    ],
)
def test_an_inconsistent_buffer_or_source_is_refused(tmp_path, buffer, sources, message):
    path = publish(tmp_path / "buffer", **buffer)
    with pytest.raises(ValueError, match=message) as error:
        ReplayBuffer(path, SPECIFICATION, SOURCES | sources)
    assert str(error.value).startswith(str(path))


def test_every_stream_needs_a_source(tmp_path):
    sources = {name: source for name, source in SOURCES.items() if name != "action"}
    with pytest.raises(ValueError, match=r"every stream must have a source, \['action'\] have none"):
        ReplayBuffer(publish(tmp_path / "buffer"), SPECIFICATION, sources)


def test_a_path_without_a_buffer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="check the path"):
        ReplayBuffer(tmp_path / "nowhere", SPECIFICATION, SOURCES)
    with pytest.raises(ValueError, match="not a zarr group"):
        ReplayBuffer(tmp_path, SPECIFICATION, SOURCES)
    zarr.create_group(tmp_path / "empty", zarr_format=2)
    with pytest.raises(ValueError, match="there is no array meta/episode_ends"):
        ReplayBuffer(tmp_path / "empty", SPECIFICATION, SOURCES)


def test_a_source_whose_rows_do_not_fit_the_stream_is_refused(tmp_path):
    path = publish(tmp_path / "buffer")
    wrong = {
        "agent": ("state", lambda rows: rows),
        "heading": ("state", lambda rows: heading(rows)[1:]),
        "image": ("img", lambda rows: rows.astype("int64")),
    }
    buffer = ReplayBuffer(path, SPECIFICATION, SOURCES | wrong)
    for name, got in [("agent", "(20, 5)"), ("heading", "(19, 2)"), ("image", "(20, 6, 5, 3) in int64")]:
        with pytest.raises(ValueError, match=rf"data/\w+: .* stream '{name}', .* got {re.escape(got)}.*: check"):
            buffer.read(name)


def test_nan_is_detected_when_rows_are_read(tmp_path):
    action = make_arrays()["action"]
    action[13, 1] = np.nan
    buffer = ReplayBuffer(publish(tmp_path / "buffer", action=action), SPECIFICATION, SOURCES)
    np.testing.assert_array_equal(buffer.read("action", 0, 13), action[:13])
    with pytest.raises(ValueError, match=r"buffer: data/action: .*step 13, .*action\[1\]: .*nan"):
        buffer.read("action", 9, 20)
    np.testing.assert_array_equal(buffer.foreign_rows("action"), action)


@pytest.mark.parametrize(("zarr_format", "chunk"), [(2, "1.0.0.0"), (3, "c/1/0/0/0")])
def test_a_truncated_chunk_is_detected(tmp_path, zarr_format, chunk):
    path = publish(tmp_path / "buffer", zarr_format)
    file = path / "data/img" / chunk
    intact = file.read_bytes()
    buffer = ReplayBuffer(path, SPECIFICATION, SOURCES)
    for length in (0, 3, len(intact) // 2, len(intact) - 1):
        file.write_bytes(intact[:length])
        buffer.read("image", 0, 7)
        with pytest.raises(ValueError, match=f"data/img: chunk file {file} is damaged"):
            buffer.read("image")


def test_the_right_reader_is_opened(tmp_path):
    buffer = publish(tmp_path / "buffer")
    store = DemonstrationStore.create(tmp_path / "ours", SPECIFICATION).path
    assert isinstance(open_demonstrations(buffer, Published(SPECIFICATION, SOURCES)), ReplayBuffer)
    assert isinstance(open_demonstrations(store), DemonstrationStore)
    assert isinstance(open_demonstrations(store, Published(SPECIFICATION, SOURCES)), DemonstrationStore)
    for task in (None, Published(SPECIFICATION, {})):
        with pytest.raises(ValueError, match=r"not a demonstration store .*task="):
            open_demonstrations(buffer, task)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*check the path"):
        open_demonstrations(tmp_path / "nowhere", Published(SPECIFICATION, SOURCES))


def test_a_store_with_another_specification_is_refused(tmp_path):
    path = DemonstrationStore.create(tmp_path / "ours", SPECIFICATION).path
    other = Specification(SPECIFICATION.observations, Stream("action", (3,)), control_dt=0.05)
    with pytest.raises(ValueError, match=r"ours: .*action: shape is \(2,\) on one side .*; control_dt is 0.1 s"):
        open_demonstrations(path, Published(other, {}))


# --- the published Push-T demonstrations


@pytest.fixture(scope="module")
def pusht():
    if "RECEDE_PUSHT_STORE" not in os.environ:
        pytest.skip("RECEDE_PUSHT_STORE does not name the published store pusht_cchi_v7_replay.zarr")
    specification = Specification((Stream("state", (5,)),), Stream("action", (2,), units="px"), control_dt=0.1)
    sources = {"state": ("state", lambda rows: rows), "action": ("action", lambda rows: rows)}
    return ReplayBuffer(Path(os.environ["RECEDE_PUSHT_STORE"]), specification, sources)


def digest(rows):
    return hashlib.sha256(np.ascontiguousarray(rows)).hexdigest()


def test_pusht_has_the_published_episodes(pusht):
    assert (len(pusht), pusht.num_steps) == (206, 25_650)
    assert pusht.keys == ["action", "img", "keypoint", "n_contacts", "state"]
    assert digest(pusht.episode_ends) == "82db02e667c59a83fedb211ab9b84182591b75009df1385210d5235197f93d72"
    assert digest(pusht.read("state")) == "dcdc539bfdba9fc01cba8d2fe91cc580539ec046a88b0ffbe91be5511948d4dc"
    assert digest(pusht.read("action")) == "6691b085749144b8db1aede97a80fb380afd08953fcd03660b441d0ffe9d6a8f"


@pytest.mark.slow
def test_pusht_has_the_published_images(pusht):
    hashed = hashlib.sha256()
    for start in range(0, pusht.num_steps, 1610):  # 10 chunks, 180 MB
        rows = pusht.foreign_rows("img", start, min(start + 1610, pusht.num_steps))
        hashed.update(rows.astype(np.uint8))
    assert hashed.hexdigest() == "65dd40b1f0e3ccceb65db847224c4d85e922174c7a3e98c1cd5f3d84cb272700"


def agent_paths(starts, actions):
    """Paths (T + 1, n, 2) of Push-T's agent under actions (T, n, 2): a free point with a controller at 100 Hz.

    Ten times per action, the velocity grows by 0.01 s times 100 (action - position) - 20 velocity.
    """
    positions, velocity = [starts], np.zeros_like(starts)
    for action in actions:
        position = positions[-1]
        for _ in range(10):
            velocity = velocity + 0.01 * (100 * (action - position) - 20 * velocity)
            position = position + 0.01 * velocity
        positions.append(position)
    return np.array(positions)


def test_pusht_states_precede_their_actions(pusht):
    """In every episode, action[t] leads from state[t] to state[t + 1], within a thousandth of a pixel."""
    episodes = [pusht.episode(index) for index in range(len(pusht))]
    lengths = [len(episode["action"]) for episode in episodes]
    actions = np.zeros((max(lengths), len(episodes), 2))
    for index, episode in enumerate(episodes):
        actions[: lengths[index], index] = episode["action"]
    starts = np.stack([episode["state"][0, :2] for episode in episodes]).astype(float)
    paths, shifted = agent_paths(starts, actions), agent_paths(starts, actions[1:])
    for index, episode in enumerate(episodes):
        agent = episode["state"][:, :2]
        np.testing.assert_allclose(paths[: len(agent), index], agent, atol=1e-3)
        assert np.abs(shifted[: len(agent) - 1, index] - agent[:-1]).max() > 1  # actions that are one step early


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_within_a_group_of_data_is_refused_truly(tmp_path, zarr_format):
    path = publish(tmp_path / "buffer", zarr_format)
    zarr.open_group(path, mode="r+").create_array("data/obs/state", data=make_arrays()["state"])
    for key in ("obs/state", "obs"):
        with pytest.raises(ValueError, match=rf"data/{key} lies in a group or is one.*without '/'"):
            ReplayBuffer(path, SPECIFICATION, SOURCES | {"agent": (key, heading)})


def test_data_in_other_forms_is_named_with_the_step_that_helps(tmp_path):
    publish(tmp_path / "unpacked" / "buffer")
    zipped = Path(shutil.make_archive(str(tmp_path / "buffer.zarr"), "zip", tmp_path / "unpacked"))
    (tmp_path / "demos.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "lerobot" / "meta").mkdir(parents=True)
    (tmp_path / "lerobot" / "meta" / "info.json").write_text("{}")
    for path, remedy in [
        (zipped, r"unzip it first \(unzip buffer.zarr.zip"),
        (tmp_path / "demos.hdf5", "HDF5, so make a store of it: recede convert demos.hdf5"),
        (tmp_path / "lerobot", "LeRobot, so make a store of it: recede convert"),
        (tmp_path / "unpacked", f"did you mean {tmp_path}/unpacked/buffer"),
    ]:
        with pytest.raises(ValueError, match=rf"{path}: not a zarr group .*{remedy}"):
            open_demonstrations(path, Published(SPECIFICATION, SOURCES))
