"""HDF5 files in the layouts of others become demonstrations; what is damaged or lies elsewhere is refused."""

import fcntl
import io
import json
import random
import re
import sys
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
from damage import fate, spoil
from foreign_data import names_of
from hdf5_data import ENV_ARGS, LENGTHS, demo, write_aloha, write_maniskill, write_robomimic
from PIL import Image
from recede.datasets.check import check_demonstrations
from recede.datasets.converted import Converted
from recede.datasets.copying import copy, verify
from recede.datasets.formats.hdf5 import Hdf5
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.mapping import UNSET, DatasetMapping, propose
from recede.datasets.selection import selected
from recede.datasets.store import DemonstrationStore


def converted(path, rate=None):
    dataset = open_foreign(path)
    return Converted(dataset, DatasetMapping.from_json(propose(dataset, rate=rate), "the proposal"))


@pytest.fixture
def lift(tmp_path):
    return write_robomimic(tmp_path / "lift.hdf5")


def test_every_value_of_robomimic_arrives_in_the_order_of_numbers(lift, tmp_path):
    demonstrations = converted(lift)
    check_demonstrations(demonstrations)
    assert demonstrations.specification.control_dt == 1 / 20
    assert demonstrations.episode_lengths.tolist() == list(LENGTHS)
    assert [stream.name for stream in demonstrations.specification.streams] == [
        "agentview_image",
        "robot0_eef_pos",
        "action",
    ]
    for index, length in enumerate(LENGTHS):
        expected, episode = demo(index, length), demonstrations.episode(index)
        np.testing.assert_array_equal(episode["agentview_image"], expected["obs/agentview_image"])
        np.testing.assert_array_equal(episode["robot0_eef_pos"], expected["obs/robot0_eef_pos"].astype("float32"))
        np.testing.assert_array_equal(episode["action"], expected["actions"].astype("float32"))
    digests = copy(demonstrations, tmp_path / "lift.zarr", images="png", provenance={})
    assert verify(converted(lift), DemonstrationStore.open(tmp_path / "lift.zarr")) == digests


def test_what_robomimic_notes_is_kept(lift):
    dataset = open_foreign(lift)
    assert dataset.metadata == {"env_args": ENV_ARGS, "total": 21}
    assert dataset.action_meaning == ["difference"] * 6 + ["target"]
    assert names_of(dataset) == ["data/demo_8", "data/demo_9", "data/demo_10"]
    assert [facts.outcome for facts in dataset.episode_facts] == ["success"] * 3
    assert "model_file" not in dataset.episode_facts[0].notes
    train = selected(converted(lift), "notes.mask.train=true")
    assert train.episode_numbers.tolist() == [0, 2]
    assert selected(converted(lift), "notes.mask.valid=true").episode_numbers.tolist() == [1]


def test_rewards_say_how_an_episode_ends_only_if_they_are_0_or_1(lift):
    def outcomes(**rewards):
        with h5py.File(lift, "a") as file:
            for name, values in rewards.items():
                file[f"data/{name}/rewards"][:] = values
        return [facts.outcome for facts in open_foreign(lift).episode_facts]

    assert outcomes(demo_9=0) == ["success", "failure", "success"]
    assert outcomes(demo_9=[0, 1, 0, 0, 0]) == ["success", "unknown", "success"]
    assert outcomes(demo_9=[0, 0, 0, 0.5, 1]) == ["unknown"] * 3
    assert outcomes(demo_8=0, demo_9=0, demo_10=0) == ["unknown"] * 3


def test_raw_files_of_robosuite_have_the_state_as_observation(tmp_path):
    path = write_robomimic(tmp_path / "demo.hdf5", keep=lambda key: key in ("states", "actions"))
    demonstrations = converted(path)
    np.testing.assert_array_equal(demonstrations.episode(1)["states"], demo(1, 5)["states"].astype("float32"))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_folder_of_aloha(tmp_path, is_compressed):
    folder = write_aloha(tmp_path / "task", is_compressed=is_compressed)
    assert propose(open_foreign(folder))["rate"] == UNSET
    demonstrations = converted(folder, rate=50)
    check_demonstrations(demonstrations)
    assert names_of(demonstrations.dataset) == ["episode_8.hdf5", "episode_9.hdf5", "episode_10.hdf5"]
    for index, length in enumerate(LENGTHS):
        episode = demonstrations.episode(index)
        with h5py.File(folder / f"episode_{index + 8}.hdf5") as file:
            np.testing.assert_array_equal(episode["action"], file["action"][:])
            np.testing.assert_array_equal(episode["qpos"], file["observations/qpos"][:].astype("float32"))
            images = np.asarray(file["observations/images/top"])
            if is_compressed:
                images = [np.asarray(Image.open(io.BytesIO(content.tobytes()))) for content in images]
            np.testing.assert_array_equal(episode["top"], images)
            assert len(episode["top"]) == length
    others = {"other_arrays": ["compress_len"], "compress": True} if is_compressed else {}
    assert demonstrations.dataset.metadata == {"sim": False} | others


def test_an_observation_after_the_last_action_is_left_out(tmp_path):
    path = write_maniskill(tmp_path / "trajectory.h5")
    demonstrations = converted(path, rate=20)
    assert demonstrations.episode_lengths.tolist() == list(LENGTHS)
    assert [facts.outcome for facts in demonstrations.episode_facts] == ["success", "failure", "success"]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(demonstrations.episode(1)["obs"], file["traj_1/obs"][:-1])


def test_several_files_of_libero_are_one_data_set_with_a_sentence_each(tmp_path):
    for name, text in (("b", "open the drawer"), ("a", "push the plate")):
        path = write_robomimic(tmp_path / f"{name}.hdf5", lengths=(4, 6))
        with h5py.File(path, "a") as file:
            file["data"].attrs["problem_info"] = json.dumps({"language_instruction": text})
    dataset = open_foreign(tmp_path)
    assert [facts.sentence for facts in dataset.episode_facts] == ["push the plate"] * 2 + ["open the drawer"] * 2
    assert dataset.episode_name(2) == "b.hdf5/data/demo_8"
    assert dataset.metadata["env_args"] == ENV_ARGS
    assert dataset.metadata["files"]["a.hdf5"]["problem_info"] == {"language_instruction": "push the plate"}


def test_what_lies_beside_the_observations_is_left_out(lift):
    with h5py.File(lift, "a") as file:
        for name, length in (("demo_8", 7), ("demo_9", 5)):  # demo_10 has none
            file[f"data/{name}/datagen_info/eef_pose"] = np.zeros((length, 4, 4))
        for name, length in (("demo_8", 7), ("demo_9", 5), ("demo_10", 9)):
            file[f"data/{name}/subtask"] = np.zeros(length)
            file[f"data/{name}/actions_abs"] = np.zeros((length, 10))
    left_out = propose(open_foreign(lift))["left_out"]
    assert left_out["subtask"] == "it lies outside the observations"
    assert left_out["actions_abs"] == "it is another form of the action"
    assert "datagen_info/eef_pose" not in left_out


def test_the_attributes_of_a_file_that_is_an_episode_are_its_facts(tmp_path):
    folder = write_aloha(tmp_path / "task")
    with h5py.File(folder / "episode_9.hdf5", "a") as file:
        file.attrs.update({"seed": 3, "sim": True, "operator": "Ada", "huge": "x" * 30_000, "worst": float("nan")})
    dataset = open_foreign(folder)
    assert dataset.metadata == {}
    assert dataset.episode_facts[1].notes == {"sim": True, "operator": "Ada", "worst": "nan"}
    assert dataset.episode_seeds.tolist() == [-1, 3, -1]


def test_without_h5py_the_extra_is_named(lift, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=re.escape("needs h5py to be read: pip install 'recede[hdf5]'")):
        open_foreign(lift)


def test_numbers_of_every_kind_arrive(tmp_path):
    values = {
        "obs/big": np.arange(6, dtype=">f4").reshape(3, 2),
        "obs/half": np.linspace(0, 1, 3, dtype="float16"),
        "obs/truth": np.array([True, False, True]),
        "obs/whole": np.array([[1, -2]] * 3, dtype="int16"),
        "action": np.ones((3, 1)),
    }
    with h5py.File(tmp_path / "episode.h5", "w") as file:
        for key, array in values.items():
            file[key] = array
    dataset = open_foreign(tmp_path / "episode.h5")
    for key, array in values.items():
        rows = dataset.read(key, 0, 1, 3)
        np.testing.assert_array_equal(rows, array[1:3])
        assert rows.dtype == dataset.column(key).dtype


OSC = {"type": "OSC_POSE", "control_delta": True}


@pytest.mark.parametrize(
    ("settings", "size", "meaning"),
    [
        ({"controller_configs": OSC | {"control_delta": False}}, 7, "target"),
        ({"controller_configs": OSC, "robots": ["Panda", "Panda"]}, 4, ["difference", "target"] * 2),
        ({"controller_configs": [OSC, OSC], "robots": ["Panda", "Panda"]}, 4, ["difference", "target"] * 2),
        ({"controller_configs": [OSC, OSC | {"control_delta": False}]}, 4, "target"),
        ({"controller_configs": OSC}, 1, "difference"),
        ({"controller_configs": {"type": "JOINT_VELOCITY"}}, 3, ["velocity", "velocity", "target"]),
        (
            {
                "controller_configs": {
                    "type": "BASIC",
                    "body_parts": {"right": {"type": "OSC_POSE", "input_type": "delta"}},
                }
            },
            2,
            ["difference", "target"],
        ),
        (
            {"controller_configs": {"body_parts": {"right": {"type": "OSC_POSE", "input_type": "absolute"}}}},
            2,
            "target",
        ),
        (
            {"controller_configs": {"arms": {"right": OSC}, "base": {"type": "JOINT_VELOCITY"}}},
            2,
            ["difference", "target"],
        ),
        ({"controller_configs": [{"type": "JOINT_VELOCITY"}, {"type": "JOINT_POSITION"}]}, 2, "target"),
        ({}, 7, "target"),
        ({"controller_configs": 3, "robots": "Panda"}, 7, "target"),
    ],
)
def test_the_controller_says_what_an_action_means(tmp_path, settings, size, meaning):
    path = write_robomimic(tmp_path / "a.hdf5", lengths=(3,), env_args={"env_kwargs": settings}, keep="states".__eq__)
    with h5py.File(path, "a") as file:
        file["data/demo_8/actions"] = np.zeros((3, size))
    assert open_foreign(path).action_meaning == meaning
    DatasetMapping.from_json(propose(open_foreign(path), rate=1), "the proposal").specification(open_foreign(path))


def truncate(path, file):
    file.close()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def delete(key):
    return lambda path, file: file.__delitem__(key)


def put(key, value):
    def change(path, file):
        if key in file:
            del file[key]
        file[key] = value

    return change


def external_storage(path, file):
    raw = path.with_suffix(".raw")
    raw.write_bytes(bytes(5 * 8))
    file.create_dataset("data/demo_9/obs/secret", (5,), "f8", external=[(raw, 0, 40)])


def virtual(path, file):
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (5,))
    file.create_virtual_dataset("data/demo_9/obs/secret", layout)


def plugin(path, file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((5,))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((5,))
    h5py.h5d.create(file["data/demo_9/obs"].id, b"secret", h5py.h5t.NATIVE_DOUBLE, space, properties)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "lift.hdf5 is no whole HDF5 file (.*truncated.*): restore it"),
        (lambda path, file: path.write_bytes(b""), "lift.hdf5 is no whole HDF5 file"),
        (delete("data/demo_9/actions"), "demo_8 has actions .* and .*demo_9 has not"),
        (delete("data/demo_9/obs"), "demo_8 has obs/agentview_image .* and .*demo_9 has not"),
        (put("data/demo_9/obs/robot0_eef_pos", np.zeros((4, 3))), "demo_9: obs/robot0_eef_pos must have a row .* 5"),
        (put("data/demo_9/actions", np.zeros((4, 7))), "demo_9 must have 5 steps as num_samples says, got"),
        (
            put("data/demo_9/actions", np.zeros((5, 6))),
            r"demo_9: actions must have rows of float64 \(7,\) as in .*demo_8",
        ),
        (put("data/demo_9/obs/more", np.zeros(5)), "demo_9 has obs/more .* and .*demo_8 has not"),
        (put("data/demo_9/obs/secret", h5py.ExternalLink("other.h5", "/x")), "demo_9/obs/secret is a link"),
        (put("data/demo_9/obs/secret", h5py.SoftLink("/data")), "demo_9/obs/secret is a link"),
        (put("data/demo_7", h5py.ExternalLink("other.h5", "/x")), "data/demo_7 is a link"),
        (lambda path, file: file.__setitem__("data/demo_9/obs/again", file["data"]), "more than 12 groups deep"),
        (external_storage, "demo_9/obs/secret takes its values from other files"),
        (virtual, "demo_9/obs/secret takes its values from other files"),
        (plugin, r"demo_9/obs/secret is compressed by the filter zstd \(32015\)"),
        (lambda path, file: file.move("data/demo_8", "other"), None),
        (
            lambda path, file: [file.move(f"data/demo_{index}", f"x{index}y") for index in (8, 9, 10)],
            "must hold arrays",
        ),
        (put("timeouts", np.zeros(3)), None),
    ],
)
def test_a_damaged_or_odd_file_is_refused_with_its_place(lift, damage, message):
    with h5py.File(lift, "a") as file:
        damage(lift, file)
    if message is None:
        open_foreign(lift)
        return
    with pytest.raises(ValueError, match=message):
        open_foreign(lift)


def test_flat_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        for key in ("observations", "actions", "terminals"):
            file[key] = np.zeros(10)
    with pytest.raises(ValueError, match="which terminals divides"):
        open_foreign(tmp_path / "hopper.hdf5")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros(5, dtype=[("x", "f8"), ("y", "f8")]), "a compound is no number"),
        (np.array(["left"] * 5, dtype=h5py.string_dtype()), "text is no number"),
        (np.zeros(5, dtype=h5py.ref_dtype), "a reference is no number"),
        (np.zeros(5, dtype=complex), "complex128 is no number"),
    ],
)
def test_what_is_no_number_is_left_out_and_says_why(tmp_path, values, reason):
    with h5py.File(tmp_path / "episode.h5", "w") as file:
        file["action"], file["qpos"] = np.zeros(5), np.zeros(5)
        file.create_dataset(
            "odd", data=values if values.dtype != h5py.ref_dtype else None, shape=(5,), dtype=values.dtype
        )
    content = propose(open_foreign(tmp_path / "episode.h5"), rate=1)
    assert content["left_out"] == {"odd": reason}


def test_a_file_that_is_being_written_is_refused(lift):
    with lift.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="open in a program that writes it"):
            open_foreign(lift)
    open_foreign(lift)


def test_damaged_values_are_named_with_their_episode_and_array(lift):
    with h5py.File(lift) as file:
        place = file["data/demo_9/obs/agentview_image"].id.get_chunk_info(0)
    with lift.open("r+b") as file:
        file.seek(place.byte_offset + place.size // 2)
        file.write(bytes(50))
    with pytest.raises(ValueError, match=r"lift.hdf5: /data/demo_9/obs/agentview_image, rows 0 .. 5 are damaged"):
        converted(lift).episode(1)


def test_two_rates_are_refused(tmp_path):
    write_robomimic(tmp_path / "a.hdf5")
    write_robomimic(tmp_path / "b.hdf5", env_args={"env_kwargs": {"control_freq": 10}})
    with pytest.raises(ValueError, match=re.escape("{'a.hdf5': 20.0, 'b.hdf5': 10.0}")):
        open_foreign(tmp_path)


def test_a_value_that_is_not_finite_is_named_with_its_episode(lift):
    with h5py.File(lift, "a") as file:
        file["data/demo_9/obs/robot0_eef_pos"][3, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"data/demo_9: stream 'robot0_eef_pos', step 3, dimension robot0_eef_pos\[1\]"
    ):
        converted(lift).read("robot0_eef_pos")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda image: image[: len(image) // 2], "row 2: the image is damaged"),
        (lambda image: b"\0" * len(image), "row 2: there must be an image"),
        (
            lambda image: image.replace(b"\x00\x18\x00\x14", b"\x00\x18\x00\x15", 1),
            r"row 2: .* \(24, 20, 3\), got \(24, 21",
        ),
        (lambda image: image.replace(b"\x00\x18\x00\x14", b"\xff\x00\xff\x00", 1), "row 2: .* at most 268435456 bytes"),
    ],
)
def test_a_damaged_image_is_named(tmp_path, content, message):
    folder = write_aloha(tmp_path / "task", is_compressed=True)
    with h5py.File(folder / "episode_9.hdf5", "a") as file:
        images = file["observations/images/top"]
        changed = content(images[2].tobytes())
        images[2] = np.frombuffer(changed.ljust(images.shape[1], b"\0"), dtype=np.uint8)
    with pytest.raises(ValueError, match="episode_9.hdf5: /observations/images/top, " + message):
        converted(folder, rate=50).read("top")


def test_random_damage_is_read_or_refused_in_one_line(tmp_path):
    """HDF5 has no checksum of values, so damage to them is read; no damage ends the process or is a traceback."""
    lift = write_robomimic(tmp_path / "lift.hdf5", lengths=(3, 2))
    whole, fates = lift.read_bytes(), list[str]()
    for seed in range(30):
        lift.write_bytes(whole)
        spoil(lift, random.Random(seed))

        def read():
            demonstrations = converted(lift, rate=20)
            for index in range(len(demonstrations)):
                demonstrations.episode(index)

        fates.append(fate(read, "convert"))
        if lift.is_dir():
            lift.rmdir()
    assert "" in fates
    assert any("no whole HDF5 file" in line for line in fates)


def test_a_chunk_that_would_fill_the_memory_is_refused(tmp_path):
    stream = zlib.compressobj(9)
    bomb = b"".join(stream.compress(bytes(2**20)) for _ in range(20)) + stream.flush()
    with h5py.File(tmp_path / "episode.h5", "w") as file:
        file["action"] = np.zeros((10, 2))
        array = file.create_dataset("image", (10, 24, 20), "u1", chunks=(5, 24, 20), compression="gzip")
        array.id.write_direct_chunk((5, 0, 0), bomb)
    dataset = Hdf5(tmp_path / "episode.h5")
    assert not dataset.read("image", 0, 0, 5).any()
    with pytest.raises(ValueError, match=r"episode.h5: /image, row 5 is damaged \(a chunk has 2400 bytes"):
        dataset.read("image", 0, 4, 6)


@pytest.mark.parametrize(("key", "row"), [("rewards", ()), ("success", ()), ("obs/image", (100,)), ("mask/train", ())])
def test_a_chunk_that_would_fill_the_memory_is_refused_when_the_file_is_opened(tmp_path, key, row):
    bomb, path = zlib.compress(bytes(2**24)), tmp_path / "episode.h5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((10, 2))
        file["data"].attrs["env_args"] = "{}"
        name = key if key.startswith("mask") else f"data/demo_0/{key}"
        dtype = {"success": "bool", "rewards": "f8"}.get(key, "S70" if key.startswith("mask") else "u1")
        array = file.create_dataset(name, (10, *row), dtype, chunks=(10, *row), compression="gzip")
        array.id.write_direct_chunk((0,) * array.ndim, bomb)
    with pytest.raises(ValueError, match=rf"episode.h5: /{name}, row 0 is damaged .* this one becomes more"):
        Hdf5(path)


def test_memory_grows_with_the_rows_alone(tmp_path):
    with h5py.File(tmp_path / "episode.h5", "w") as file:
        file["action"] = np.zeros((20_000, 2))
        file.create_dataset("observations/image", (20_000, 64, 64, 3), "uint8")  # 246 MB that are never written
    dataset = Hdf5(tmp_path / "episode.h5")
    tracemalloc.start()
    for start in range(0, 20_000, 2000):
        dataset.read("observations/image", 0, start, start + 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6
