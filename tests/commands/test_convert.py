"""`recede convert`: what there is, a mapping to edit, a store, and its proof."""

import json
import math
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace as Message

import h5py
import numpy as np
import pytest
from foreign_data import rows, write_npz
from lerobot_data import write_v3
from mcap_data import in_turn, joints, write
from recede.commands import convert
from recede.datasets.store import DemonstrationStore
from stores import files


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arrays(tmp_path):
    return write_npz(tmp_path / "arrays")


def test_a_value_that_is_not_finite_names_its_episode_and_leaves_nothing(recede, arrays, tmp_path):
    episode = dict(np.load(arrays / "episode_9.npz"))
    episode["qpos"][2, 1] = np.nan
    np.savez(arrays / "episode_9.npz", **episode)
    error = recede("convert", "arrays", "out=a.zarr", "rate=10").err.splitlines()[-1]
    assert "episode_9.npz: stream 'qpos', step 2" in error
    assert error.endswith('(episodes="episode!=1" leaves it out)')
    assert {path.name for path in tmp_path.iterdir()} == {"arrays"}
    result = recede("convert", "arrays", "out=a.zarr", "rate=10", "episodes=episode!=1")
    assert result.status == 0, result.err


def test_units_that_nobody_knows_are_kept_with_a_warning_and_one_may_be_a_number(recede, arrays):
    recede("convert", "arrays", "mapping=m.yaml", "rate=10")
    proposed = Path("m.yaml").read_text()
    Path("m.yaml").write_text(proposed.replace("units: []", "units: [rad, banana, 1]", 1))
    result = recede("convert", "arrays", "out=a.zarr", "mapping=m.yaml")
    assert result.status == 0, result.err
    assert "warning: qpos has the units banana, which recede does not know" in result.out
    assert DemonstrationStore.open("a.zarr").stream("qpos").units == ("rad", "banana", "1")
    Path("m.yaml").write_text(proposed.replace("units: []", "units: 1", 1))
    assert "warning" not in recede("convert", "arrays", "out=b.zarr", "mapping=m.yaml").out


def test_a_stranger_describes_edits_converts_and_verifies(recede, arrays):
    result = recede("convert", "arrays", "mapping=m.yaml")
    assert result.status == 0, result.err
    assert "arrays: numpy, 3 episodes, 21 steps" in result.out
    assert "next: recede convert arrays out=data/arrays.zarr mapping=m.yaml" in result.out
    assert "rate must be the steps a second" in recede("convert", "arrays", "out=a.zarr", "mapping=m.yaml").line
    edited = Path("m.yaml").read_text().replace("rate: ???", "rate: 20").replace("qpos:\n", "joints:\n")
    Path("m.yaml").write_text(edited.replace("units: []", "units: [rad, rad, rad]", 1))
    result = recede("convert", "arrays", "mapping=m.yaml")
    assert "m.yaml makes 3 episodes, 21 steps, of these streams:\n  joints: float32 [3] rad rad rad" in result.out
    result = recede("convert", "arrays", "out=a.zarr", "mapping=m.yaml")
    assert result.status == 0, result.err
    store = DemonstrationStore.open("a.zarr")
    assert store.stream("joints").units == ("rad", "rad", "rad")
    assert store.specification.control_dt == 0.05
    assert store.images == "png"
    assert store.provenance["mapping"]["observations"]["joints"]["key"] == "qpos"
    proof = json.loads(Path("a.zarr.conversion.json").read_text())
    assert [entry["source"] for entry in proof["episodes"]] == ["episode_8.npz", "episode_9.npz", "episode_10.npz"]
    assert [entry["steps"] for entry in proof["episodes"]] == [7, 5, 9]
    assert set(proof["episodes"][0]["sha256"]) == {"joints", "gripper", "image", "action"}
    assert "proof: a.zarr.conversion.json, and its first and last frames: a.zarr.conversion.png" in result.out
    assert Path("a.zarr.conversion.png").stat().st_size > 1000
    result = recede("convert", "arrays", "out=a.zarr", "verify=true")
    assert result.status == 0, result.err
    assert "verified: 3 episodes of a.zarr hold in 4 streams exactly what arrays holds" in result.out
    assert recede("convert", "arrays", "mapping=m.yaml", "out=a.zarr", "verify=true").status == 0
    Path("other.yaml").write_text(Path("m.yaml").read_text().replace("rad", "deg"))
    refused = recede("convert", "arrays", "mapping=other.yaml", "out=a.zarr", "verify=true")
    assert "a.zarr was made by another mapping than other.yaml holds now" in refused.line
    assert "made by recede convert source=arrays out=a.zarr mapping=m.yaml" in recede("inspect", "a.zarr").out
    assert recede("convert", "arrays", "out=a.zarr", "verify=true", "rate=20").status == 0
    refused = recede("convert", "arrays", "out=a.zarr", "verify=true", "rate=3")
    assert "a.zarr was made with rate=20, got rate=3.0: leave out rate=" in refused.line
    refused = recede("convert", "arrays", "out=a.zarr", "verify=true", "images=jpeg")
    assert "verify=true writes no images, got images=jpeg: leave it out" in refused.line


def test_stores_whose_names_differ_by_an_ending_have_proofs_of_their_own():
    assert len({convert._proof(Path("data", name)) for name in ("a", "a.zarr", "a.b")}) == 3


def test_a_recording_with_times_is_resampled_and_what_that_did_is_printed(recede, tmp_path):
    times = np.concatenate([np.arange(0, 1, 0.01), np.arange(2, 3, 0.01)])
    states = [(t, "/joint_states", "sensor_msgs/msg/JointState", joints(t, [t, 2 * t, 3 * t])) for t in times]
    commands = [(t, "/cmd", "std_msgs/msg/Float64", Message(data=t)) for t in np.arange(0, 3, 0.02)]
    write(tmp_path / "run.mcap", in_turn(states, commands))
    described = recede("convert", "run.mcap", "mapping=m.yaml", "rate=20").out
    assert "JointState, 66.56 Hz, header stamps" in described
    assert described.endswith("next: recede convert run.mcap out=data/run.zarr mapping=m.yaml\n")
    split = "1 holes longer than 0.5 s make 2 episodes of 1; the first: run.mcap, /joint_states.position is silent"
    assert split in recede("convert", "run.mcap", "mapping=m.yaml").out
    result = recede("convert", "run.mcap", "mapping=m.yaml", "out=run.zarr")
    assert result.status == 0, result.err
    assert split in result.out
    assert "/joint_states.position: interpolated, " in result.out
    store = DemonstrationStore.open("run.zarr")
    np.testing.assert_allclose(store.episode(1)["joint_states_position"][:, 1], 4 + np.arange(20) / 10, atol=1e-6)
    proof = json.loads(Path("run.zarr.conversion.json").read_text())
    assert [entry["source"] for entry in proof["episodes"]] == ["run.mcap part 1", "run.mcap part 2"]
    assert recede("convert", "run.mcap", "out=run.zarr", "verify=true").status == 0


def test_what_is_guessed_is_told(recede, arrays):
    result = recede("convert", "arrays", "out=a.zarr", "rate=10", "episodes=steps>5", "images=jpeg")
    assert result.status == 0, result.err
    assert "so this is guessed:\n  qpos is qpos\n" in result.out
    assert "  the action means target, of the robot, 10 steps a second" in result.out
    assert recede("convert", "arrays", "out=a.zarr", "verify=true").status == 0
    changed = rows(0, 7)
    changed["action"][3, 1] += 1
    np.savez(arrays / "episode_8.npz", **changed)
    result = recede("convert", "arrays", "out=a.zarr", "verify=true")
    assert result.status == 2
    assert "a.zarr: stream 'action' of episode 0 is not what arrays holds, so one of them has changed" in result.err


def test_what_no_file_can_hold_becomes_text_and_another_rate_than_the_noted_one_is_told(recede):
    with h5py.File("a.hdf5", "w") as file:
        group = file.create_group("data/demo_0")
        group["actions"], group["obs/x"] = np.zeros((4, 2)), np.zeros((4, 2))
        group.attrs["ep_meta"] = json.dumps({"lang": "lift \ud83d"})
        file["data"].attrs["fps"] = 10
    result = recede("convert", "a.hdf5", "out=a.zarr", "rate=20")
    assert result.status == 0, result.err
    assert "notes 10 steps a second and no times, and the mapping says 20: every step is kept" in result.out
    assert DemonstrationStore.open("a.zarr").episode_facts[0].sentence == "lift ?"
    write_v3(Path("lerobot"), lengths=(3,), files=((0,),))
    info = json.loads(Path("lerobot/meta/info.json").read_text()) | {"offset": math.nan}
    Path("lerobot/meta/info.json").write_text(json.dumps(info))
    result = recede("convert", "lerobot", "out=b.zarr")
    assert result.status == 0, result.err
    assert "no times" not in result.out
    assert DemonstrationStore.open("b.zarr").provenance["sources"][0]["metadata"]["offset"] == "NaN"


@pytest.mark.slow
def test_a_killed_conversion_goes_on_and_ends_as_if_nothing_had_happened(recede, nursery, tmp_path):
    folder = write_npz(tmp_path / "many", lengths=range(5, 45))
    process = nursery.start("convert", folder, "out=a.zarr", "rate=10", folder=tmp_path)
    end = time.monotonic() + 60
    while not (Path("a.unfinished.zarr").exists() and len(DemonstrationStore.open("a.unfinished.zarr"))):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    nursery.wait()
    assert not Path("a.zarr").exists()
    result = recede("convert", folder, "out=a.zarr", "rate=10")
    assert "of 40 episodes: the copy goes on behind them" in result.out
    Path("other").mkdir()
    os.chdir("other")
    assert recede("convert", folder, "out=a.zarr", "rate=10").status == 0
    one, other = (
        {path.relative_to(made): path.read_bytes() for path in files(made)}
        for made in (tmp_path / "a.zarr", tmp_path / "other/a.zarr")
    )
    assert one == other


def test_a_full_disk_leaves_nothing_that_looks_whole(nursery, arrays, tmp_path):
    status, output = nursery.run("convert", "arrays", "out=a.zarr", "rate=10", folder=tmp_path, limit=3_000)
    assert status == 2, output
    assert "a.unfinished.zarr" in output.splitlines()[-1]
    assert "(File too large)" in output.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"arrays", "a.unfinished.zarr"}
    status, output = nursery.run("convert", "arrays", "out=a.zarr", "rate=10", folder=tmp_path)
    assert status == 0, output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out=there"], "out=there exists already: give another out=, or add verify=true"),
        (["out=a.zarr"], "rate must be the steps a second, which the data set does not say"),
        (["out=a.zarr", "rate=0"], "rate must be above 0"),
        (["out=a.zarr", "rate=10", "mapping=m.yaml"], "rate is for a mapping that is proposed"),
        (["out=a.zarr", "mapping=none.yaml"], "write the proposal there with recede convert arrays mapping=none.yaml"),
        (["out=a.zarr", "mapping=m.yaml"], "m.yaml must be a mapping in YAML"),
        (["out=a.zarr", "mapping=list.yaml"], "list.yaml must hold entries, got ['a']"),
        (["out=a.zarr", "mapping=twice.yaml"], "twice.yaml, line 4: the entry 'arm' stands twice: rename one of them"),
        (["out=a.zarr", "rate=10", "episodes=steps>99"], "no episode of 3 fulfils"),
        (["out=a.zarr", "rate=10", "images=webp"], "images must be one of zstd, png, jpeg"),
        (["verify=true"], "give the store as out="),
        (["out=none.zarr", "verify=true"], "none.zarr does not exist"),
        (["out=mine.zarr", "verify=true"], "was not made by recede convert"),
        (["source=nowhere", "out=a.zarr"], "nowhere does not exist: check the path"),
        (["source=there", "out=a.zarr"], "there is no data set that is read"),
        (["source=half", "out=a.zarr"], "half seems to be a data set of LeRobot without its meta/info.json"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(recede, reaches, arrays, tmp_path, arguments, words):
    Path("there").mkdir()
    Path("half/data/chunk-000").mkdir(parents=True)
    Path("mine.zarr").symlink_to(reaches)
    Path("m.yaml").write_text("a: [")
    Path("list.yaml").write_text("[a]")
    Path("twice.yaml").write_text("rate: 10\nobservations:\n  arm: {key: qpos}\n  arm: {key: gripper}\n")
    before = sorted(tmp_path.rglob("*"))
    result = recede("convert", "source=arrays", *arguments)
    assert words in result.line
    assert not result.out
    assert sorted(tmp_path.rglob("*")) == before
