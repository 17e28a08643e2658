"""A gymnasium id is a task, if its spaces allow it, and nothing but the command line opens one."""

import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import toys
from recede.envs.catalogue import known_task, load_task
from recede.envs.check import check_task
from recede.envs.gymnasium_task import Rule, Words, gymnasium_task, open_gymnasium
from recede.envs.promises import PromiseError

ID = "toy_ids:toy/Reach-v0"
WORDS = {"success": "info.solved", "score": "info.closeness.now"}
TEXT = f"gymnasium:{ID}@{{success: info.solved, score: info.closeness.now}}"


def rolled(task, seed, *, steps=8, **options):
    """The observations, infos and ends of an episode that goes to its goal."""
    env = task.make(**options)
    results = [(*env.reset(seed=seed), False, False)]
    for _ in range(steps):
        if any(results[-1][2:]):
            break
        observation, _, terminated, truncated, info = env.step(results[-1][0]["goal"])
        results.append((observation, info, terminated, truncated))
    return results


def test_an_id_keeps_every_promise_of_a_task(capsys):
    task = load_task(TEXT)
    assert capsys.readouterr().err == (
        f"gymnasium:{ID}: task_id (2,), goal (2,), robot_image (8, 8, 3), robot_place (2,) -> action (2,); "
        "0.1 s a step (from its render_fps), at most 40 steps, success is info.solved\n"
    )
    assert "8 x 8 pixels" in check_task(task)
    assert task.specification.action == replace(toys.SPECIFICATION.action, units=(), labels=())
    assert [(s.dtype, s.low) for s in task.specification.observations if s.name == "goal"] == [("float32", ())]


def test_observations_success_and_score_are_those_of_the_environment():
    results = rolled(gymnasium_task(ID, **WORDS), 3, steps=40)
    observation, info, terminated, _ = results[-1]
    assert (info["success"], terminated) == (True, True)
    assert info["score"] == pytest.approx(
        1 - np.linalg.norm(observation["robot_place"] - observation["goal"]), abs=1e-6
    )
    assert [info["success"] for _, info, *_ in results[:-1]] == [False] * (len(results) - 1)
    assert int(observation["robot_image"][0, 0, 0]) == len(results) - 1
    assert all(info["state"] is observation for observation, info, *_ in results)


def test_the_mapping_chooses_and_names_the_streams():
    task = gymnasium_task(
        ID, **WORDS, observe={"hand": "robot.place", "goal": "goal"}, dt=0.2, max_steps=3, hold="zero"
    )
    assert [stream.name for stream in task.specification.observations] == ["hand", "goal"]
    assert (task.specification.control_dt, task.specification.action.hold) == (0.2, ("zero", "zero"))
    assert [truncated for *_, truncated in rolled(task, 0)] == [False, False, False, True]
    listed = gymnasium_task(ID, **WORDS, observe=["robot.place"], position="robot_place")
    assert (listed.specification.observations[0].name, listed.position) == ("robot_place", "robot_place")


def test_the_mapping_is_a_file_or_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "reach.yaml").write_text(
        "# the toy\nsuccess: info.closeness.now >= 0.5\nmake:\n  speed: 0.5\ndt: 1e-1\n"
    )
    typed = open_gymnasium(f"gymnasium:{ID}@{{success: info.closeness.now >= 0.5, make: {{speed: 0.5}}, dt: 0.1}}")
    read = open_gymnasium(f"gymnasium:{ID}@~/reach.yaml")
    assert (read.specification, read.max_steps) == (typed.specification, 40)
    for one, other in zip(rolled(read, 1), rolled(typed, 1), strict=True):
        assert (one[1]["success"], one[1]["score"]) == (other[1]["success"], other[1]["score"])
    assert rolled(read, 1)[-1][1]["score"] in (0.0, 1.0)


def test_a_task_of_an_id_passes_to_processes():
    make = gymnasium_task(ID, **WORDS).make
    copy = pickle.loads(pickle.dumps(make))
    np.testing.assert_array_equal(copy().reset(seed=5)[0]["goal"], make().reset(seed=5)[0]["goal"])


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("reward", (0.5, 2.0, 3.0)),
        ("reward >= 2", (False, True, True)),
        ("reward<2.5", (True, True, False)),
        ("terminated", (False, False, True)),
        ("info.near.value > 1e-1", (None, False, True)),
        ("info.done", (None, 0, 1)),
    ],
)
def test_a_rule_reads_a_step(rule, values):
    steps = [
        (0.5, False, {}),
        (2.0, False, {"near": {"value": np.float32(0.0)}, "done": 0}),
        (3.0, True, {"near": {"value": np.array([0.2])}, "done": 1}),
    ]
    assert tuple(Rule.parse("success", rule)(*step) for step in steps) == values


@pytest.mark.parametrize(
    "rule", ["", "rewards", "info", "info.", "reward >=", "reward >= much", "reward >= 1 or terminated", 3]
)
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(ValueError, match=r"success must be info.KEY, terminated or reward, .* got"):
        Rule.parse("success", rule)


ENTRIES = "the info of a step has closeness, energy, solved"
PERIODS = "dt, the control period in seconds (its dt is 0.05 but its render_fps is 0.03333)"
SOLVED = f"gymnasium:{ID}@{{success: info.solved"
REFUSED = {
    "gymnasium:toy_ids:toy/Discrete-v0": "the action is Discrete(3): write a Task for it (docs/your_task.md)",
    "gymnasium:toy_ids:toy/Square-v0": "the action is Box(-1.0, 1.0, (2, 2), float32): write a Task",
    "gymnasium:toy_ids:toy/Tuple-v0": "but observation is Tuple(Box(-1.0, 1.0, (2,), float64), ",
    "gymnasium:toy_ids:toy/Kind-v0": "kind is Discrete(3): choose other parts with observe, as in {observe: [a, b]}",
    "gymnasium:toy_ids:toy/Twins-v0": "two parts would be one stream, of ['a_b']: name each",
    "gymnasium:toy_ids:toy/Volume-v0": "but scan is Box(0.0, 1.0, (4, 4, 4), float32)",
    "gymnasium:toy_ids:toy/Channels-v0": "camera is Box(0, 255, (3, 48, 48), uint8) ... channels come first",
    "gymnasium:toy_ids:toy/Rech-v0": "gymnasium cannot make it: NameNotFound ... Did you mean: `Reach`",
    "gymnasium:no_such:toy/Reach-v0": "ModuleNotFoundError: No module named 'no_such' ... must be installed",
    f"gymnasium:{ID}@no.yaml": "there is no mapping no.yaml: check its path",
    f"gymnasium:{ID}@{{dt:0.1}}": "has no key 'dt:0.1': write a space behind dt:",
    f"gymnasium:{ID}": f"success, as info.KEY, 'reward >= 1' or terminated ({ENTRIES})",
    "gymnasium:Pendulum-v1": f"{PERIODS}; success, as",
    f"gymnasium:{ID}@{{success: info.sovled}}": f"success is info.sovled, but {ENTRIES}",
    f"gymnasium:{ID}@{{success: info.energy}}": "which is 0.25 after a step: compare it, as 'info.energy >= 1'",
    f"{SOLVED}, score: info.no}}": f"score is info.no, but {ENTRIES}",
    f"{SOLVED}, observe: [robot.hand]}}": "did you mean 'robot.place'",
    f"gymnasium:{ID}@{{sucess: info.solved}}": "has no key 'sucess': did you mean 'success'",
    SOLVED: "is no YAML",
    f"{SOLVED}, dt: fast}}": "dt cannot be 'fast'",
    f"{SOLVED}, max_steps: -1}}": "max_steps must be above 0, got -1",
    f"{SOLVED}, make: null}}": "make cannot be None",
    f"{SOLVED}, observe: [1]}}": "observe names '1', which is no part of the observation",
    f"{SOLVED}, observe: {{}}}}": "at least one observation stream",
    f"{SOLVED}, hold: lost}}": "hold must be 'last' or 'zero', got 'lost'",
    f"{SOLVED}, position: plaice}}": "position must be an observation stream, got 'plaice'",
    f"{SOLVED}, make: {{sped: 2}}}}": "unexpected keyword argument 'sped'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_a_task_is_refused_in_one_line(text):
    with pytest.raises(ValueError) as refusal:
        load_task(text)
    message = str(refusal.value)
    assert message.startswith(f"{text.partition('@')[0]}: ")
    for words in REFUSED[text].split(" ... "):
        assert words in message


def test_an_environment_that_returns_other_shapes_than_it_declares_is_named():
    env = gymnasium_task(ID, **WORDS, make={"fault": "shape"}).make()
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros(2))
    with pytest.raises(PromiseError, match=r"declares robot.place of shape \(2,\), but returns float64 of shape \(3,"):
        env.step(np.zeros(2))


def test_no_file_opens_an_id(monkeypatch):
    monkeypatch.delitem(sys.modules, "toy_ids", raising=False)
    with pytest.raises(ValueError, match="is not imported on the word of a file or a server"):
        known_task(TEXT, key="task")
    assert "toy_ids" not in sys.modules


def test_the_fields_of_the_mapping_are_checked_in_python_too():
    with pytest.raises(ValueError, match="make cannot be 3"):
        Words(make=3)
    with pytest.raises(TypeError, match="sucess"):
        gymnasium_task(ID, sucess="terminated")
