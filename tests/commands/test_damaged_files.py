"""Files of every kind, damaged in every way: each is read as if nothing were wrong with it, or refused in one line."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from damage import alter, fate, spoil
from published import LEROBOT, lerobot_folder, unet_layout
from published import random as random_weights
from recede.checkpoints.importing import import_checkpoint
from recede.checkpoints.opening import load_policy, read_description
from recede.checkpoints.runs import read_metrics, resolve_checkpoint
from recede.commands.composition import compose
from recede.configs.checkpoints import ImportCheckpointConfig
from recede.configs.components.policies import DiffusionConfig
from recede.datasets.formats.replay_buffer import ReplayBuffer
from recede.datasets.store import DemonstrationStore
from recede.evaluation.reports.comparison import document, find_evaluations, write_lines
from recede.files import with_digest, write_json_with_digest
from recede.policy.weights import read_state_dict
from recede.robots.feetech.calibration import JOINTS, read_calibration
from recede.training.ema import EMA
from recede.training.loop import prepare
from recede.training.measures import Meter
from recede.training.parameters import parameter_groups
from recede.training.state import restore_training
from stores import FOREIGN, SOURCES, buffer

ROUNDS = 12


def read_all(demonstrations):
    for stream in demonstrations.specification.streams:
        demonstrations.read(stream.name)


def compare(path):
    document(find_evaluations(path), command="recede compare")


def calibration(folder):
    folder.mkdir()
    joint = {"drive_mode": 0, "homing_offset": -986, "range_min": 901, "range_max": 3110}
    joints = {name: {"id": number, **joint} for number, name in enumerate(JOINTS, 1)}
    (folder / "arm.json").write_text(json.dumps(joints))


def result():
    """The content of an evaluation.json."""
    network, sampler = {"choice": "unet1d", "channels": [16]}, {"choice": "ddim", "num_steps": 10, "eta": 0.0}
    policy = {"choice": "diffusion", "network": network, "sampler": sampler, "schedule": {"choice": "cosine"}}
    return {
        "task": "reach",
        "checkpoint": "run/checkpoints/00000002",
        "recipe": "ab",
        "step": 2,
        "training_seed": 0,
        "policy": policy,
        "training": {"policy": policy, "batch_size": 8},
        "num_parameters": 9,
        "training_s": 1.5,
        "execution": {"choice": "rtc", "limit": 8.0},
        "delay_ms": 0.0,
        "engine": "eager",
        "seed": 0,
        "seeds": [1, 2],
        "success": [True, False],
        "score": [1.0, 0.25],
        "latency": {"p50_ms": 4.0},
        "broken": [{"seed": 2, "step": 5}],
    }


def evaluations(folder):
    (folder / "a").mkdir(parents=True)
    write_json_with_digest(folder / "a/evaluation.json", result())


def lines(folder):
    folder.mkdir()
    write_lines(folder / "results.jsonl", [{"path": "a", **result()}])


def metrics(folder):
    folder.mkdir()
    entry = {"step": 2, "mean_score": 0.5, "success_rate": 0.5, "episodes": 4}
    (folder / "metrics.jsonl").write_text(json.dumps(with_digest(entry)) + "\n")


def weights(folder):
    folder.mkdir()
    torch.save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, folder / "weights.pt")


def imported(folder):
    import_checkpoint(
        ImportCheckpointConfig(policy=DiffusionConfig(), source=str(folder), out=str(folder.parent / "imported"))
    )
    shutil.rmtree(folder.parent / "imported")


SMALL = {
    "replay buffer, version 2": (buffer, lambda path: read_all(ReplayBuffer(path, FOREIGN, SOURCES))),
    "replay buffer, version 3": (
        lambda path: buffer(path, 3),
        lambda path: read_all(ReplayBuffer(path, FOREIGN, SOURCES)),
    ),
    "calibration": (calibration, lambda path: read_calibration(path / "arm.json")),
    "evaluation": (evaluations, compare),
    "lines": (lines, lambda path: compare(path / "results.jsonl")),
    "metrics": (metrics, read_metrics),
    "weights": (weights, lambda path: read_state_dict(path / "weights.pt", remedy="export it again")),
}
"""What can be made quickly: how it is made in a folder, and how it is read."""


def damage_and_read(path, pick, damage, read, number):
    """Damage one of the files below `path`, and read it. Whether it was refused."""
    rng = random.Random(number)
    files = sorted(file for file in path.rglob(pick) if file.is_file())
    damage(rng.choice(files), rng)
    return fate(lambda: read(path)) != ""


PICKS = {"json": (alter, ("*.json", "*.jsonl", ".zarray")), "bytes": (spoil, ("*",))}


@pytest.mark.filterwarnings("ignore:Found an empty list of filters")
@pytest.mark.parametrize("kind", PICKS)
@pytest.mark.parametrize("name", SMALL)
def test_small_files(tmp_path, name, kind):
    make, read = SMALL[name]
    damage, patterns = PICKS[kind]
    make(tmp_path / "intact")
    assert fate(lambda: read(tmp_path / "intact")) == ""
    patterns = [pattern for pattern in patterns if any((tmp_path / "intact").rglob(pattern))]
    refusals = 0
    for number in range(ROUNDS) if patterns else ():
        path = Path(shutil.copytree(tmp_path / "intact", tmp_path / "damaged"))
        refusals += damage_and_read(path, patterns[0], damage, read, number)
        shutil.rmtree(path)
    assert refusals or not patterns


@pytest.mark.parametrize(("damage", "pick"), [(alter, "zarr.json"), (spoil, "*")])
@pytest.mark.parametrize("store", ["reaches", "filmed"])
def test_stores(request, tmp_path, store, damage, pick):
    intact = request.getfixturevalue(store)
    refusals = 0
    for number in range(ROUNDS // 2):
        path = Path(shutil.copytree(intact, tmp_path / "damaged"))
        refusals += damage_and_read(path, pick, damage, lambda path: read_all(DemonstrationStore.open(path)), number)
        shutil.rmtree(path)
    assert refusals


def read_run(path):
    read_description(path)
    load_policy(path)
    read_metrics(path)


@pytest.mark.parametrize(("damage", "pick"), [(alter, "policy.json"), (spoil, "*")])
def test_runs(trained, tmp_path, damage, pick):
    refusals = 0
    for number in range(ROUNDS):
        path = Path(shutil.copytree(trained, tmp_path / "damaged"))
        refusals += damage_and_read(path, pick, damage, read_run, number)
        shutil.rmtree(path)
    assert refusals


@pytest.mark.parametrize(("damage", "pick"), [(alter, "*.json"), (spoil, "*")])
def test_runs_that_are_resumed(trained, reaches, small, tmp_path, damage, pick):
    steps = ["steps=300", "warmup=10", "learning_rate=4e-3", "save_every=50", "log_every=25"]
    path = tmp_path / "damaged"
    ((config,), _) = compose("train", ["task=toys:REACH", f"dataset={reaches}", f"out={path}", *small, *steps])

    def resume(path):
        policy = prepare(config).policy
        optimizer = torch.optim.AdamW(parameter_groups(policy, weight_decay=0.0))
        restore_training(resolve_checkpoint(path), policy, EMA(policy, power=1, maximum=1), optimizer, Meter("cpu"))

    refusals = 0
    for number in range(ROUNDS // 2):
        shutil.copytree(trained, path)
        refusals += damage_and_read(path, pick, damage, resume, number)
        shutil.rmtree(path)
    assert refusals


@pytest.mark.parametrize(("damage", "pick"), [(alter, "*.json"), (spoil, "*")])
def test_folders_of_another_library(tmp_path, damage, pick):
    intact = lerobot_folder(tmp_path / "intact", weights=random_weights(unet_layout(**LEROBOT)))
    refusals = 0
    for number in range(ROUNDS):
        path = Path(shutil.copytree(intact, tmp_path / "damaged"))
        refusals += damage_and_read(path, pick, damage, imported, number)
        shutil.rmtree(path)
    assert refusals


def test_sizes_beyond_the_weights_take_no_memory(recede, trained, tmp_path):
    path = Path(shutil.copytree(trained, tmp_path / "run"))
    file = resolve_checkpoint(path) / "policy.json"
    content = json.loads(file.read_text())
    content["policy"]["network"]["channels"] = [32_768, 65_536]
    write_json_with_digest(file, content)
    line = recede("evaluate", path, "task=toys:REACH", "episodes=1", "device=cpu", f"out={tmp_path / 'out'}").line
    assert f"{file}: cannot build the policy" in line
    assert "far more than its weights have" in line
