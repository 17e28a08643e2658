"""`recede convert`: what there is, a mapping to edit, a store, and its proof."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from foreign_data import rows, write_npz
from recede.datasets.store import DemonstrationStore
from stores import files


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arrays(tmp_path):
    return write_npz(tmp_path / "arrays")


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
    proof = json.loads(Path("a.conversion.json").read_text())
    assert [entry["source"] for entry in proof["episodes"]] == ["episode_8.npz", "episode_9.npz", "episode_10.npz"]
    assert [entry["steps"] for entry in proof["episodes"]] == [7, 5, 9]
    assert set(proof["episodes"][0]["sha256"]) == {"joints", "gripper", "image", "action"}
    assert "proof: a.conversion.json, and its first and last frames: a.conversion.png" in result.out
    assert Path("a.conversion.png").stat().st_size > 1000
    result = recede("convert", "arrays", "out=a.zarr", "verify=true")
    assert result.status == 0, result.err
    assert "verified: 3 episodes of a.zarr hold in 4 streams exactly what arrays holds" in result.out
    assert "made by recede convert source=arrays out=a.zarr mapping=m.yaml" in recede("inspect", "a.zarr").out


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out=there"], "out=there exists already: give another out=, or add verify=true"),
        (["out=a.zarr"], "rate must be the steps a second, which the data set does not say"),
        (["out=a.zarr", "rate=0"], "rate must be above 0"),
        (["out=a.zarr", "rate=10", "mapping=m.yaml"], "rate is for a mapping that is proposed"),
        (["out=a.zarr", "mapping=none.yaml"], "none.yaml"),
        (["out=a.zarr", "mapping=m.yaml"], "m.yaml must be a mapping in YAML"),
        (["out=a.zarr", "mapping=list.yaml"], "list.yaml must hold entries, got ['a']"),
        (["out=a.zarr", "rate=10", "episodes=steps>99"], "no episode of 3 fulfils"),
        (["out=a.zarr", "rate=10", "images=webp"], "images must be one of zstd, png, jpeg"),
        (["verify=true"], "give the store as out="),
        (["out=a.zarr", "verify=true", "rate=3"], "leave out rate="),
        (["out=none.zarr", "verify=true"], "none.zarr does not exist"),
        (["out=mine.zarr", "verify=true"], "was not made by recede convert"),
        (["source=nowhere", "out=a.zarr"], "nowhere does not exist: check the path"),
        (["source=there", "out=a.zarr"], "there is no data set that is read"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(recede, reaches, arrays, tmp_path, arguments, words):
    Path("there").mkdir()
    Path("mine.zarr").symlink_to(reaches)
    Path("m.yaml").write_text("a: [")
    Path("list.yaml").write_text("[a]")
    before = sorted(tmp_path.rglob("*"))
    result = recede("convert", "source=arrays", *arguments)
    assert words in result.line
    assert not result.out
    assert sorted(tmp_path.rglob("*")) == before
