"""A policy in a process of its own, and the command that puts it on a robot."""

import json
import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest
import toys
from recede.commands.control import summarised
from recede.control.execution import Request
from recede.control.planner import PolicyProcess
from recede.specification import Horizons, Prefix, Specification, Stream

SPECIFICATION = Specification(
    (Stream("state", (3,)), Stream("camera", (4, 4, 3), "uint8")), Stream("action", (2,)), control_dt=0.1
)
HORIZONS = Horizons(2, 16, 8)


def request(number, prefix=None):
    history = {"state": np.full((2, 3), number, np.float32), "camera": np.full((2, 4, 4, 3), number, np.uint8)}
    return Request(history, prefix)


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

        with pytest.raises(ConnectionError, match="the policy does not read what it is asked"):
            ask_on()
        assert planner.poll() is None
        os.kill(planner.pid, signal.SIGCONT)


def test_a_policy_that_cannot_be_loaded_ends_the_waiting(capfd):
    lost = pytest.raises(ConnectionError, match="the process of the policy has ended; it may have said above why")
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_nothing, "no such policy")) as planner, lost:
        planner.wait()
    assert "no such policy" in capfd.readouterr().err


def test_a_policy_that_takes_too_long_is_an_error():
    late = pytest.raises(TimeoutError, match=r"the policy must be ready within 0\.2 s")
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo, 60.0)) as planner, late:
        planner.wait(0.2)


# --- recede control


@pytest.mark.parametrize("execution", ["receding", "rtc"])
def test_a_policy_controls_a_robot_in_real_time(recede, trained, tmp_path, execution):
    options = ["task=toys:REACH", "episodes=2", "rate=50", f"execution={execution}", f"out={tmp_path}"]
    found = recede("control", trained, *options, "sensor_delay_ms=20", "jitter_ms=5", "dropped=0.05")
    assert found.status == 0, found.err
    content = json.loads((tmp_path / "control.json").read_text())
    assert content["execution"]["choice"] == execution
    assert [episode["seed"] for episode in content["episodes"]] == [100_000, 100_001]
    for episode in content["episodes"]:
        assert episode["reason"] == "over"
        assert 0 < episode["steps"] <= toys.MAX_STEPS
        assert episode["commands"] + episode["skipped"] >= 5 * (episode["steps"] - 1)
        assert episode["chunks"] > 0
    assert "commands more than half a period late" in found.out
    assert "success" in found.out


def test_an_exported_policy_controls_a_robot(recede, trained, tmp_path):
    pytest.importorskip("onnxruntime")
    folder, common = tmp_path / "exported", ["task=toys:REACH", "episodes=1"]
    assert recede("export", trained, f"out={folder}", "engine=onnx").status == 0
    found = recede("control", folder, *common)
    assert found.status == 0, found.err
    assert "reason over" in found.out
    refused = recede("control", folder, *common, "engine=eager")
    assert refused.status == 2


def test_an_episode_that_was_stopped_has_failed_and_one_that_was_interrupted_does_not_count():
    episodes = [
        {"commands": 100, "late": 1, "reason": reason, "success": success}
        for reason, success in (("over", True), ("stopped for safety", False), ("interrupted", False))
    ]
    assert summarised(episodes).startswith(
        "3 of 300 commands more than half a period late; success in 1 of 2 episodes ["
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["task=pick_place"], "the robot must be the one that the policy was trained for, but "),
        (["task=toys:REACH", "execution=[receding,rtc]"], "execution must name one of receding"),
        (["task=toys:REACH", "rate=5"], "the rate must be at least one command a control period, 10 a second, got 5"),
        (["task=toys:REACH", "dropped=1"], "dropped must be a share of the readings"),
        (["task=toys:REACH", "safety.speed=0"], "speed must be above 0, got 0"),
        (["task=toys:REACH", "safety.workspace=[[-9],[9]]"], "the workspace must lie within the limits of the action"),
    ],
)
def test_what_cannot_be_controlled_is_refused(recede, trained, options, said):
    found = recede("control", trained, *options)
    assert found.status == 2
    assert said in found.line
