"""Data sets in the published layouts of LeRobot are read value by value, and frames by their numbers."""

import json
import os
import re
import shutil
import subprocess
import sys

import av
import lerobot_data
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_data import LENGTHS, TASKS, change_episodes, change_info, number_of, picture, vectors, write_v2, write_v3
from recede.datasets.check import check_demonstrations
from recede.datasets.converted import Converted
from recede.datasets.formats.lerobot import LeRobot
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.formats.video_frames import VideoFrames
from recede.datasets.mapping import DatasetMapping, propose
from recede.datasets.store import DemonstrationStore

TOP = "observation.images.top"
STARTS = np.cumsum([0, *LENGTHS])


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("SVT_LOG", "1")  # the encoder of AV1 prints its settings


def converted(root):
    dataset = open_foreign(root)
    return Converted(dataset, DatasetMapping.from_json(propose(dataset), "the proposal"))


@pytest.mark.parametrize(
    ("write", "options", "version"),
    [
        (write_v3, {}, "v3.0"),
        (write_v3, {"video": "av1", "tasks": "__index_level_0__"}, "v3.0"),
        (write_v3, {"video": "h264"}, "v3.0"),
        (write_v2, {}, "v2.1"),
        (write_v2, {"video": "hevc"}, "v2.1"),
        (write_v2, {"video": "h264", "version": "v2.0"}, "v2.0"),
    ],
)
def test_every_value_of_every_version_arrives(write, options, version, tmp_path):
    episodes = converted(write(tmp_path / "data", **options))
    assert episodes.dataset.version == version
    assert episodes.specification.control_dt == 0.1
    assert episodes.episode_lengths.tolist() == list(LENGTHS)
    for index, length in enumerate(LENGTHS):
        episode, expected = episodes.episode(index), vectors(index, length)
        np.testing.assert_array_equal(episode["state"], expected["observation.state"])
        np.testing.assert_array_equal(episode["matrix"], expected["observation.matrix"].reshape(length, 4).astype("f4"))
        np.testing.assert_array_equal(episode["action"], expected["action"])
        numbers = [number_of(image) for image in episode["top"]]
        assert numbers == list(range(STARTS[index], STARTS[index + 1]))
        if not options.get("video"):
            np.testing.assert_array_equal(episode["top"], [picture(number) for number in numbers])
        facts = episodes.episode_facts[index]
        assert (facts.sentence, facts.outcome) == (TASKS[index % 2], ("success", "failure")[index % 2])
    check_demonstrations(episodes)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A data set whose key frames are six frames apart, with frames that refer to later ones."""
    return write_v3(tmp_path_factory.mktemp("film") / "data", video="h264")


def test_frames_are_exactly_those_of_the_decoder_in_whatever_order_they_are_read(film):
    files = sorted((film / "videos").rglob("*.mp4"))
    expected = np.concatenate(
        [[frame.to_ndarray(format="rgb24") for frame in av.open(str(file)).decode(video=0)] for file in files]
    )
    episodes = converted(film)
    np.testing.assert_array_equal(episodes.read("top"), expected)
    rng = np.random.default_rng(0)
    for start in rng.permutation(25):
        stop = min(start + int(rng.integers(1, 9)), 25)
        np.testing.assert_array_equal(episodes.read("top", start, stop), expected[start:stop])


def test_reading_on_decodes_each_frame_once(film, monkeypatch):
    dataset = open_foreign(film)
    monkeypatch.setattr(VideoFrames, "_seek", _counting(VideoFrames._seek, seeks := []))
    monkeypatch.setattr(VideoFrames, "_pixels", _counting(VideoFrames._pixels, decoded := []))
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            dataset.read(TOP, episode, step, step + 1)
    assert (len(decoded), len(seeks)) == (25, 2)  # a seek for each file


def _counting(function, calls):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_rows_are_read_in_whatever_order(film):
    episodes = converted(film)
    expected = np.concatenate([vectors(index, length)["action"] for index, length in enumerate(LENGTHS)])
    for start in np.random.default_rng(0).permutation(25):
        np.testing.assert_array_equal(episodes.read("action", start, 25), expected[start:])


def test_what_is_proposed_and_what_is_left_out(film):
    dataset = open_foreign(film)
    content = propose(dataset)
    assert content["rate"] == 10
    assert set(content["observations"]) == {"top", "state", "matrix"}
    assert content["observations"]["state"]["labels"] == ["waist", "shoulder", "elbow"]
    assert content["action"] == {"key": "action", "units": [], "labels": ["x", "y"], "meaning": "target", "of": "robot"}
    assert set(content["left_out"]) == {"gripper", "next.reward", "next.success", *lerobot_data.COUNTED}
    assert dataset.metadata == {"robot_type": "so100"}
    assert dataset.column(TOP).note == "video h264"
    np.testing.assert_array_equal(dataset.read("gripper", 1, 0, 5), vectors(1, 5)["gripper"])


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        ({"motors": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"left": {"axes": ["a"]}, "right": ["b", "c"]}, ["a", "b", "c"]),
        ({"b": 1, "a": 0, "c": 2}, ["a", "b", "c"]),
        ([["a", "b", "c"]], ["a", "b", "c"]),
        (["a", "b"], []),
        (None, []),
    ],
)
def test_labels_in_every_form(film, tmp_path, names, labels):
    root = shutil.copytree(film, tmp_path / "data")
    change_info(root, features=_features(root, "observation.state", names=names))
    assert propose(open_foreign(root))["observations"]["state"]["labels"] == labels


def _features(root, key, **changes):
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[key] = features.get(key, {}) | changes
    return features


def test_a_depth_map_and_texts_are_left_out_with_a_reason(film, tmp_path):
    root = shutil.copytree(film, tmp_path / "data")
    change_info(root, features=_features(root, TOP, info={"is_depth_map": True}))
    change_info(root, features=_features(root, "gripper", dtype="string"))
    left_out = propose(open_foreign(root))["left_out"]
    assert "depth map" in left_out[TOP]
    assert left_out["gripper"]


def test_channels_may_come_first_in_the_description(film, tmp_path):
    root = shutil.copytree(film, tmp_path / "data")
    names, shape = ["channels", "height", "width"], [3, lerobot_data.HEIGHT, lerobot_data.WIDTH]
    change_info(root, features=_features(root, TOP, names=names, shape=shape))
    np.testing.assert_array_equal(converted(root).read("top"), converted(film).read("top"))


def test_outcomes_that_nobody_noted_are_unknown(tmp_path, monkeypatch):
    plain = vectors
    monkeypatch.setattr(
        lerobot_data, "vectors", lambda *episode: plain(*episode) | {"next.success": np.zeros(episode[1], bool)}
    )
    assert {facts.outcome for facts in open_foreign(write_v3(tmp_path / "data")).episode_facts} == {"unknown"}


def test_several_tasks_of_an_episode_are_a_note(film, tmp_path):
    root = shutil.copytree(film, tmp_path / "data")
    change_episodes(root, 1, tasks=list(TASKS))
    facts = open_foreign(root).episode_facts[1]
    assert (facts.sentence, facts.notes) == ("", {"tasks": list(TASKS)})


def change_rows(root, file, **changes):
    """Change entries of a table: column -> {row: value}."""
    path = root / file
    rows = pq.read_table(path)
    for name, values in changes.items():
        column = rows[name].to_pylist()
        for row, value in values.items():
            column[row] = value
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(column, rows.schema.field(name).type))
    pq.write_table(rows, path)


def retype(path, name):
    rows = pq.read_table(path)
    texts = pa.array(["a"] * len(rows))
    pq.write_table(rows.set_column(rows.schema.get_field_index(name), name, texts), path)


def cut(path, share=0.7):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


DATA, VIDEO = "data/chunk-000/file-000.parquet", f"videos/{TOP}/chunk-000/file-000.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda root: (root / VIDEO).unlink(), ["file-000.mp4 is missing", TOP, "episode 0"]),
        (lambda root: cut(root / VIDEO), ["file-000.mp4 is damaged, it ends early"]),
        (lambda root: (root / VIDEO).write_bytes(b"no video at all"), ["file-000.mp4 is no whole video"]),
        (lambda root: lerobot_data.write_video(root / VIDEO, range(20)), [TOP, "must have 21 frames", "got 20"]),
        (lambda root: lerobot_data.write_video(root / VIDEO, range(21), fps=15), [TOP, "10 frames a second", "15"]),
        (lambda root: (root / DATA).unlink(), ["file-000.parquet is missing", "episodes 0 .. 2"]),
        (lambda root: cut(root / DATA), ["data/chunk-000/file-000.parquet is damaged"]),
        (lambda root: change_rows(root, DATA, episode_index={9: 2}), ["episode 1, step 2", "must be 1, got 2"]),
        (lambda root: change_rows(root, DATA, frame_index={9: 7}), ["episode 1, step 2", "frame_index must be 2"]),
        (lambda root: change_rows(root, DATA, index={20: 3}), ["episode 2, step 8", "index must be 20, got 3"]),
        (lambda root: change_rows(root, DATA, task_index={20: 2}), ["episode 2, step 8", "no task 2"]),
        (lambda root: change_episodes(root, 1, length=6), ["episode 1", "7 .. 13", "7 .. 12"]),
        (lambda root: change_episodes(root, 1, episode_index=2), ["must be episode 1"]),
        (
            lambda root: change_episodes(root, 1, **{f"videos/{TOP}/from_timestamp": 0.8}),
            [TOP, "episode 1", "begin at frame 7", "got frame 8"],
        ),
        (lambda root: change_info(root, total_frames=26), ["total_frames is 26", "lists 25"]),
        (lambda root: change_info(root, total_episodes=5), ["total_episodes is 5", "lists 4"]),
        (lambda root: change_info(root, codebase_version="v1.6"), ["v3.0, v2.1, v2.0", "'v1.6'"]),
        (lambda root: change_info(root, fps="fast"), ["fps", "'fast'"]),
        (lambda root: change_info(root, video_path=None), ["video_path must name a file", "None"]),
        (lambda root: change_info(root, data_path="{chunk_index}/{file}"), ["data_path", "chunk_index, file_index"]),
        (lambda root: change_info(root, data_path="../{file_index}.parquet"), ["must stay within the data set"]),
        (lambda root: change_info(root, features={}), ["features must describe the columns"]),
        (
            lambda root: change_info(root, features=_features(root, "observation.force", dtype="float32", shape=[3])),
            ["no column 'observation.force'"],
        ),
        (
            lambda root: change_info(root, features=_features(root, TOP, info={"video.fps": 30})),
            [TOP, "fps is 10", "30 frames a second"],
        ),
        (
            lambda root: change_info(root, features=_features(root, TOP, shape=[96, 96, 3])),
            [TOP, "[96, 96, 3]", "(48, 64)"],
        ),
        (
            lambda root: retype(root / EPISODES, f"videos/{TOP}/from_timestamp"),
            ["file-000.parquet: 'videos/", "must be a number, got 'a'"],
        ),
        (lambda root: (root / "meta/tasks.parquet").unlink(), ["tasks.parquet is missing"]),
        (lambda root: shutil.rmtree(root / "meta/episodes"), ["meta/episodes must hold tables"]),
        (lambda root: cut(root / EPISODES), ["file-000.parquet is damaged"]),
        (lambda root: cut(root / "meta/info.json"), ["info.json is no whole JSON"]),
        (lambda root: (root / "meta/info.json").write_text('{"fps": 1, "fps": 2}'), ["key 'fps' stands twice"]),
    ],
)
def test_a_damaged_data_set_is_refused_with_its_file_and_episode(film, tmp_path, damage, parts):
    root = shutil.copytree(film, tmp_path / "data")
    damage(root)
    with pytest.raises(ValueError) as raised:
        LeRobot(root)
    assert all(part in str(raised.value) for part in parts), raised.value


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda root: (root / "meta/episodes.jsonl").write_text("{}\n"), ["episodes.jsonl, line 1", "episode_index"]),
        (lambda root: (root / "meta/tasks.jsonl").write_text(""), ["total_tasks is 2"]),
        (lambda root: change_info(root, chunks_size=0), ["chunks_size", "got 0"]),
        (lambda root: cut(next(root.rglob("episode_000002.parquet"))), ["episode_000002.parquet"]),
        (lambda root: shutil.rmtree(root / "data/chunk-001"), ["episode_000003.parquet is missing", "episode 3"]),
    ],
)
def test_a_damaged_data_set_of_version_2_is_refused(tmp_path, damage, parts):
    root = write_v2(tmp_path / "data")
    damage(root)
    with pytest.raises(ValueError) as raised:
        LeRobot(root)
    assert all(part in str(raised.value) for part in parts), raised.value


def test_a_damaged_frame_is_refused_when_it_is_read(tmp_path):
    root = write_v3(tmp_path / "data", files=((0, 1, 2, 3),))
    damaged = {"bytes": lerobot_data.png(picture(0))[:90], "path": None}
    change_rows(root, DATA, **{TOP: {8: damaged}})
    episodes = converted(root)
    assert len(episodes.read("top", 0, 8)) == 8
    with pytest.raises(ValueError, match=rf"{DATA}, episode 1, '{TOP}': the image is damaged"):
        episodes.read("top", 7, 9)


def test_an_image_of_another_size_is_refused(tmp_path):
    root = write_v3(tmp_path / "data")
    change_rows(root, DATA, **{TOP: {0: {"bytes": lerobot_data.png(picture(0)[:40]), "path": None}}})
    with pytest.raises(ValueError, match=r"episode 0.*\(48, 64, 3\), got \(40, 64, 3\)"):
        converted(root).read("top", 0, 1)


def test_a_video_whose_frames_are_gone_is_refused(film, tmp_path):
    root = shutil.copytree(film, tmp_path / "data")
    content = bytearray((root / VIDEO).read_bytes())
    middle = content.index(b"mdat") + 4
    content[middle : middle + 3000] = bytes(3000)
    (root / VIDEO).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(root / VIDEO))):
        converted(root).read("top")


def test_missing_packages_name_the_extra(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"need av: pip install 'recede\[lerobot\]'"):
        LeRobot(film)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'recede\[lerobot\]'"):
        LeRobot(film)


def test_a_data_set_that_is_taken_for_a_store_names_the_command(film):
    with pytest.raises(ValueError, match=re.escape(f"recede convert {film} out=STORE")):
        DemonstrationStore.open(film)


MEMORY = """
import resource, sys
from recede.commands.main import main
from recede.datasets import copying
copying.PIECE_BYTES = 2**22
for source, out in zip(sys.argv[1::2], sys.argv[2::2]):
    assert main(["convert", source, "out=" + out, "images=zstd"]) == 0
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("video", ["", "h264"])
def test_memory_does_not_grow_with_the_data_set(tmp_path, monkeypatch, video):
    monkeypatch.setattr(lerobot_data, "HEIGHT", 240)
    monkeypatch.setattr(lerobot_data, "WIDTH", 320)
    paths = []
    for name, length in (("small", 100), ("large", 600)):  # of 23 and of 138 MB
        lengths = (length // 2,) * 2
        paths += [write_v3(tmp_path / name, video=video, lengths=lengths, files=((0, 1),), row_group=length)]
        paths += [tmp_path / f"{name}.zarr"]
    command = [sys.executable, "-c", MEMORY, *map(str, paths)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    small, large = (int(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("peak"))
    assert len(DemonstrationStore.open(paths[-1])) == 2
    assert large - small < 50_000, (small, large)  # kB
