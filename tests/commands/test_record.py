"""`recede record`: from hands to demonstrations, in real time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toys
from hands import ThreadChild
from recede.datasets.store import DemonstrationStore
from recede.evaluation.replay import replay

BUSY = "safety.stale_ms=5000"  # a busy machine is no fault of a sensor


def running(options, stdin=subprocess.DEVNULL):
    """The command in a process of its own, with its output line by line."""
    command = [sys.executable, "-u", "-m", "recede", "record", *options]
    path = {"PYTHONPATH": str(Path(toys.__file__).parent)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=stdin, text=True, env=os.environ | path
    )


@pytest.mark.slow
def test_recorded_episodes_are_inspected_and_replayed_exactly(recede, tmp_path):
    path = tmp_path / "hands.zarr"
    command = ["record", "task=toys:REACH", f"out={path}", "input=expert", "sentence=go there", BUSY]
    result = recede(*command, "episodes=2")
    assert result.status == 0, result.err
    assert "2 demonstrations" in result.out
    assert f"next: recede train task=toys:REACH dataset={path}" in result.out
    store = DemonstrationStore.open(path)
    assert store.episode_seeds.tolist() == [0, 1]
    for facts in store.episode_facts:
        assert (facts.outcome, facts.task, facts.sentence) == ("success", "toys:REACH", "go there")
        assert (facts.operator, facts.input) == ("script", "expert")
        assert facts.rates == pytest.approx({"position": 10, "target": 10}, rel=0.2)
        assert {"gymnasium", "recede"} <= facts.versions.keys()
    for replayed in replay(toys.REACH, store):
        assert replayed.success
        assert replayed.num_steps == replayed.recorded_steps
        assert set(replayed.deviations.values()) == {0.0}
    assert recede("inspect", path, f"out={tmp_path / 'hands.png'}").status == 0
    again = recede(*command, "episodes=2")
    assert again.status == 0
    assert "0 of them new" in again.out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["input=expert", "robot=driver", "robot.make=toys:make_robot"], "simulated robot alone"),
        (["input=expert", "task=toys:NO_POSITION"], "position"),
        (["input=expert", "robot.task=pick_place"], "one task, got toys:REACH and pick_place"),
        (["input=keyboard", "input.axes=[x]"], "each of the 2 dimensions"),
        (["input=keyboard", "input.axes=[x,z]"], "got 'z'"),
        (["input=keyboard", "input.near=0"], "near must be above 0"),
        (["input=keyboard", "input.scale=[1,a]"], "input.scale must be a number"),
        (["input=keyboard", "input.stale_ms=0"], "stale_ms must be above 0"),
        (["input=keyboard", "start=[0]"], "start must be 2 numbers"),
        (["input=keyboard", "start=[0,2]"], "within the limits"),
        (["input=keyboard", "rate=5"], "10 a second, got 5"),
        (["input=expert", "images=gif"], "zstd, png, jpeg"),
        (["input=keyboard"], "needs a terminal"),
        (["input=joystick"], "joystick"),
        (["input=expert", "action=inputs"], "action must be one of commanded, input, got 'inputs'"),
        ([], "input"),
    ],
)
def test_impossible_options_are_refused_before_anything_starts(recede, tmp_path, options, error):
    result = recede("record", "task=toys:REACH", f"out={tmp_path / 'hands.zarr'}", *options)
    assert result.status == 2
    assert error in result.line
    assert not (tmp_path / "hands.zarr").exists()


def test_a_store_of_another_specification_is_refused_and_the_difference_named(recede, tmp_path, demonstrations):
    result = recede("record", "task=toys:REACH", f"out={demonstrations}", "input=expert")
    assert result.status == 2
    assert "must hold demonstrations of 'toys:REACH', but its specification differs" in result.line
    assert "gripper" in result.line


def test_cameras_that_nothing_can_draw_are_one_error_with_its_remedy(recede, tmp_path, monkeypatch):
    from recede.envs import physics

    monkeypatch.setattr("recede.robots.simulated.Child", ThreadChild)
    monkeypatch.setattr(physics, "REQUESTED", "nonsense")
    monkeypatch.setattr(physics, "_faults", ["there is no such library"])
    result = recede("record", "task=pick_place_image", f"out={tmp_path / 'hands.zarr'}", "input=expert")
    assert result.status == 2
    assert "MUJOCO_GL=nonsense was asked for, and fails here (there is no such library): unset it" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
def test_recorded_episodes_are_trained_on(recede, tmp_path, small):
    path = tmp_path / "hands.zarr"
    recede("record", "task=toys:REACH", f"out={path}", "input=expert", "episodes=2", BUSY)
    options = ["task=toys:REACH", f"dataset={path}", f"out={tmp_path / 'run'}", *small, "steps=2", "warmup=1"]
    result = recede("train", *options)
    assert result.status == 0, result.err


def next_kept(process):
    """The lines of the command up to the next episode that it keeps."""
    lines = []
    while not lines or ": kept" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["session", "simulation", "writer"])
def test_a_process_that_is_killed_at_any_moment_loses_one_episode_and_the_next_start_says_so(tmp_path, victim):
    """With an input of a package of the user."""
    path, moments = tmp_path / "hands.zarr", random.Random(victim)
    options = ["task=toys:REACH", f"out={path}", "imports=[ceaseless]", "input=ceaseless", BUSY]
    num_kept = num_lost = 0
    for _ in range(3):
        with running(options) as process:
            printed = next_kept(process)
            num_lost += any("was killed in the middle" in line for line in printed)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            processes = dict(
                zip(("session", "simulation", "writer"), [process.pid, *map(int, children[-2:])], strict=True)
            )
            time.sleep(moments.uniform(0.0, 1.0))
            os.kill(processes[victim], signal.SIGKILL)
            printed += process.stdout.readlines()
            assert process.wait(60) != 0
        store = DemonstrationStore.open(path)
        num_kept += sum(": kept" in line for line in printed)
        assert num_kept <= len(store) <= num_kept + 1, printed  # one may be kept, and not be printed yet
        num_kept = len(store)
        assert [facts.outcome for facts in store.episode_facts] == ["success"] * num_kept
        for episode in range(num_kept):
            assert np.isfinite(store.episode(episode)["action"]).all()
    assert num_lost or victim == "simulation"  # a lost robot is no lost session: it says so at once


@pytest.mark.slow
def test_a_keyboard_drives_and_decides(tmp_path):
    path = tmp_path / "hands.zarr"
    terminal, theirs = os.openpty()
    with running(["task=toys:REACH", f"out={path}", "input=keyboard", "input.press=0.05", BUSY], theirs) as process:
        try:
            lines = iter(process.stdout.readline, "")

            def until(text):
                return next(line for line in lines if text in line)

            assert "q a x, w s y" in until("keys that drive")
            until("[ready]")
            os.write(terminal, b"tto \xc3\xa4 b\x7fc\n")
            time.sleep(0.3)
            os.write(terminal, b"\n")
            until("[recording]")
            for _ in range(5):
                time.sleep(0.1)
                os.write(terminal, b"q")
            os.write(terminal, b"\n")
            until("[ended]")
            os.write(terminal, b"f")
            assert "episode 0: kept" in until("episode 0")
            until("[ready]")
            os.write(terminal, b"\n")
            until("[recording]")
            os.write(terminal, b"\x7f")
            assert "discarded" in until("episode 1")
            until("[ready]")
            os.write(terminal, b"q")
            process.stdout.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(terminal)
            os.close(theirs)
    store = DemonstrationStore.open(path)
    (facts,) = store.episode_facts
    assert (facts.outcome, facts.sentence, facts.input) == ("failure", "to ä c", "keyboard")
    moved = store.episode(0)["action"]
    assert 0.29 < moved[-1, 0] - moved[0, 0] < 0.51  # the first and the last key may miss the episode
    assert np.ptp(moved[:, 1]) == 0
    assert json.loads(json.dumps(facts.to_json()))["notes"]["led"]
