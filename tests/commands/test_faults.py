"""An environment that breaks off an episode, in every command that runs one."""

import json

import pytest
import toys
from recede.datasets.store import DemonstrationStore


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_evaluation_keeps_the_other_episodes_and_names_the_broken_one(recede, trained, empty_folder):
    options = ["episodes=3", "videos=1", "device=cpu", "out=out"]
    result = recede("evaluate", trained, "task=toys:STEP", *options)
    assert result.status == 2
    assert "1 of 3 episodes broke off and counts as failed: seed 100001, step 5, in step(): ValueError: " in result.last
    assert "toys.py:" in result.last
    assert "(broken off, and counted as failed: 1)" in result.out
    content = json.loads((empty_folder / "out/evaluation.json").read_text())
    assert (content["success"][1], content["score"][1], content["episodes"]) == (False, 0.0, 3)
    assert [fault["seed"] for fault in content["broken"]] == [100_001]
    assert content["success_rate"] == sum(content["success"]) / 3
    page = (empty_folder / "out/report.html").read_text()
    assert "broke off in 1 of them" in page.replace("\u2060", "").replace("\xa0", " ")
    assert "seed 100001, step 5" in page.replace("\xa0", " ")
    assert (empty_folder / "out/episode-100000.mp4").exists()
    assert "(1 broke off)" in recede("compare", "out").out


def test_an_evaluation_whose_episodes_all_break_off_measures_nothing(recede, trained, empty_folder):
    result = recede("evaluate", trained, "task=toys:OLD_STEP", "episodes=2", "videos=0", "device=cpu", "out=out")
    assert result.status == 2
    assert "every episode of task 'reach' broke off" in result.last
    assert "got a tuple of 4 values (dict, float, bool, dict)" in result.last
    assert "(and 1 more like it)" in result.last
    assert not (empty_folder / "out").exists()


@pytest.mark.slow
def test_a_sweep_names_the_broken_episodes_too(recede, trained, empty_folder):
    pairs = ["execution=[receding,rtc]", "episodes=2", "device=cpu", "out=out"]
    result = recede("evaluate", trained, "task=toys:NAN", *pairs)
    assert result.status == 2
    assert "2 of 4 episodes broke off" in result.last
    assert (empty_folder / "out/delays.md").exists()


@pytest.mark.parametrize(("videos", "warning"), [(0, ""), (1, "no pictures and no films: NotImplementedError: ")])
def test_an_environment_that_cannot_render(recede, trained, empty_folder, videos, warning):
    options = ["episodes=2", f"videos={videos}", "device=cpu", "out=out"]
    result = recede("evaluate", trained, "task=toys:NO_RENDER", *options)
    assert result.status == 0, result.err
    assert warning in result.err
    assert ("this simulation has no window" in result.err) == bool(videos)
    assert ("this simulation has no window" in (empty_folder / "out/report.html").read_text()) == bool(videos)
    assert sorted(path.name for path in (empty_folder / "out").iterdir()) == ["evaluation.json", "report.html"]


def test_a_training_goes_on_without_a_rate(recede, small, reaches, empty_folder):
    command = ["train", "task=toys:NAN", f"dataset={reaches}", "out=run", "steps=2", *small]
    result = recede(*command, "evaluate_every=1", "evaluate_episodes=2")
    assert result.status == 0, result.err
    assert result.err.count("warning: 1 of 2 episodes broke off, so this checkpoint has no success rate: ") == 2
    assert "seed 50000, step 5: step() must return 'position'" in result.err
    lines = [json.loads(line) for line in (empty_folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["broken"] for line in lines if "broken" in line] == [1, 1]
    assert not [line for line in lines if "success_rate" in line]
    options = ["task=toys:REACH", "episodes=1", "videos=0", "device=cpu"]
    assert recede("evaluate", "run", *options).status == 0  # its metrics can be read


def test_a_recording_goes_on_and_a_broken_episode_is_not_recorded(recede, empty_folder):
    result = recede("collect", "task=toys:STEP", "out=x.zarr", "episodes=5")
    assert result.status == 2
    assert "1 episode broke off and is not recorded: seed 3, step 5, in step(): ValueError: " in result.last
    assert DemonstrationStore.open(empty_folder / "x.zarr").episode_seeds.tolist() == [0, 1, 2, 4, 5]
    result = recede("replay", "task=toys:NAN", "dataset=x.zarr")
    assert result.status == 0, result.err
    result = recede("collect", "task=toys:OLD_STEP", "out=y.zarr", "episodes=5")
    assert result.status == 2
    assert "the first 3 episodes of task 'reach' broke off: seed 0, step 1: step() must return" in result.last


def test_a_replay_names_the_broken_episode(recede, reaches):
    result = recede("replay", "task=toys:NAN", f"dataset={reaches}")
    assert result.status == 2
    assert "19 episodes replayed" in result.out
    assert f"1 of 20 episodes broke off: seed {toys.BAD_SEEDS[0]}, step 5: step() must return" in result.last


SOURCES = {
    "raises": ("def make():\n    raise ValueError('oops')\n\nmake()\n", "ValueError: oops (raises.py:2 in make)"),
    "imports": ("import not_installed\n", "No module named 'not_installed' (imports.py:1 in <module>)"),
    "quits": ("import sys\nsys.exit('no licence')\n", "SystemExit: no licence (quits.py:2 in <module>)"),
    "misspelt": ("def make(:\n", "SyntaxError: "),
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_error_of_the_users_own_code_is_shown_with_its_place(recede, empty_folder, monkeypatch, name):
    source, message = SOURCES[name]
    (empty_folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(empty_folder)
    result = recede("collect", f"task={name}:TASK", "out=x.zarr")
    assert result.status == 2
    assert message in result.err.splitlines()[0]
    assert f"{name}.py" in result.err
    assert "recede/" not in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["control", "robot.task=toys:NO_POSITION"], ["give the Task position=... ('position' or 'target')"]),
        (["control", "robot.task=toys:LAMBDA"], ["which the process of the simulation gets", "must be picklable"]),
        (["evaluate", "task=toys:LAMBDA", "workers=1"], ["must be picklable", "with workers=0"]),
    ],
)
def test_what_a_command_needs_of_a_task_is_checked_first(recede, trained, empty_folder, arguments, words):
    command, *options = arguments
    result = recede(command, trained, *options, "out=out")
    assert result.status == 2
    assert result.out == ""
    assert all(word in result.last for word in words), result.last
    assert not (empty_folder / "out").exists()
