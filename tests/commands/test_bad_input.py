"""Bad input gets one line that names the file, the key, the rule and the remedy, and leaves nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from recede.checkpoints.runs import resolve_checkpoint
from recede.commands.composition import explain
from recede.datasets.store import DemonstrationStore
from recede.files import write_json_with_digest
from recede.specification import Specification, Stream


@pytest.fixture
def store(tmp_path, reaches):
    """A copy to damage."""
    return Path(shutil.copytree(reaches, tmp_path / "demos.zarr"))


@pytest.fixture
def run(tmp_path, trained):
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(recede, folder, *arguments):
    """The one line with which a command refuses, having changed nothing in the folder."""
    before, folders = content(folder), sorted(folder.rglob("*"))
    result = recede(*arguments)
    assert result.status == 2, result
    assert content(folder) == before
    assert sorted(folder.rglob("*")) == folders
    return result.last if arguments[0] == "replay" else result.line  # a replay reads while it shows its progress


# --- demonstrations


def remove(path):
    shutil.rmtree(path)


def no_store(path):
    shutil.rmtree(path)
    path.mkdir()
    (path / "notes.txt").write_text("nothing here")


def a_file(path):
    shutil.rmtree(path)
    path.write_text("nothing here")


def truncate(path):
    chunk = path / "data/action/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-20])


def flip(path):
    chunk = path / "data/position/c/0/0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)


def lose(path):
    (path / "data/target/c/0/0").unlink()


def descend(path):
    zarr.open_group(path, mode="r+")["meta/episode_ends"][3] = 5


def shorten(path):
    array = zarr.open_group(path, mode="r+")["data/action"]
    array.resize((array.shape[0] - 2, 2))


def put_nan(path):
    zarr.open_group(path, mode="r+")["data/action"][7] = [0.0, np.nan]


def put_infinity(path):
    zarr.open_group(path, mode="r+")["data/position"][9] = [np.inf, 0.0]


def drop_array(path):
    shutil.rmtree(path / "data/target")


def cut_description(path):
    file = path / "zarr.json"
    file.write_text(file.read_text()[:-30])


def other_version(path):
    edit_attributes(path, format=9)


def other_units(path):
    description = zarr.open_group(path, mode="r").attrs["recede"]["specification"]
    description["action"]["units"] = ["mm", "mm"]
    edit_attributes(path, specification=description)


def other_shape(path):
    description = zarr.open_group(path, mode="r").attrs["recede"]["specification"]
    stream = description["observations"][1]
    stream |= {"shape": [3], "units": [], "labels": [], "low": [], "high": []}
    edit_attributes(path, specification=description)


def edit_attributes(path, **changes):
    group = zarr.open_group(path, mode="r+")
    group.attrs["recede"] = group.attrs["recede"] | changes


def empty(path):
    specification = DemonstrationStore.open(path).specification
    shutil.rmtree(path)
    DemonstrationStore.create(path, specification)


def only_short_episodes(path):
    store = DemonstrationStore.open(path)
    short = [{name: rows[:5] for name, rows in store.episode(index).items()} for index in range(3)]
    empty(path)
    for episode in short:
        DemonstrationStore.open(path).append(episode)


TRAIN = ["task=toys:REACH", "out={folder}/out", "steps=2", "dataset={folder}/demos.zarr"]
RESTORE = "restore it from a copy"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, ["check the path"]),
        (no_store, ["neither zarr.json nor .zgroup", "name the folder of a store"]),
        (a_file, ["not a zarr group"]),
        (truncate, ["data/action: chunk file", "data/action/c/0/0 is damaged", RESTORE]),
        (flip, ["data/position: chunk file", "data/position/c/0/0 is damaged", RESTORE]),
        (lose, ["data/target: chunk file", "data/target/c/0/0 is missing", RESTORE]),
        (descend, ["meta/episode_ends must ascend, got 5 for episode 3", RESTORE]),
        (shorten, ["data/action must reach the last episode's end at step", RESTORE]),
        (put_nan, ["'action', step 7, dimension action.y", "got nan: repair or leave out"]),
        (put_infinity, ["'position', step 9, dimension position.x", "got inf"]),
        (drop_array, ["there is no array data/target", RESTORE]),
        (cut_description, ["zarr.json is damaged", "restore that file from a copy"]),
        (other_version, ["recede.format", "got 9", "the version of recede"]),
        (
            other_units,
            ["the store must have the specification", "action: units is ('mm', 'mm') on one side and ('m', 'm')"],
        ),
        (empty, ["got a store without episodes"]),
        (only_short_episodes, ["no episode has the 8 steps of the action horizon"]),
        (other_shape, ["data/target", "(3,) in float32", "got (2,)", "restore the store from a copy"]),
    ],
)
def test_damaged_demonstrations_are_refused_before_anything_is_written(recede, tmp_path, store, small, damage, words):
    damage(store)
    line = refused(recede, tmp_path, "train", *[argument.format(folder=tmp_path) for argument in TRAIN], *small)
    assert line.startswith(f"recede train: {store}")
    for word in words:
        assert word in line


@pytest.mark.parametrize("command", ["inspect", "replay"])
@pytest.mark.parametrize("damage", [remove, no_store, truncate, flip, lose, descend, shorten])
def test_other_commands_refuse_them_too(recede, tmp_path, store, monkeypatch, command, damage):
    monkeypatch.chdir(tmp_path)
    damage(store)
    more = ["task=toys:REACH"] if command == "replay" else []
    assert str(store) in refused(recede, tmp_path, command, f"dataset={store}", *more)


def test_recording_does_not_go_on_in_a_damaged_store(recede, tmp_path, store):
    whole = content(store)
    flip(store)
    result = recede("collect", "task=toys:REACH", f"out={store}", "episodes=21")
    assert result.status == 2
    assert "data/position/c/0/0 is damaged" in result.last
    (store / "data/position/c/0/0").write_bytes(whole[store / "data/position/c/0/0"])
    assert len(DemonstrationStore.open(store)) == 20
    assert recede("collect", "task=toys:REACH", f"out={store}", "episodes=21").status == 0


def test_demonstrations_of_another_task_are_refused(recede, tmp_path, store, small):
    more = [f"dataset={store}", f"out={tmp_path / 'out'}", *small]
    line = refused(recede, tmp_path, "train", "task=pick_place", *more)
    assert f"{store}: the store must have the specification" in line
    assert "position: only on one side" in line


@pytest.mark.parametrize("changes", [{"format": "\x1b]0;title\x07"}, {"specification": "labels"}])
def test_no_text_of_a_store_controls_the_terminal(recede, tmp_path, store, changes):
    if changes == {"specification": "labels"}:
        changes = {"specification": zarr.open_group(store, mode="r").attrs["recede"]["specification"]}
        changes["specification"]["action"]["labels"] = ["x", "\x1b]0;title\x07"]
    edit_attributes(store, **changes)
    line = refused(recede, tmp_path, "inspect", f"dataset={store}")
    assert line.isprintable()
    assert "x1b]0;title" in line


# --- replay buffers of others


def replay_buffer(path, **changes):
    """In the layout of Diffusion Policy: 40 steps of Push-T in two episodes."""
    rng = np.random.default_rng(0)
    arrays = {
        "data/state": rng.uniform([50, 50, 150, 150, 0], [450, 450, 350, 350, 6], (40, 5)).astype("float32"),
        "data/action": rng.uniform(50, 450, (40, 2)).astype("float32"),
        "meta/episode_ends": np.array([20, 40]),
    }
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for key, values in (arrays | changes).items():
        if values is not None:
            group.create_array(key, data=values)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"meta/episode_ends": np.array([20, 15])}, "meta/episode_ends must ascend, got 15 for episode 1 after 20"),
        ({"meta/episode_ends": np.array([20, 41])}, "must reach the last episode's end at step 41, got 40 steps"),
        ({"meta/episode_ends": None}, "there is no array meta/episode_ends"),
        ({"data/state": None}, "there is no data/state"),
        ({"data/action": np.full((40, 2), np.nan, "float32")}, "data/action: stream 'action', step 0"),
        ({"data/action": np.ones((40, 3), "float32")}, "data/action: its rows must become steps of stream 'action'"),
    ],
)
def test_damaged_replay_buffers_are_refused(recede, tmp_path, small, changes, words):
    path = replay_buffer(tmp_path / "foreign.zarr", **changes)
    more = [f"dataset={path}", f"out={tmp_path / 'out'}", *small]
    line = refused(recede, tmp_path, "train", "task=pusht", *more)
    assert line.startswith(f"recede train: {path}")
    assert words in line


def test_a_replay_buffer_needs_a_task(recede, tmp_path, small):
    path = replay_buffer(tmp_path / "foreign.zarr")
    line = refused(recede, tmp_path, "train", f"dataset={path}", f"out={tmp_path / 'out'}", *small)
    assert "not a demonstration store" in line
    assert "task=" in line
    assert recede("train", "task=pusht", f"dataset={path}", f"out={tmp_path / 'out'}", "steps=1", *small).status == 0


# --- checkpoints


def edit_manifest(run, **changes):
    path = resolve_checkpoint(run) / "policy.json"
    write_json_with_digest(path, json.loads(path.read_text()) | changes)


def newer(run):
    edit_manifest(run, format=4)


def flip_weights(run):
    path = resolve_checkpoint(run) / "policy.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 4
    path.write_bytes(damaged)


def cut_manifest(run):
    path = resolve_checkpoint(run) / "policy.json"
    path.write_text(path.read_text()[:200])


def wrong_horizons(run):
    edit_manifest(run, horizons={"observation": 2, "prediction": 4, "action": 8})


def wrong_specification(run):
    action = Stream("action", (2,), units="m")
    edit_manifest(run, specification=Specification((Stream("velocity", (2,)),), action, 0.1).to_json())


def lose_weights(run):
    (resolve_checkpoint(run) / "policy.safetensors").unlink()


def lose_checkpoints(run):
    shutil.rmtree(run / "checkpoints")


def no_training_state(run):
    (resolve_checkpoint(run) / "training.json").write_text("{}")


def flip_training_state(run):
    path = resolve_checkpoint(run) / "training.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 4
    path.write_bytes(damaged)


def cut_config(run):
    (run / "config.json").write_text('{"steps": ')


def alter_config(run):
    path = run / "config.json"
    path.write_text(path.read_text().replace('"batch_size": ', '"batch_size": 1'))


BOTH = [
    (newer, ["policy.json: format must be 3", "got 4", "or train again"]),
    (flip_weights, ["policy.safetensors is damaged: its SHA-256", "use another checkpoint"]),
    (cut_manifest, ["policy.json is damaged", "restore it from a copy"]),
    (wrong_horizons, ["policy.json is damaged (the prediction horizon must cover", "use another checkpoint"]),
    (lose_weights, ["policy.safetensors is missing", "or use another checkpoint"]),
]
EVALUATE_ONLY = [
    (wrong_specification, ["the weights must be those of the configured policy"]),
    (lose_checkpoints, ["holds no checkpoints"]),
]
RESUME_ONLY = [
    (no_training_state, ["training.json is damaged", "restore it from a copy"]),
    (flip_training_state, ["training.safetensors is damaged: its SHA-256"]),
    (alter_config, ["config.json is damaged: its SHA-256", "restore it from a copy, or use another folder"]),
    (cut_config, ["config.json is damaged", "restore it from a copy, or use another folder"]),
]


@pytest.mark.parametrize(("damage", "words"), [*BOTH, *EVALUATE_ONLY])
def test_damaged_checkpoints_are_not_evaluated(recede, tmp_path, run, damage, words):
    damage(run)
    options = ["task=toys:REACH", f"out={tmp_path / 'results'}", "episodes=1", "device=cpu"]
    line = refused(recede, tmp_path, "evaluate", run, *options)
    assert str(run) in line
    for word in words:
        assert word in line


@pytest.fixture
def resuming(run, reaches, small):
    """The command that resumes the run."""
    steps = ["steps=200", "warmup=10", "learning_rate=4e-3", "save_every=50", "log_every=25"]
    return ["train", "task=toys:REACH", f"dataset={reaches}", f"out={run}", *small, *steps]


def test_the_undamaged_checkpoint_is_accepted(recede, resuming):
    assert recede(*resuming).status == 0  # it is done


@pytest.mark.parametrize(("damage", "words"), [*BOTH, *RESUME_ONLY])
def test_damaged_checkpoints_are_not_resumed(recede, tmp_path, run, resuming, damage, words):
    damage(run)
    line = refused(recede, tmp_path, *resuming)
    assert str(run) in line
    for word in words:
        assert word in line


def test_a_policy_is_not_evaluated_in_a_task_of_another_specification(recede, tmp_path, run):
    line = refused(recede, tmp_path, "evaluate", run, "task=pick_place", "episodes=1", "device=cpu")
    assert "that of task 'pick_place'" in line
    assert "position: only on one side" in line


@pytest.mark.parametrize(
    ("command", "remedies"),
    [("train", ["batch_size", "draws", "image_cache=mapped"]), ("evaluate", ["device=cpu"])],
)
def test_a_full_gpu_is_one_line(command, remedies):
    advice = "GPU 0 has 3.00 GiB in all. Of the\nallocated memory 1.00 GiB is by PyTorch. See the documentation"
    line = explain(torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate 2.00 GiB. {advice}"), command)
    assert "Tried to allocate 2.00 GiB" in line
    assert "documentation" not in line
    assert "\n" not in line
    for remedy in remedies:
        assert remedy in line


def test_results_that_cannot_be_written_are_refused_before_anything_runs(recede, tmp_path, run):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/below"):
        for more in ([], ["delay_ms=[0,200]"]):
            options = ["task=toys:REACH", f"out={out}", "episodes=1000000", "device=cpu", *more]
            line = refused(recede, tmp_path, "evaluate", run, *options)
            assert "give another out=" in line
