"""`recede serve`: a policy on the network, and robots that it controls."""

import os
import signal
import socket
import time
from contextlib import closing

import numpy as np
import pytest
import toys
from policy_server import (
    TOKEN,
    read_health,
    serve,
)
from recede.checkpoints.opening import open_policy
from recede.control.loop import Controller
from recede.control.planned import Planned
from recede.control.planner import PolicyProcess
from recede.control.safety import Event, Limits, Safety
from recede.execution.overlapping import AsyncReplace
from recede.realtime import MonotonicClock
from recede.robots.simulated import SimulatedRobot
from recede.serving import client
from recede.serving.client import RemotePolicy


@pytest.fixture(autouse=True)
def without_a_token(monkeypatch):
    monkeypatch.delenv("RECEDE_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["host=0.0.0.0"], "set RECEDE_TOKEN"),
        (["host="], "host is empty"),
        (["host=robots.example"], "needs a token"),
        ([], "folder nowhere"),
        (["host=localhost"], "folder nowhere"),
        (["host=::1"], "folder nowhere"),
        (["port=70000"], "65535, got 70000"),
        (["max_sessions=0"], "max_sessions"),
        (["engine=onx"], "one of eager, cuda_graph, onnx, openvino, openvino_fp32, got 'onx'"),
        (["checkpoint=first"], "got 'first'"),
    ],
)
def test_impossible_options_are_refused(recede, arguments, error):
    result = recede("serve", "nowhere", *arguments)
    assert result.status == 2
    assert error in result.line


def test_a_token_allows_other_machines(recede, monkeypatch):
    monkeypatch.setenv("RECEDE_TOKEN", TOKEN)
    assert "folder nowhere" in recede("serve", "nowhere", "host=0.0.0.0").line
    monkeypatch.setenv("RECEDE_TOKEN", "short")
    assert "at least 16" in recede("serve", "nowhere").line


@pytest.mark.slow
def test_a_served_policy_controls_a_robot(recede, trained, tmp_path):
    with serve(open_policy(trained).engine, task="toys:REACH") as (address, _):
        options = ["robot.task=toys:REACH", "episodes=1", "rate=50", "execution=rtc", f"out={tmp_path / 'run'}"]
        result = recede("control", f"policy={address}", *options)
        assert result.status == 0, result.err
        assert "reason over" in result.out
        assert read_health(address)["answers"] > 5
        for wrong, error in (
            (["robot.task=pick_place"], "trained for, but "),
            ([], "robot.task="),
            (["engine=onnx"], "leave them out here"),
            (["checkpoint=best"], "leave them out here"),
        ):
            refused = recede("control", address, *wrong)
            assert refused.status == 2
            assert error in refused.line


class Recorded(SimulatedRobot):
    """A robot that records its commands."""

    def command(self, action, at_time):
        self.__dict__.setdefault("commands", []).append(np.array(action))
        super().command(action, at_time)


@pytest.mark.slow
def test_a_robot_is_held_while_the_server_is_away_and_goes_on_afterwards(nursery, trained):
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    command, address = ("serve", trained, f"port={port}"), f"ws://127.0.0.1:{port}"
    process = nursery.start(*command)
    with closing(RemotePolicy(address)) as policy:
        horizons = policy.horizons
    arguments = address, toys.SPECIFICATION, horizons
    limits = Limits.of(toys.SPECIFICATION, speed=2.0, acceleration=40.0, jump=2.0)
    safety = Safety(limits, 1 / 50, stale_s=0.2, patience_s=60.0)
    with (
        closing(Recorded(toys.REACH, rate=50.0)) as robot,
        closing(PolicyProcess(toys.SPECIFICATION, horizons, client.connect, *arguments)) as planner,
    ):
        planner.wait()
        controller = Controller(robot, Planned(planner, AsyncReplace(horizons, delay=1)), safety, MonotonicClock())
        summary, phases, end = controller.summary, iter(["away", "back"]), time.monotonic() + 60
        phase, num_before, held = "there", 0, []

        def is_over():
            nonlocal process, phase, num_before, held
            if phase == "there" and summary.num_chunks == 3:
                os.kill(process, signal.SIGKILL)
                phase = next(phases)
            elif phase == "away" and summary.events[Event.NO_PLAN.name] == 20:
                held, num_before = robot.commands[-5:], summary.num_chunks
                assert nursery.wait()[0] == -signal.SIGKILL
                process, phase = nursery.start(*command), next(phases)
            return (phase == "back" and summary.num_chunks >= num_before + 3) or time.monotonic() > end

        assert controller.run(is_over).reason == "over"
        assert summary.num_chunks >= num_before + 3 >= 6
        assert np.ptp(held, axis=0).max() == 0
    os.kill(process, signal.SIGTERM)
    status, output = nursery.wait()
    assert status == 0, output
    assert f"is served at {address} by eager" in output
    assert output.endswith("every session is closed\n")
