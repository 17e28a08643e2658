"""`recede evaluate monitors=true`, and `recede control on_lost=`."""

import json

import numpy as np
import pytest
from recede.checkpoints.opening import load_policy
from recede.control.session import LOST, STILL
from recede.policy.monitor import NAMES, Calibration


@pytest.fixture(scope="module")
def monitored(recede, trained, reaches, tmp_path_factory):
    """The folder of a monitored evaluation, and its result."""
    out = tmp_path_factory.mktemp("monitored") / "out"
    options = ["monitors=true", f"dataset={reaches}", "false_alarms=0.3", "episodes=20", "videos=0"]
    return out, recede("evaluate", trained, "task=toys:REACH", *options, f"out={out}")


def test_an_evaluation_says_how_well_each_monitor_foretells(monitored):
    out, result = monitored
    assert result.status == 0, result.err
    content = json.loads((out / "evaluation.json").read_text())
    monitors = content["monitors"]
    assert tuple(monitors["numbers"]) == NAMES
    assert tuple(monitors["monitors"]) == (*NAMES, "elapsed time")
    for name in NAMES:
        assert f"| {name} | " in result.out
        lengths = [len(numbers) for numbers in monitors["numbers"][name]]
        assert lengths == [len(steps) for steps in monitors["requested"]]
    page = (out / "report.html").read_text()
    assert "Knowing when it is lost" in page
    assert page.count('class="trace ') == 20 * len(NAMES)


def test_the_episodes_go_as_without_monitors(recede, monitored, trained, tmp_path):
    out, _ = monitored
    assert recede("evaluate", trained, "task=toys:REACH", "episodes=20", "videos=0", f"out={tmp_path}").status == 0
    before, after = (json.loads((folder / "evaluation.json").read_text()) for folder in (tmp_path, out))
    assert "monitors" not in before
    assert [before[key] for key in ("success", "score", "steps")] == [
        after[key] for key in ("success", "score", "steps")
    ]


def test_without_demonstrations_there_is_no_distance(recede, trained, tmp_path):
    result = recede(
        "evaluate", trained, "task=toys:REACH", "monitors=true", "episodes=4", "videos=0", f"out={tmp_path}"
    )
    assert result.status == 0, result.err
    assert "no monitor distance: name the demonstrations that it was trained on with dataset=" in result.out
    assert "no alarms: they are calibrated by 19 successful episodes" in result.out
    assert (tmp_path / "monitors" / "monitors.json").is_file()


@pytest.mark.slow
def test_an_interrupted_evaluation_keeps_its_numbers(recede, monitored, trained, reaches, tmp_path, monkeypatch):
    from recede.evaluation.journal import Journal

    out, _ = monitored
    options = ["monitors=true", f"dataset={reaches}", "false_alarms=0.3", "episodes=20", "videos=0", f"out={tmp_path}"]
    plain, count = Journal.note, 0

    def note(self, outcome):
        nonlocal count
        plain(self, outcome)
        count += 1
        if count == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "note", note)
    assert recede("evaluate", trained, "task=toys:REACH", *options).status == 130
    monkeypatch.setattr(Journal, "note", plain)
    assert recede("evaluate", trained, "task=toys:REACH", *options).status == 0
    first, second = (json.loads((folder / "evaluation.json").read_text())["monitors"] for folder in (out, tmp_path))
    assert first["requested"] == second["requested"]
    for name in NAMES:
        for before, after in zip(first["numbers"][name], second["numbers"][name], strict=True):
            np.testing.assert_allclose(before, after, rtol=1e-5)


def records(out):
    return json.loads((out / "control.json").read_text())["episodes"]


CONTROL = ["robot.task=toys:REACH", "rate=50", "episodes=1", "engine=eager", "false_alarms=0.3"]


@pytest.mark.slow
@pytest.mark.parametrize(("largest", "reason"), [(-10.0, LOST), (10.0, "over")])
def test_an_alarm_ends_the_episode(recede, trained, tmp_path, largest, reason):
    """Nine successful episodes, in all of which the chunks moved by ten ranges, or by less than nothing."""
    policy, _ = load_policy(trained)
    (tmp_path / "monitors").mkdir()
    Calibration({"stillness": [largest] * 9}, None, {"task": "reach"}).save(tmp_path / "monitors", policy)
    options = ["on_lost=stop", "monitor=stillness", f"monitors={tmp_path / 'monitors'}", f"out={tmp_path / 'out'}"]
    result = recede("control", trained, *CONTROL, *options)
    assert result.status == 0, result.err
    (episode,) = records(tmp_path / "out")
    assert episode["reason"] == reason
    assert ("LOST" in episode["events"]) == (reason == LOST)
    if reason == LOST:
        assert episode["success"] is False


def test_a_policy_that_stands_still_ends_the_episode(recede, trained, tmp_path):
    """The toy stands at its target; the simulation judges when it is over, whichever is first."""
    options = [*CONTROL[:4], "end_when_still=0.05", f"out={tmp_path / 'out'}"]
    assert recede("control", trained, *options).status == 0
    assert {episode["reason"] for episode in records(tmp_path / "out")} <= {STILL, "over"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["on_lost=panic"], "on_lost must be one of slow, hold, stop, or null, got 'panic'"),
        (["on_lost=stop"], "holds no monitors: calibrate the monitors again with recede evaluate RUN monitors=true"),
        (["on_lost=stop", "false_alarms=0"], "false_alarms must be above 0 and below 1, got 0"),
        (["end_when_still=0"], "end_when_still must be above 0"),
    ],
)
def test_bad_input_of_control_is_one_line(recede, trained, tmp_path, options, message):
    result = recede("control", trained, *CONTROL[:4], *options, f"out={tmp_path / 'out'}")
    assert result.status == 2
    assert message in result.last


def test_a_served_policy_is_not_monitored(recede):
    result = recede("control", "ws://127.0.0.1:9", "on_lost=stop")
    assert "on_lost=stop needs the policy on this machine: name its run instead of ws://127.0.0.1:9" in result.line


def test_a_monitor_of_control_must_be_calibrated(recede, monitored, trained, tmp_path):
    folder, _ = monitored
    place = f"monitors={folder / 'monitors'}"
    result = recede("control", trained, *CONTROL, "on_lost=stop", "monitor=elapsed", place, f"out={tmp_path / 'a'}")
    assert "there is no monitor 'elapsed': choose from" in result.last
    few = ["false_alarms=0.01", "on_lost=stop", place]
    result = recede("control", trained, *CONTROL[:4], *few, f"out={tmp_path / 'b'}")
    assert "false_alarms=0.01 needs monitors that 99 successful episodes calibrated, got" in result.last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["dataset=d"], "dataset=d is for monitors=true: give that, or leave it out"),
        (["monitors=true", "false_alarms=1"], "false_alarms must be above 0 and below 1, got 1"),
        (["monitors=true", "delay_ms=[0,100]"], "monitors=true is for one policy with one execution and one delay"),
        (["monitors=true", "disturb.push=[5]"], "monitors=true is for one policy with one execution and one delay"),
    ],
)
def test_bad_input_of_an_evaluation_is_one_line(recede, trained, options, message):
    assert message in recede("evaluate", trained, "task=toys:REACH", *options).line


def test_demonstrations_of_another_task_are_refused(recede, trained, demonstrations, tmp_path):
    result = recede(
        "evaluate", trained, "task=toys:REACH", "monitors=true", f"dataset={demonstrations}", f"out={tmp_path / 'out'}"
    )
    assert result.status == 2
    assert "the store must have the specification of the task" in result.last
    assert not (tmp_path / "out" / "evaluation.json").exists()
