"""Every line `next: recede ...` runs as it is printed."""

import shlex
import shutil

import numpy as np
import pytest
import toys
import zarr
from policy_server import serve
from recede.checkpoints.opening import open_policy
from recede.checkpoints.runs import resolve_checkpoint
from recede.datasets.download import PUBLISHED
from recede.envs.catalogue import TASKS
from recede.recording.scripted import Collected

QUICK = {
    "train": {"steps": 1},
    "evaluate": {"episodes": 1, "videos": 0},
    "control": {"episodes": 1, "seconds": 0.2},
}
TASK = "task=toys:REACH"
ENDINGS = {
    "inspect": (["inspect", "{store}", "task=reach"], ["train"]),
    "edit": (["edit", "{store}", "out=an edited store", "episodes=episode<5"], ["inspect", "train"]),
    "replay": (["replay", "task=reach", "dataset={store}", "episodes=episode<2"], ["train"]),
    "convert": (["convert", "{store}", "to=lerobot", "out=theirs"], ["convert", "inspect"]),
    "evaluate": (["evaluate", "{run}", TASK, "out=results", "episodes=2", "videos=0"], ["evaluate"]),
    "executions": (["evaluate", "{run}", TASK, "execution=[receding,rtc]", "out=results", "episodes=2"], ["evaluate"]),
    "several": (["evaluate", "{run}", "second", TASK, "out=both", "episodes=2", "videos=0"], ["evaluate"]),
    "undecided": (["evaluate", "{run}", "second", TASK, "until=decided", "most=2", "videos=0"], ["evaluate"]),
}
"""Ending -> the command that ends so, and the commands that it leads to by one `next:` line after the other."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def reach(monkeypatch):
    """The toy task under a name of the table, as a package adds it."""
    monkeypatch.setitem(TASKS, "reach", toys.REACH)


@pytest.fixture
def follow(recede, small):
    """Run the next command that a result prints, with fewer steps or episodes."""

    def run(result):
        assert result.status == 0, result.err
        (line,) = [line for line in result.out.splitlines() if line.startswith("next: ")]
        program, command, *arguments = shlex.split(line.removeprefix("next: "))
        assert program == "recede"
        quick = QUICK.get(command, {})
        kept = [argument for argument in arguments if argument.partition("=")[0] not in quick]
        fewer = [f"{key}={value}" for key, value in quick.items()]
        return recede(command, *kept, *fewer, *(small if command == "train" else []))

    return run


@pytest.fixture
def leads_to():
    """The command that a result proposes."""

    def name(result):
        lines = [line for line in result.out.splitlines() if line.startswith("next: ")]
        return shlex.split(lines[-1])[2] if lines else None

    return name


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_command_ends_with_one_that_runs(recede, follow, leads_to, reach, folder, reaches, trained, ending):
    shutil.copytree(trained, folder / "second")
    typed, expected = ENDINGS[ending]
    result = recede(*(part.format(store=reaches, run=trained) for part in typed))
    assert result.status == 0, result.err
    for command in expected:
        assert leads_to(result) == command
        result = follow(result)
        assert result.status == 0, result.err


@pytest.mark.slow
def test_from_the_recording_to_the_evaluation(recede, follow, reach, folder):
    collected = recede("collect", "task=reach", "out=it's my store", "episodes=5")
    assert follow(follow(collected)).status == 0
    assert (folder / "runs/reach/evaluation.json").exists()
    again = recede("collect", "task=reach", "out=it's my store", "episodes=6")
    assert follow(again).status == 0  # the run of five episodes stays as it is
    assert resolve_checkpoint(folder / "runs/reach-2").exists()


def test_the_location_of_a_task_is_repeated(recede, follow, folder, reaches, small):
    run = recede("train", f"dataset={reaches}", "task=toys:REACH", "out=my run", "steps=1", *small)
    assert follow(run).status == 0
    assert (folder / "my run/evaluation.json").exists()


def test_a_download_is_trained_on(recede, follow, folder, monkeypatch):
    def write(name, path, *, url):
        group, rng = zarr.create_group(path, zarr_format=2), np.random.default_rng(0)
        for key, width in (("data/state", 5), ("data/action", 2)):
            group.create_array(key, data=rng.uniform(0, 500, (60, width)).astype(np.float32))
        group.create_array("meta/episode_ends", data=np.array([30, 60]))
        return PUBLISHED[name]

    monkeypatch.setattr("recede.datasets.download.download", write)
    assert follow(recede("download", "pusht", "out=it's mine")).status == 0
    assert resolve_checkpoint(folder / "runs/pusht").exists()


@pytest.mark.slow
def test_a_served_policy_is_controlled_with(recede, follow, reach, folder, reaches, small, monkeypatch):
    run = recede("train", f"dataset={reaches}", "task=reach", "out=run", "steps=1", *small)
    assert run.status == 0, run.err
    with serve(open_policy(folder / "run").engine, task="reach") as (address, _):

        async def ready_at_once(self, host, port, *, ready, stop):
            ready(address)

        monkeypatch.setattr("recede.serving.server.Server.run", ready_at_once)
        assert follow(recede("serve", "run")).status == 0


def test_a_run_without_a_task_has_no_next_command(recede, folder, reaches, small):
    result = recede("train", f"dataset={reaches}", "out=run", "steps=1", *small)
    assert result.status == 0, result.err
    assert "next:" not in result.out


def test_a_classifier_of_a_task_that_is_located_has_no_next_command(recede, folder, reaches, trained):
    sizes = ["condition=seconds<0.9", "steps=1", "device=cpu"]
    result = recede("train-classifier", f"run={trained}", f"dataset={reaches}", "out=guide", *sizes)
    assert result.status == 0, result.err
    assert result.out.splitlines()[-1] == "classifier: guide"


def test_an_empty_recording_has_no_next_command(recede, folder, monkeypatch):
    monkeypatch.setattr("recede.recording.scripted.collect", lambda *_, **__: Collected(0, 3, "failures.zarr"))
    assert "next:" not in recede("collect", "task=toys:REACH", "out=empty.zarr", "episodes=1").out
