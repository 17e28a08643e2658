"""A killed, interrupted or stopped training resumes and ends with the same bits."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recede.checkpoints.folder import read_checkpoint
from recede.checkpoints.runs import best_step, checkpoint_of_step, checkpoint_steps, read_metrics, resolve_checkpoint
from recede.files import with_digest
from recede.training.run import Run

STEPS = 30
TIMES = ("data_s", "update_s", "data_share", "windows_per_s", "tflops", "memory_gib")


def arguments(demonstrations, small, out, *more):
    every = ["save_every=2", "log_every=7", "validate_every=19", "warmup=5", "held_out=0.2"]
    return ["train", f"dataset={demonstrations}", f"out={out}", f"steps={STEPS}", *small, *every, *more]


def metrics(run):
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in read_metrics(run)]


def assert_equal_runs(one, other):
    """Weights, average, moments and metrics are equal bit for bit, except the durations."""
    assert checkpoint_steps(one) == checkpoint_steps(other) == [STEPS]
    for name in ("policy.safetensors", "training.safetensors", "policy.json", "training.json"):
        files = [checkpoint_of_step(run, STEPS) / name for run in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert metrics(one) == metrics(other)
    assert (one / "config.json").read_text() == (other / "config.json").read_text()


def wait_for(condition, *, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, recede, demonstrations, small):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = recede(*arguments(demonstrations, small, out))
    assert result.status == 0, result.err
    return out


def kill_and_resume(nursery, command, out, *, kills, seed):
    """Kill the training at random moments after some progress, then let it end; return the number of kills."""
    moments, done = random.Random(seed), 0
    while done < kills and (before := max(checkpoint_steps(out), default=0)) < STEPS - 10:
        process = nursery.start(*command)
        wait_for(lambda: max(checkpoint_steps(out), default=0) > before)
        time.sleep(moments.uniform(0, 0.04))
        os.kill(process, signal.SIGKILL)
        status, output = nursery.wait()
        assert status == -signal.SIGKILL, output
        done += 1
    status, output = nursery.run(*command)
    assert status == 0, output
    return done


@pytest.mark.slow
def test_a_killed_training_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path, nursery, demonstrations, small, uninterrupted
):
    out = tmp_path / "run"
    assert kill_and_resume(nursery, arguments(demonstrations, small, out), out, kills=3, seed=0) >= 2
    assert_equal_runs(out, uninterrupted)
    assert not list(out.rglob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_killed_trainings_end_the_same(tmp_path, nursery, demonstrations, small, uninterrupted, seed):
    out = tmp_path / "run"
    kill_and_resume(nursery, arguments(demonstrations, small, out), out, kills=6, seed=seed)
    assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_a_killed_training_with_dropout_ends_the_same(tmp_path, nursery, demonstrations):
    """Dropout is a function of seed and step too, and the moments of several parameter groups are kept."""
    network = ["policy/network=transformer", "policy.network.num_layers=1", "policy.network.size=16"]
    options = ["policy.network.dropout=0.3", "weight_decay=0.1", "batch_size=32", "device=cpu"]
    runs = [tmp_path / "uninterrupted", tmp_path / "killed"]
    commands = [arguments(demonstrations, [*network, *options], run) for run in runs]
    status, output = nursery.run(*commands[0])
    assert status == 0, output
    assert kill_and_resume(nursery, commands[1], runs[1], kills=1, seed=3) == 1
    assert_equal_runs(runs[1], runs[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_training_saves_and_resumes(tmp_path, nursery, demonstrations, small, uninterrupted, number):
    out = tmp_path / "run"
    command = arguments(demonstrations, small, out)
    process = nursery.start(*command)
    wait_for(lambda: len(checkpoint_steps(out)) > 0)
    os.kill(process, number)
    status, output = nursery.wait()
    assert status == 128 + number, output
    stopped = checkpoint_steps(out)[-1]
    assert output.splitlines()[-1] == (
        f"recede train: stopped and saved after step {stopped} of {STEPS}: repeat the command to resume"
    )
    assert "Traceback" not in output
    status, output = nursery.run(*command)
    assert status == 0, output
    assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_the_installed_command_stops_and_resumes(tmp_path, demonstrations, small, uninterrupted):
    program = Path(sys.executable).with_name("recede")
    command = [program, *arguments(demonstrations, small, tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(checkpoint_steps(tmp_path / "run")) > 0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("recede train: stopped and saved after step")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


def test_a_signal_between_the_check_and_the_save_is_not_lost(tmp_path, demonstrations, small, monkeypatch, recede):
    """The signal arrives while a step that is not saved measures the held-out error; the next step is saved."""
    from recede.training import recorder

    def interrupted_measure(*arguments, **options):
        if not checkpoint_steps(tmp_path / "run"):
            signal.raise_signal(signal.SIGTERM)
        return 0.5

    monkeypatch.setattr(recorder, "action_error", interrupted_measure)
    command = arguments(demonstrations, small, tmp_path / "run", "save_every=100")
    result = recede(*command)
    assert result.status == 128 + signal.SIGTERM
    assert checkpoint_steps(tmp_path / "run") == [20]
    assert f"stopped and saved after step 20 of {STEPS}" in result.err


def test_a_finished_training_is_not_changed(recede, demonstrations, small, uninterrupted):
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    result = recede(*arguments(demonstrations, small, uninterrupted))
    assert result.status == 0, result.err
    assert f"nothing to do, trained already: {checkpoint_of_step(uninterrupted, STEPS)}" in result.out
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_another_configuration_is_refused_naming_what_differs(demonstrations, small, uninterrupted, recede):
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    more = ("learning_rate=2e-3", "policy/sampler=ddpm", "horizons.action=4")
    line = recede(*arguments(demonstrations, small, uninterrupted, *more)).line
    assert f"{uninterrupted} holds a run of another configuration" in line
    assert "learning_rate was 0.001 and is 0.002" in line
    assert "horizons.action was 8 and is 4" in line
    assert "policy.sampler.choice was ddim and is ddpm" in line
    assert "; steps was" not in line
    assert "repeat its command to resume it, or choose another out=" in line
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_moved_run_resumes(tmp_path, nursery, demonstrations, small, uninterrupted):
    command = arguments(demonstrations, small, "run")
    process = nursery.start(*command, folder=tmp_path)
    wait_for(lambda: len(checkpoint_steps(tmp_path / "run")) > 0)
    os.kill(process, signal.SIGKILL)
    nursery.wait()
    (tmp_path / "run").rename(tmp_path / "moved")
    status, output = nursery.run(*arguments(demonstrations, small, "./moved"), folder=tmp_path)
    assert status == 0, output
    assert_equal_runs(tmp_path / "moved", uninterrupted)


@pytest.mark.slow
def test_one_training_at_a_time(tmp_path, nursery, demonstrations, small, recede):
    out = tmp_path / "run"
    command = arguments(demonstrations, small, out, "steps=100000")
    process = nursery.start(*command)
    wait_for(lambda: len(checkpoint_steps(out)) > 0)
    result = recede(*command)
    os.kill(process, signal.SIGINT)
    assert nursery.wait()[0] == 130
    assert result.status == 2
    assert f"{out} is being trained by another process: wait for it, or use another out=" in result.line


@pytest.mark.slow
def test_files_of_a_killed_writer_are_removed(tmp_path, demonstrations, small, recede, nursery, uninterrupted):
    out = tmp_path / "run"
    command = arguments(demonstrations, small, out)
    unfinished = out / "checkpoints/.00000004.123.0f0f0f0f.partial"
    unfinished.mkdir(parents=True)
    (unfinished / ".policy.json.partial").write_text("{")
    (unfinished / "policy.safetensors").write_bytes(b"half")
    (out / ".config.123.0f0f0f0f.partial.json").write_text("{")
    whole_line = json.dumps(with_digest({"step": 7, "loss": 3.0})) + "\n"  # and no checkpoint of step 7
    (out / "metrics.jsonl").write_text(whole_line + '{"step": 8, "lo')
    status, output = nursery.run(*command)
    assert status == 0, output
    assert_equal_runs(out, uninterrupted)
    assert not list(out.rglob("*.partial*"))


@pytest.mark.slow
def test_the_metrics_survive_a_full_disk(tmp_path, nursery, demonstrations, small):
    """Resuming rewrites the metrics; if that fails, the old ones must remain."""
    out = tmp_path / "run"
    command = arguments(demonstrations, small, out)
    process = nursery.start(*command)
    wait_for(lambda: max(checkpoint_steps(out), default=0) > STEPS / 2)
    os.kill(process, signal.SIGKILL)
    nursery.wait()
    with (out / "metrics.jsonl").open("a") as file:
        file.write((json.dumps(with_digest({"step": 3, "loss": 0.125})) + "\n") * 1000)
    before = (out / "metrics.jsonl").read_bytes()
    status, output = nursery.run(*command, limit=20_000)
    assert status == 2
    assert "metrics.jsonl could not be written (File too large)" in output.splitlines()[-1]
    assert (out / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system cannot limit the size of files")
def test_a_full_disk_costs_no_checkpoint(tmp_path, nursery, demonstrations, small, uninterrupted):
    out = tmp_path / "run"
    command = arguments(demonstrations, small, out)
    sizes = {path.name: path.stat().st_size for path in checkpoint_of_step(uninterrupted, STEPS).iterdir()}
    process = nursery.start(*command)
    wait_for(lambda: len(checkpoint_steps(out)) > 0)
    os.kill(process, signal.SIGINT)
    nursery.wait()
    saved = checkpoint_steps(out)
    for name in ("policy.safetensors", "training.safetensors"):
        status, output = nursery.run(*command, limit=sizes[name] - 1)
        assert status == 2, output
        error = output.splitlines()[-1]
        assert "Traceback" not in output
        assert name in error
        assert "could not be written (File too large)" in error
        assert "disk has room" in error
        assert checkpoint_steps(out) == saved
        assert not list(out.rglob("*.partial*"))
        read_checkpoint(checkpoint_of_step(out, saved[0]))
    status, output = nursery.run(*command)
    assert status == 0, output
    assert_equal_runs(out, uninterrupted)


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(tmp_path, recede, demonstrations, small):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        result = recede(*arguments(demonstrations, small, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.status == 2
    assert "config.json could not be written" in result.last
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_a_run_are_the_last_and_the_best(tmp_path):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.begin({})
    from recede.specification import Horizons, Specification, Stream

    action = Stream("action", (1,))
    manifest = {
        "specification": Specification((Stream("state", (1,)),), action, 0.1),
        "horizons": Horizons(),
        "policy": {},
        "task": None,
    }
    kept = []
    for step, score in [(1, 0.5), (2, 0.25), (3, 0.75), (4, 0.75), (5, None), (6, 0.1)]:
        if score is not None:
            run.log(step=step, mean_score=score, episodes=4)
        run.save(step, weights={}, training={}, manifest=manifest)
        kept.append((run.steps, best_step(run.folder)))
    assert kept == [([1], 1), ([1, 2], 1), ([3], 3), ([3, 4], 3), ([3, 5], 3), ([3, 6], 3)]
    assert resolve_checkpoint(run.folder) == run.checkpoint(6)
    assert resolve_checkpoint(run.folder, "best") == run.checkpoint(3)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "mean_')  # killed while writing
    assert best_step(run.folder) == 3
    assert json.loads((run.checkpoint(6) / "policy.json").read_text())["step"] == 6
