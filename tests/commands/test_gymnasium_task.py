"""From the id of an environment of others to an evaluated policy, without a line of Python."""

import json
from dataclasses import replace

import pytest
from recede.envs.catalogue import load_task
from recede.recording.scripted import collect

MAPPING = (
    "success: info.solved\nscore: info.closeness.now\nobserve: {place: robot.place, goal: goal}\nposition: place\n"
)
ID = "gymnasium:toy_ids:toy/Reach-v0"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The words on the command line."""
    path = tmp_path_factory.mktemp("task") / "reach.yaml"
    path.write_text(MAPPING)
    return f"task={ID}@{path}"


@pytest.fixture(scope="module")
def store(tmp_path_factory, task):
    path = tmp_path_factory.mktemp("store") / "reach.zarr"
    expert = replace(load_task(task.removeprefix("task=")), expert=lambda seed: lambda state: state["goal"])
    assert collect(expert, path, episodes=6, first_seed=0, images="zstd").successes == 6
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, recede, task, store, small):
    out = tmp_path_factory.mktemp("run") / "run"
    result = recede("train", task, f"dataset={store}", f"out={out}", "steps=2", *small)
    assert result.status == 0, result.err
    assert f"next: recede evaluate {out} {task}" in result.out
    return out


def test_an_id_is_checked(recede, task):
    result = recede("check", task)
    assert result.status == 0, result.err
    assert result.out.startswith(f"{ID} place (2,), goal (2,) -> action (2,)\n")


def test_an_id_is_a_robot(recede, task):
    result = recede("check", "robot=simulated", f"robot.{task}", "seconds=0.2", "max_call_ms=2000")
    assert result.status == 0, result.err


def test_demonstrations_of_an_id_are_inspected_and_replayed(recede, task, store):
    for command, bare in (("inspect", store), ("replay", f"dataset={store}")):
        result = recede(command, bare, task)
        assert result.status == 0, result.err
    assert "6 episodes replayed, 6 of them succeed" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_policy_of_an_id_is_evaluated_where_the_id_is_typed(recede, task, run, tmp_path, workers):
    result = recede("evaluate", run, task, "episodes=3", "videos=1", f"out={tmp_path}", f"workers={workers}")
    assert result.status == 0, result.err
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert (content["task"], content["broken"]) == (ID, [])
    assert (tmp_path / "episode-100000.mp4").exists()


def test_no_run_opens_its_id(recede, run):
    refused = recede("evaluate", run, "episodes=1")
    assert refused.status == 2
    assert "is not imported on the word of a file or a server" in refused.line
    assert refused.line.endswith("name it on the command line with task=")


def test_what_an_id_lacks_is_one_line(recede, run):
    refused = recede("evaluate", run, f"task={ID}")
    assert (refused.status, refused.out) == (2, "")
    assert f"{ID}: add to its mapping" in refused.last


def test_a_check_is_of_one_thing(recede):
    for arguments in ([], ["task=reach", "robot=simulated"]):
        refused = recede("check", *arguments)
        assert (refused.status, "give robot=NAME, one of driver, " in refused.line) == (2, True)
