"""`recede control`: a policy on a robot, in real time."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import toys
from recede.commands import control, serve
from recede.configs.deployment import ControlConfig, ServeConfig
from recede.configs.evaluation import EvaluateConfig
from recede.control import safety
from recede.datasets.store import DemonstrationStore
from recede.evaluation.replay import replay
from recede.evaluation.results import open_subject
from recede.policy.engines import making


def test_only_robots_get_the_faster_engine_of_a_gpu(trained, monkeypatch):
    """Guidance with gradients needs eager, and an evaluation compares policies in fp32."""
    names, make_engine = [], making.make_engine

    def note(policy, name):
        names.append(name)
        return make_engine(policy, name)

    def stop(awaitable):
        awaitable.close()

    monkeypatch.setattr(making, "make_engine", note)
    monkeypatch.setattr(asyncio, "run", stop)
    control._load(ControlConfig(run=str(trained)), False, frozenset())
    serve.run(ServeConfig(run=str(trained)))
    control._load(ControlConfig(run=str(trained)), True, frozenset())
    open_subject(EvaluateConfig(run=str(trained)))
    assert names == [None, None, "eager", "eager"]


@pytest.mark.slow
def test_a_policy_controls_a_robot_in_real_time(recede, trained, tmp_path):
    options = ["episodes=2", "rate=50", "execution=rtc", f"out={tmp_path}"]
    disturbed = ["robot.task=toys:REACH", "robot.sensor_delay_ms=20", "robot.jitter_ms=5", "robot.dropped=0.05"]
    result = recede("control", trained, *options, *disturbed)
    assert result.status == 0, result.err
    content = json.loads((tmp_path / "control.json").read_text())
    assert content["execution"]["choice"] == "rtc"
    assert [episode["seed"] for episode in content["episodes"]] == [100_000, 100_001]
    for episode in content["episodes"]:
        assert episode["reason"] == "over"
        assert 0 < episode["steps"] <= toys.MAX_STEPS
        assert episode["commands"] + episode["skipped"] >= 5 * (episode["steps"] - 1)
        assert episode["chunks"] > 0
    assert "commands more than half a period late" in result.out
    assert "success" in result.out
    assert "Time of a chunk" in (tmp_path / "report.html").read_text()
    ticks = DemonstrationStore.open(tmp_path / "ticks.zarr")
    assert ticks.num_steps == sum(episode["commands"] for episode in content["episodes"])


@pytest.mark.slow
def test_a_driver_of_the_user_is_controlled_for_some_seconds_without_a_judgement(recede, trained, tmp_path):
    driver = ["robot=driver", "robot.make=toys:make_robot", "seconds=1.5", "episodes=2"]
    result = recede("control", trained, *driver, f"out={tmp_path}")
    assert result.status == 0, result.err
    assert "success in" not in result.out
    episodes = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert [(episode["reason"], episode["success"]) for episode in episodes] == [("over", None), ("over", None)]
    assert all(0 < episode["commands"] <= 151 for episode in episodes)
    assert set(DemonstrationStore.open(tmp_path / "demonstrations.zarr").episode_seeds.tolist()) == {-1}


@pytest.mark.slow
def test_the_log_can_be_replayed(recede, trained, tmp_path):
    result = recede("control", trained, "robot.task=toys:REACH", "episodes=2", f"out={tmp_path / 'run'}")
    assert result.status == 0, result.err
    store = DemonstrationStore.open(tmp_path / "run" / "demonstrations.zarr")
    assert store.episode_seeds.tolist() == [100_000, 100_001]
    for replayed in replay(toys.REACH, store):
        assert replayed.num_steps >= replayed.recorded_steps - 1
        # The robot stood until the first chunk came, and now and then a command arrives just too late for its step.
        assert replayed.deviations["target"] == 0
        assert replayed.deviations["position"] < 0.1


@pytest.mark.slow
def test_a_person_takes_over_from_the_policy(recede, trained, tmp_path):
    """The expert is the person: the policy has 0.5 s, then the expert 0.6 s, and so on."""
    takeover = ["takeover=expert", "takeover.after=0.5", "takeover.seconds=0.6", "safety.stale_ms=5000"]
    result = recede("control", trained, "robot.task=toys:REACH", "episodes=2", *takeover, f"out={tmp_path}")
    assert result.status == 0, result.err
    for record in json.loads((tmp_path / "control.json").read_text())["episodes"]:
        assert 0 < record["led"] < record["commands"]
    store = DemonstrationStore.open(tmp_path / "demonstrations.zarr")
    for index, facts in enumerate(store.episode_facts):
        assert (facts.operator, facts.input, facts.task) == ("script", "expert", "toys:REACH")
        assert facts.outcome in ("success", "failure")
        episode = store.episode(index)
        assert facts.notes["led"]
        for begin, end in facts.notes["led"]:
            gaps = np.abs(episode["action"] - episode["target"]).max(1)[begin:end]
            assert end - begin <= 7
            assert (np.diff(gaps) <= 1e-6).all()  # the expert commands the target itself, and safety goes there


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["takeover=expert", "robot=driver", "robot.make=toys:make_robot"], "simulated robot alone"),
        (["takeover=expert", "takeover.after=0"], "after must be above 0"),
        (["takeover=keyboard"], "needs a terminal"),
        (["takeover=keyboard", "takeover.near=0"], "near must be above 0"),
        (["takeover=joystick"], "joystick"),
    ],
)
def test_a_takeover_that_is_impossible_is_refused_before_anything_starts(recede, trained, tmp_path, options, error):
    robot = [] if "robot=driver" in options else ["robot.task=toys:REACH"]
    result = recede("control", trained, *robot, *options, f"out={tmp_path / 'run'}")
    assert result.status == 2
    assert error in result.line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_policy_stops_the_robot_and_is_loaded_again(trained, tmp_path):
    options = [str(trained), "robot.task=toys:REACH", "episodes=3", "safety.patience_ms=300", f"out={tmp_path}"]
    with running(options, subprocess.DEVNULL) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert "a prediction takes" in next(lines)
            policy = child_with("libtorch", of=process.pid)
            assert "seed 100000" in next(lines)
            time.sleep(0.5)
            os.kill(policy, signal.SIGKILL)
            rest = list(lines)
        finally:
            process.kill()
    content = json.loads((tmp_path / "control.json").read_text())
    assert [episode["reason"] for episode in content["episodes"]] == ["over", "stopped for safety", "over"], rest
    assert content["episodes"][1]["success"] is False
    stopped = DemonstrationStore.open(tmp_path / "ticks.zarr").episode(1)
    assert stopped["events"][-1, 0] & safety.Event.STOPPED
    np.testing.assert_array_equal(stopped["action"][-20:], np.tile(stopped["action"][-1], (20, 1)))
    assert sum("a prediction takes" in line for line in rest) == 1


@pytest.mark.slow
def test_a_lost_robot_is_reported(recede, trained, tmp_path):
    result = recede("control", trained, "robot.task=toys:DYING", f"out={tmp_path}")
    assert result.status == 2
    assert "exit code 3" in result.err
    (episode,) = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert episode["reason"].startswith("lost: ")
    assert "exit code 3" in episode["reason"]
    assert episode["success"] is None
    assert DemonstrationStore.open(tmp_path / "ticks.zarr").num_steps == episode["commands"]


@pytest.mark.slow
def test_the_summary_names_the_fault_of_a_simulation(recede, trained, tmp_path):
    result = recede("control", trained, "robot.task=toys:STEP", "first_seed=3", f"out={tmp_path}")
    assert result.status == 2
    assert "Traceback" not in result.err
    (episode,) = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert "seed 3, step 5, in step(): ValueError" in episode["reason"]
    assert "toys.py:" in episode["reason"]


def running(options, stdin, **others):
    """The command in a process of its own, with its output line by line."""
    command = [sys.executable, "-u", "-m", "recede", "control", *options]
    path = {"PYTHONPATH": str(Path(toys.__file__).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=stdin, text=True, env=os.environ | path, **others)


def child_with(library, *, of):
    """The child of a process that has loaded a library."""
    children = Path(f"/proc/{of}/task/{of}/children").read_text().split()
    (match,) = (int(child) for child in children if library in Path(f"/proc/{child}/maps").read_text())
    return match


@pytest.mark.slow
def test_a_key_ends_an_episode_enter_begins_the_next_and_a_signal_ends_all(trained, tmp_path):
    terminal, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    with running([str(trained), "robot.task=toys:REACH", f"out={tmp_path}"], theirs) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert any("any key ends an episode" in line for line in lines)
            os.write(terminal, b"xxx\nx")  # somebody in a hurry presses many keys, which begins nothing
            assert "reason interrupted" in next(lines)
            assert "Enter begins the next episode" in next(lines)
            for typed in (b"y", b" ", b"\n"):
                time.sleep(0.3)
                assert not select.select([process.stdout], [], [], 0)[0]
                os.write(terminal, typed)
            assert "seed 100001" in next(lines)
            os.kill(process.pid, signal.SIGHUP)
            assert process.wait() == 128 + signal.SIGHUP
            assert termios.tcgetattr(theirs) == before
        finally:
            process.kill()
            os.close(terminal)
            os.close(theirs)
    episodes = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert [episode["reason"] for episode in episodes][:2] == ["interrupted", "over"]


@pytest.mark.slow
def test_a_signal_to_all_processes_leaves_the_log_whole(trained, tmp_path):
    options = [str(trained), "robot.task=toys:REACH", f"out={tmp_path}"]
    with running(options, subprocess.DEVNULL, start_new_session=True) as process:
        try:
            assert "a prediction takes" in process.stdout.readline()
            assert "seed 100000" in process.stdout.readline()
            os.killpg(process.pid, signal.SIGTERM)
            process.stdout.read()
            assert process.wait() in (2, 128 + signal.SIGTERM)  # the robot's process may have been lost
        finally:
            process.kill()
    episodes = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert episodes[-1]["reason"].partition(":")[0] in ("interrupted", "lost", "over")
    ticks = DemonstrationStore.open(tmp_path / "ticks.zarr")
    assert ticks.num_steps == sum(episode["commands"] for episode in episodes)


WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "diffusers"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.slow
def test_an_exported_policy_controls_a_robot_without_torch(recede, trained, tmp_path, monkeypatch):
    """None of the processes can import torch: all of them run `sitecustomize` at their start."""
    pytest.importorskip("onnxruntime")
    folder, common = tmp_path / "exported", ["robot.task=toys:REACH", "episodes=1", f"out={tmp_path / 'run'}"]
    assert recede("export", trained, f"out={folder}", "engine=onnx").status == 0
    refused = recede("control", folder, *common, "engine=eager")
    assert refused.status == 2
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_TORCH)
    path = os.pathsep.join(map(str, (tmp_path / "site", Path(toys.__file__).parent)))
    command = [sys.executable, "-m", "recede", "control", str(folder), *common]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "reason over" in done.stdout
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["robot.task=pick_place"], "trained for, but "),
        (["robot.task=toys:REACH", "execution=[receding,rtc]"], "execution"),
        (["robot.task=toys:REACH", "rate=5"], "10 a second, got 5"),
        (["robot.task=toys:REACH", "engine=cudagraph"], "one of eager, cuda_graph"),
        (["robot.task=toys:REACH", "checkpoint=lsat"], "'last' or 'best', got 'lsat'"),
        (["robot=driver"], "robot.make=..."),
        (["robot=driver", "robot.make=toys"], "package.module:function, got 'toys'"),
        (["robot=driver", "robot.make=toys:NO_TASK"], "toys has 3"),
        (["robot=driver", "robot.make=toys:make_robt"], "toys has no 'make_robt': did you mean 'make_robot'?"),
        (
            ["robot=driver", "robot.make=not_there:make"],
            "no module named 'not_there': install it, or put its folder on",
        ),
        (["robot=driver", "robot.make=..toys:make_robot"], "package.module:function, got '..toys:make_robot'"),
        (["robot=driver", "robot.make=os:getcwd"], "os:getcwd must be a function that takes rate="),
        (["robot=driver", "robot.make=builtins:dict"], "a dict has no specification, rate"),
        (["robot.task=toys:REACH", "robot.dropped=1"], "dropped"),
        (["robot.task=toys:REACH", "safety.speed=0"], "speed"),
        (["robot.task=toys:REACH", "safety.speed=inf"], "speed must be at most 1000, got inf"),
        (["robot.task=toys:REACH", "rate=1e9"], "rate must be at most 10000, got 1000000000"),
        (["robot.task=toys:REACH", "safety.workspace=[[-9],[9]]"], "workspace"),
    ],
)
def test_impossible_options_are_refused_before_anything_starts(recede, trained, tmp_path, options, error):
    result = recede("control", trained, *options, f"out={tmp_path / 'run'}")
    assert result.status == 2
    assert error in result.line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_empty_is_refused_and_kept(recede, trained, tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    result = recede("control", trained, "robot.task=toys:REACH", f"out={tmp_path}")
    assert result.status == 2
    assert "choose another one with out=" in result.line
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
