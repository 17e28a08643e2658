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


@pytest.mark.slow
def test_recorded_episodes_are_trained_on(recede, tmp_path, small):
    path = tmp_path / "hands.zarr"
    recede("record", "task=toys:REACH", f"out={path}", "input=expert", "episodes=2", BUSY)
    options = ["task=toys:REACH", f"dataset={path}", f"out={tmp_path / 'run'}", *small, "steps=2", "warmup=1"]
    result = recede("train", *options)
    assert result.status == 0, result.err


@pytest.mark.slow
def test_an_input_of_a_package_is_chosen_by_its_name_and_a_killed_process_loses_one_episode(tmp_path):
    """Kill the session, the process that writes or the simulation, at random moments."""
    path, moments, rng = tmp_path / "hands.zarr", random.Random(0), np.random.default_rng(0)
    options = ["task=toys:REACH", f"out={path}", "imports=[hands]", "input=ceaseless", BUSY]
    kept, num_lost = 0, 0
    for round_ in range(6):
        with running(options) as process:
            lines, first = iter(process.stdout.readline, ""), []
            for line in lines:  # until the first episode of this round is kept
                first.append(line)
                if ": kept" in line:
                    break
            assert any(": kept" in line for line in first), first
            num_lost += any("was killed in the middle" in line for line in first)
            children = [
                int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            ]
            victims = [process.pid, *sorted(children)]
            time.sleep(moments.uniform(0.0, 1.5))
            os.kill(victims[round_ % 3 if len(victims) > round_ % 3 else 0], signal.SIGKILL)
            rest = process.stdout.read()
            process.wait(60)
        printed = sum(": kept" in line for line in [*first, *rest.splitlines()])
        store = DemonstrationStore.open(path)
        assert kept + printed <= len(store) <= kept + printed + 1, rest
        kept = len(store)
        for episode in range(len(store)):
            streams = store.episode(episode)
            assert np.isfinite(streams["action"]).all()
            assert store.episode_facts[episode].outcome == "success"
        store.read("position", int(rng.integers(store.num_steps)))
    assert num_lost > 0


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
