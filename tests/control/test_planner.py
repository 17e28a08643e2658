"""A policy in a process of its own, and the command that puts it on a robot."""

import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import toys
from recede.control import safety
from recede.control.planner import PolicyProcess
from recede.datasets.store import DemonstrationStore
from recede.evaluation.replay import replay
from recede.policy.denoising.guidance import Prefix
from recede.policy.requests import Request
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("state", (3,)), Stream("camera", (4, 4, 3), "uint8")), Stream("action", (2,)), control_dt=0.1
)
HORIZONS = Horizons(2, 16, 8)


def request(number, prefix=None):
    history = {"state": np.full((2, 3), number, np.float32), "camera": np.full((2, 4, 4, 3), number, np.uint8)}
    return Request(history, () if prefix is None else (prefix,))


def answer(planner, seconds=30.0):
    until = time.monotonic() + seconds
    while (chunk := planner.poll()) is None:
        assert time.monotonic() < until, "no answer"
        time.sleep(0.002)
    return chunk


@pytest.fixture(scope="module")
def planner():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo)) as planner:
        assert 0 <= planner.wait() < 30
        yield planner


def test_a_chunk_is_that_of_its_request(planner):
    for number in (0, 1, 7):
        assert planner.poll() is None
        planner.ask(request(number))
        assert np.array_equal(answer(planner), toys.echo(request(number)))


def test_a_prefix_passes_whole(planner):
    rng = np.random.default_rng(0)
    actions, weights = rng.normal(size=(16, 2)).astype(np.float32), rng.uniform(size=16).astype(np.float32)
    for options in ({}, {"start": 0.25, "limit": 7.0, "exact": True}):
        asked = request(2, Prefix(actions, weights, **options))
        planner.ask(asked)
        assert np.array_equal(answer(planner), toys.echo(asked))


def test_only_the_last_request_is_answered(planner):
    for number in (3, 4, 5):
        planner.ask(request(number))
    assert np.array_equal(answer(planner), toys.echo(request(5)))
    time.sleep(0.1)
    assert planner.poll() is None


def test_a_process_that_is_killed_is_a_lost_connection():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo)) as planner:
        planner.wait()
        planner.ask(request(1))
        answer(planner)
        os.kill(planner.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError, match="the process of the policy has ended"):
            answer(planner)
        with pytest.raises(ConnectionError):
            planner.ask(request(2))


def test_a_process_that_does_not_read_holds_nobody_up():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo)) as planner:
        planner.wait()
        os.kill(planner.pid, signal.SIGSTOP)
        asked = iter(range(10_000))

        def ask_on():
            for number in asked:
                planner.ask(request(number % 100))

        with pytest.raises(ConnectionError, match="does not read"):
            ask_on()
        assert planner.poll() is None
        os.kill(planner.pid, signal.SIGCONT)


def test_a_policy_that_cannot_be_loaded_ends_the_waiting(capfd):
    lost = pytest.raises(ConnectionError, match="has ended")
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_nothing, "no such policy")) as planner, lost:
        planner.wait()
    assert "no such policy" in capfd.readouterr().err


def test_a_process_that_is_stuck_or_gone_is_not_idle():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo, 0.05)) as planner:
        planner.wait()
        assert planner.is_idle(0)
        planner.ask(request(1))
        assert not planner.is_idle(0)
        assert planner.is_idle()
        os.kill(planner.pid, signal.SIGSTOP)
        planner.ask(request(2))
        assert not planner.is_idle(0.2)
        os.kill(planner.pid, signal.SIGKILL)
        assert not planner.is_idle()


def test_a_policy_that_takes_too_long_is_an_error():
    late = pytest.raises(TimeoutError, match=r"the policy must be ready within 0\.2 s")
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo, 60.0)) as planner, late:
        planner.wait(0.2)


# --- recede control


def test_a_policy_controls_a_robot_in_real_time(recede, trained, tmp_path):
    options = ["episodes=2", "rate=50", "execution=rtc", f"out={tmp_path}"]
    disturbed = ["robot.task=toys:REACH", "robot.sensor_delay_ms=20", "robot.jitter_ms=5", "robot.dropped=0.05"]
    found = recede("control", trained, *options, *disturbed)
    assert found.status == 0, found.err
    content = json.loads((tmp_path / "control.json").read_text())
    assert content["execution"]["choice"] == "rtc"
    assert [episode["seed"] for episode in content["episodes"]] == [100_000, 100_001]
    for episode in content["episodes"]:
        assert episode["reason"] == "over"
        assert 0 < episode["steps"] <= toys.MAX_STEPS
        assert episode["commands"] + episode["skipped"] >= 5 * (episode["steps"] - 1)
        assert episode["chunks"] > 0
    assert "commands more than half a period late" in found.out
    assert "success" in found.out
    assert "Time of a chunk" in (tmp_path / "report.html").read_text()
    ticks = DemonstrationStore.open(tmp_path / "ticks.zarr")
    assert ticks.num_steps == sum(episode["commands"] for episode in content["episodes"])


def test_a_robot_of_ones_own_is_controlled_for_some_seconds_and_judged_by_nobody(recede, trained, tmp_path):
    driver = ["robot=driver", "robot.make=toys:make_robot", "seconds=1.5", "episodes=2"]
    found = recede("control", trained, *driver, f"out={tmp_path}")
    assert found.status == 0, found.err
    assert "success in" not in found.out
    episodes = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert [(episode["reason"], episode["success"]) for episode in episodes] == [("over", None), ("over", None)]
    assert all(0 < episode["commands"] <= 151 for episode in episodes)
    assert set(DemonstrationStore.open(tmp_path / "demonstrations.zarr").episode_seeds.tolist()) == {-1}


def test_what_was_logged_can_be_replayed(recede, trained, tmp_path):
    found = recede("control", trained, "robot.task=toys:REACH", "episodes=2", f"out={tmp_path / 'run'}")
    assert found.status == 0, found.err
    store = DemonstrationStore.open(tmp_path / "run" / "demonstrations.zarr")
    assert store.episode_seeds.tolist() == [100_000, 100_001]
    for replayed in replay(toys.REACH, store):
        assert replayed.num_steps >= replayed.recorded_steps - 1
        # It stood until the first chunk came; and rarely a command arrives a moment too late for its step.
        assert replayed.deviations["target"] == 0
        assert replayed.deviations["position"] < 0.1


@pytest.mark.slow
def test_a_policy_that_is_killed_is_held_for_stopped_and_loaded_again(trained, tmp_path):
    options = [str(trained), "robot.task=toys:REACH", "episodes=3", "safety.patience_ms=300", f"out={tmp_path}"]
    with running(options, subprocess.DEVNULL) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert "a prediction takes" in next(lines)
            policy = the_process_with("libtorch", of=process.pid)
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


def test_a_robot_that_is_lost_is_told_of(recede, trained, tmp_path):
    found = recede("control", trained, "robot.task=toys:DYING", f"out={tmp_path}")
    assert found.status == 2
    assert "the process that simulates 'reach' has ended with exit code 3: make another one" in found.err
    (episode,) = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert (episode["reason"], episode["success"]) == ("lost", None)
    assert DemonstrationStore.open(tmp_path / "ticks.zarr").num_steps == episode["commands"]


def running(options, stdin, **others):
    """The command, which tells line by line what it does."""
    command = [sys.executable, "-u", "-m", "recede", "control", *options]
    path = {"PYTHONPATH": str(Path(toys.__file__).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=stdin, text=True, env=os.environ | path, **others)


def the_process_with(library, *, of):
    """The child of a process that has loaded a library."""
    children = Path(f"/proc/{of}/task/{of}/children").read_text().split()
    (found,) = (int(child) for child in children if library in Path(f"/proc/{child}/maps").read_text())
    return found


def test_a_key_ends_an_episode_enter_begins_the_next_and_an_interrupt_ends_all(trained, tmp_path):
    terminal, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    with running([str(trained), "robot.task=toys:REACH", f"out={tmp_path}"], theirs) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert any("any key ends an episode" in line for line in lines)
            os.write(terminal, b"xxx\nx")  # whoever is in a hurry presses many, which begins nothing
            assert "reason interrupted" in next(lines)
            assert "Enter begins the next episode" in next(lines)
            for typed in (b"y", b" ", b"\n"):
                time.sleep(0.3)
                assert not select.select([process.stdout], [], [], 0)[0]
                os.write(terminal, typed)
            assert "seed 100001" in next(lines)
            os.kill(process.pid, signal.SIGHUP)
            assert process.wait() == 0
            assert termios.tcgetattr(theirs) == before
        finally:
            process.kill()
            os.close(terminal)
            os.close(theirs)
    episodes = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert [episode["reason"] for episode in episodes][:2] == ["interrupted", "over"]


def test_what_ends_all_processes_leaves_the_log_whole(trained, tmp_path):
    options = [str(trained), "robot.task=toys:REACH", f"out={tmp_path}"]
    with running(options, subprocess.DEVNULL, start_new_session=True) as process:
        try:
            assert "a prediction takes" in process.stdout.readline()
            assert "seed 100000" in process.stdout.readline()
            os.killpg(process.pid, signal.SIGTERM)
            process.stdout.read()
        finally:
            process.kill()
    episodes = json.loads((tmp_path / "control.json").read_text())["episodes"]
    assert episodes[-1]["reason"] in ("interrupted", "lost", "over")
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


def test_an_exported_policy_controls_a_robot_where_there_is_no_torch(recede, trained, tmp_path, monkeypatch):
    """In none of the processes, which all run this as they start."""
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
    ("options", "said"),
    [
        (["robot.task=pick_place"], "the robot must be the one that the policy was trained for, but "),
        (["robot.task=toys:REACH", "execution=[receding,rtc]"], "execution must name one of receding"),
        (
            ["robot.task=toys:REACH", "rate=5"],
            "the rate must be at least one command a control period, 10 a second, got 5",
        ),
        (["robot.task=toys:REACH", "engine=cudagraph"], "engine must be auto or one of eager, cuda_graph"),
        (["robot.task=toys:REACH", "checkpoint=lsat"], "checkpoint must be 'last' or 'best', got 'lsat'"),
        (["robot=driver"], "robot.make is required: give robot.make=..."),
        (["robot=driver", "robot.make=toys"], "robot.make must be package.module:function, got 'toys'"),
        (["robot=driver", "robot.make=toys:NO_TASK"], "robot.make=toys:NO_TASK must be a function, but toys has 3"),
        (["robot.task=toys:REACH", "robot.dropped=1"], "dropped must be a share of the readings"),
        (["robot.task=toys:REACH", "safety.speed=0"], "speed must be above 0, got 0"),
        (
            ["robot.task=toys:REACH", "safety.workspace=[[-9],[9]]"],
            "the workspace must lie within the limits of the action",
        ),
    ],
)
def test_what_cannot_be_controlled_is_refused(recede, trained, tmp_path, options, said):
    found = recede("control", trained, *options, f"out={tmp_path / 'run'}")
    assert found.status == 2
    assert said in found.line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_empty_is_left_alone(recede, trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    found = recede("control", trained, "robot.task=toys:REACH", f"out={tmp_path}")
    assert found.status == 2
    assert "must be a new or an empty folder" in found.line
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
