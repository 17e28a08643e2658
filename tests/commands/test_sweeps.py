"""Sweeps: numbered folders, launchers of Hydra, jobs that fail, and sweeps that are interrupted and go on."""

import json
import os
import signal
import subprocess
import sys

import pytest
from recede.checkpoints.runs import checkpoint_steps
from recede.commands.launching import PACKAGES, check_launcher
from recede.evaluation.sweeps import read_sweep
from recede.files import exclusive
from waiting import until

STEPS = 4000
"""Updates of a training that is interrupted."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Sweeps run in a folder of their own, and their processes import what tests import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path


@pytest.fixture
def joblib():
    return pytest.importorskip("hydra_plugins.hydra_joblib_launcher")


@pytest.fixture
def submitit():
    return pytest.importorskip("hydra_plugins.hydra_submitit_launcher")


COLLECT = ["collect", "task=toys:REACH", "episodes=1", "out=sweep", "-m"]
TRAIN = ["train", "dataset=d", "out=sweep", "-m"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "seed=1,2", "hydra/launcher=joblb"], "hydra/launcher cannot be 'joblb': did you mean 'joblib'?"),
        ([*TRAIN, "seed=1,2", "hydra.launcher.n_jobs=2"], "n_jobs=2 is a key of a launcher: add hydra/launcher=NAME"),
        ([*TRAIN, "seed=1,2", "hydra/launcher=basic", "hydra.launcher.jobs=2"], "launcher=basic has no key 'jobs'"),
        ([*TRAIN, "seed=1,2", "hydra.sweep.dir=x"], "there is no key 'hydra.sweep.dir'"),
        ([*TRAIN[:-1], "hydra/launcher=basic"], "hydra/launcher=basic says where the jobs of a sweep run: add -m"),
        ([*TRAIN, "seeds=1,2", "hydra/launcher=basic"], "there is no key 'seeds': did you mean 'seed' or"),
        ([*TRAIN, "seed=1,2,1"], "seed has the value 1 twice"),
        ([*TRAIN, "learning_rate=1e-3,0.001"], "learning_rate has the value 0.001 twice"),
        ([*TRAIN, "dataset=d,[d]"], "job 0 (dataset=d) and job 1 (dataset=['d']) are the same"),
        (["train", "dataset=d", "seed=1,2", "-m", "hydra/launcher=basic"], "a sweep needs out=FOLDER"),
        (
            ["replay", "task=reach,pusht", "dataset=d", "-m", "hydra/launcher=basic"],
            "`recede replay` has no out=",
        ),
    ],
)
def test_an_impossible_sweep_is_refused_before_anything_starts(recede, empty_folder, arguments, message):
    assert message in recede(*arguments).line
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize("launcher", PACKAGES)
def test_a_launcher_that_is_not_installed_is_named_with_its_package(recede, monkeypatch, launcher):
    monkeypatch.setattr("recede.commands.launching.find_spec", lambda name: None)
    line = recede(*TRAIN, "seed=1,2", f"hydra/launcher={launcher}").line
    assert f"hydra/launcher={launcher} needs a plug-in of Hydra: pip install {PACKAGES[launcher][1]}" in line


def test_a_job_keeps_its_number_when_values_are_added(recede, empty_folder):
    assert recede(*COLLECT, "first_seed=9,4").status == 0
    added = recede(*COLLECT, "first_seed=0,4,9")
    assert added.status == 0, added.err
    jobs = read_sweep(empty_folder / "sweep").jobs
    assert jobs == {0: {"first_seed": "9"}, 1: {"first_seed": "4"}, 2: {"first_seed": "0"}}
    assert [line for line in added.out.splitlines() if line.startswith("job ")] == [
        "job 2 (first_seed=0):",
        "job 1 (first_seed=4):",
        "job 0 (first_seed=9):",
    ]
    assert sorted(path.name for path in (empty_folder / "sweep").iterdir()) == ["0", "1", "2", "sweep.json"]


def test_a_folder_holds_one_sweep(recede, empty_folder):
    assert recede(*COLLECT, "first_seed=9,4").status == 0
    line = recede(*COLLECT, "task=toys:REACH,reach").line
    assert "sweep holds a sweep of `recede collect` over first_seed, this one is of `recede collect` over task" in line
    with exclusive(empty_folder / "sweep", "being tried", name=".sweep.lock"):
        assert "sweep is being swept by another process" in recede(*COLLECT, "first_seed=9,4").line


def test_failed_jobs_are_named_with_the_reason(recede):
    result = recede(*COLLECT, "task=toys:REACH,toys:NOWHERE,pusht")
    assert result.status == 2
    first, second = result.err.splitlines()[-2:]
    assert first.startswith("recede collect: job 1 (task=toys:NOWHERE): ")
    assert second.startswith("recede collect: job 2 (task=pusht): task 'pusht' has no scripted expert")


def command(reaches, small, *arguments, steps=2):
    return ["train", "-m", "task=toys:REACH", f"dataset={reaches}", "out=sweep", *small, f"steps={steps}", *arguments]


@pytest.mark.slow
def test_joblib_runs_jobs_of_which_one_fails(recede, joblib, empty_folder, reaches, small):
    (empty_folder / "same").symlink_to(reaches)
    arguments = command(reaches, small, "dataset=same,nowhere", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    result = recede(*arguments)
    assert result.status == 2
    assert "1 of 2 jobs are done" in result.out
    line = result.err.splitlines()[-1]
    assert line.startswith("recede train: job 1 (dataset=nowhere): nowhere does not exist: check the path ")
    assert line.endswith("(its log: sweep/logs/1.txt)")
    assert checkpoint_steps(empty_folder / "sweep/0") == [2]
    assert "trained for 2 steps" in (empty_folder / "sweep/logs/0.txt").read_text()
    (empty_folder / "nowhere").symlink_to(reaches)
    again = recede(*arguments)
    assert again.status == 0, again.err
    assert "job 0 (dataset=same): done before\njob 1 (dataset=nowhere): starts\n1 of 2 jobs run by" in again.out
    assert "next: recede evaluate sweep/0 sweep/1 task=toys:REACH\nthen: recede compare sweep\n" in again.out


def test_a_job_of_slurm_is_composed(submitit):
    """It is not submitted: the plug-in of a cluster without Slurm has nobody to submit to."""
    resources = ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.timeout_min=600"]
    check_launcher(["hydra/launcher=submitit_slurm", *resources])
    with pytest.raises(ValueError, match="has no key 'partitions': did you mean 'partition'"):
        check_launcher(["hydra/launcher=submitit_slurm", "hydra.launcher.partitions=gpu"])


@pytest.mark.slow
def test_submitit_runs_jobs_here(recede, submitit, empty_folder, reaches, small):
    result = recede(*command(reaches, small, "seed=1,2", "hydra/launcher=submitit_local"))
    assert result.status == 0, result.err
    configs = [json.loads((empty_folder / f"sweep/{job}/config.json").read_text()) for job in (0, 1)]
    assert [config["seed"] for config in configs] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_an_interrupted_sweep_goes_on(recede, joblib, empty_folder, reaches, small, number):
    """Ctrl-C is of the whole terminal. SIGKILL reaches the sweep alone, and its jobs see that it died."""
    arguments = ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"save_every={STEPS}", "log_every=1"]
    runs = [empty_folder / "sweep/0", empty_folder / "sweep/1"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "recede", *command(reaches, small, *arguments, steps=STEPS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    logs = [run / "metrics.jsonl" for run in runs]
    until(lambda: all(log.exists() and log.stat().st_size for log in logs), 300)  # the training has begun
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    output = process.communicate()[0]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    if number != signal.SIGKILL:
        assert "stopped: 0 of 2 jobs are done: repeat the command to go on" in output.splitlines()[-1]
    until(lambda: all(checkpoint_steps(run) and not (run / ".lock").exists() for run in runs), 300)
    saved = [checkpoint_steps(run)[-1] for run in runs]
    assert 0 < max(saved) < STEPS
    again = recede(*command(reaches, small, *arguments, steps=max(saved) + 2))  # of fewer steps, to be quick
    assert again.status == 0, again.err
    for job, run in enumerate(runs):
        assert f"job {job} (seed={job + 1}): resumes after step {saved[job]}\n" in again.out
        assert checkpoint_steps(run)[-1] == max(saved) + 2
