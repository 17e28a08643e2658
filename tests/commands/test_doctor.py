"""`recede doctor`: a tidy list, an exit status, and a report for strangers."""

import os
import re
from pathlib import Path

import pytest
import toys
from recede.commands.doctor import _look_at_robot as look_at_robot
from recede.configs.components.robots import SimulatedRobotConfig
from recede.configs.diagnosis import DoctorConfig
from recede.files import read_json
from recede.realtime import MonotonicClock
from recede.robots.simulation import Simulation

QUICK = ["machine=false"]
BUSY = ["seconds=0.2", "max_call_ms=5000"]


class Failing(Simulation):
    def read(self):
        return {}["joints"]


def failing(rate):
    return Failing(toys.REACH, MonotonicClock(), rate=rate)


def test_a_store_is_described_and_the_report_read_again(recede, reaches, tmp_path):
    result = recede("doctor", reaches, *QUICK, f"json={tmp_path / 'report.json'}")
    assert result.status == 0, result.err
    heading, first, *_ = result.out.splitlines()
    assert heading == "demonstrations"
    assert first.startswith("  ok       20 episodes, ")
    assert result.out.splitlines()[-2].startswith("no problems, ")
    report = read_json(tmp_path / "report.json")
    assert report["facts"]["demonstrations"]["episodes"] == 20
    assert {finding["subject"] for finding in report["findings"]} == {"demonstrations"}


def test_a_robot_that_keeps_its_promises_is_fine(recede):
    result = recede("doctor", *QUICK, "robot=driver", "robot.make=toys:make_robot", *BUSY)
    assert result.status == 0, result.out
    assert "emergency stop" in result.out
    assert "all right: the robot was started twice" in " ".join(result.out.split())


def test_a_robot_that_breaks_one_is_a_problem_and_the_status_one(recede):
    result = recede("doctor", *QUICK, "robot=driver", f"robot.make={__name__}:failing", *BUSY)
    assert (result.status, result.err) == (1, "")
    assert "problem  the robot failed in read(): KeyError: 'joints'" in result.out
    assert "-> mend the driver: docs/your_robot.md explains every promise" in result.out
    assert result.out.splitlines()[-1] == "1 problem, no warnings"


def test_a_robot_of_another_kind_than_the_policy_is_a_problem(trained):
    robot = SimulatedRobotConfig(task="reach")
    config = DoctorConfig(path=str(trained), robot=robot, seconds=0.1, max_call_ms=5000)
    fine, problem = look_at_robot(config, facts := {})
    assert (fine.severity, problem.severity) == ("ok", "problem")
    assert "it has not the streams of the policy" in problem.what
    assert facts["specification"]["observations"]


def test_a_damaged_store_and_run_are_findings(recede, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/zarr.json").write_text("{")
    (tmp_path / "run/checkpoints/00000001").mkdir(parents=True)
    (tmp_path / "run/checkpoints/00000001/policy.json").write_text("{")
    for name in ("store", "run"):
        result = recede("doctor", tmp_path / name, *QUICK)
        assert (result.status, result.err) == (1, "")
        assert "is damaged" in " ".join(result.out.split())
        assert "-> do what it says, and look again" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist: name the folder of a store, a run or a checkpoint"),
        (["."], ". is neither a store nor a run: name"),
        (["overfit=true"], "overfit=true needs demonstrations: name a store or a run"),
        (QUICK, "machine=false leaves nothing to look at"),
        (["dataset=d.zarr"], "dataset=d.zarr needs a store or a run: name one"),
        (["{reaches}", "dataset=d.zarr"], "dataset=d.zarr is for a run, and .* is a store: leave it out"),
        (["{reaches}", "json=no/such/folder/x.json"], "json must be a file in a folder that exists"),
        (["{reaches}", "out=picture.txt"], "out must be the file of a picture, .* got 'picture.txt'"),
        (["{reaches}", "steps=0"], "steps must be above 0, got 0"),
        (["{reaches}", "episodes=episode~1"], "no fact of an episode is called 'episode~1'"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_tried(recede, reaches, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = recede("doctor", *[text.format(reaches=reaches) for text in arguments])
    assert result.status == 2
    assert re.search(message, result.line), result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_machine_is_described_without_secrets(recede, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    result = recede("doctor", f"json={tmp_path / 'report.json'}")
    assert result.status in (0, 1), result.err
    headings = [line for line in result.out.splitlines() if re.fullmatch("[a-z]+", line)]
    assert headings == ["machine", "packages", "torch", "rendering"]
    text = (tmp_path / "report.json").read_text()
    assert "hf_0123456789" not in text
    assert str(Path.home()) == "/" or f"{Path.home()}{os.sep}" not in text
    assert read_json(tmp_path / "report.json")["facts"]["packages"]["versions"]["torch"]


@pytest.mark.slow
def test_a_run_is_held_against_its_demonstrations(recede, trained, reaches, tmp_path):
    before = sorted(trained.rglob("*"))
    result = recede("doctor", trained, f"dataset={reaches}", *QUICK, f"json={tmp_path / 'report.json'}")
    assert result.status in (0, 1), result.err
    headings = [line for line in result.out.splitlines() if re.fullmatch("[a-z]+", line)]
    assert headings == ["policy", "demonstrations", "ranges", "errors", "engines"]
    assert sorted(trained.rglob("*")) == before
