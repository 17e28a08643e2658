"""Fetch and Adroit of gymnasium-robotics."""

import numpy as np
import pytest
from third_party import played, tried

pytest.importorskip("gymnasium_robotics", reason="make test-adapters installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def to_goal(observation):
    """The script of FetchReach; its action is a difference of positions."""
    return np.append(10 * (observation["desired_goal"] - observation["achieved_goal"]), 0)


def test_fetch_reach():
    task = tried("gymnasium:gymnasium_robotics:FetchReach-v4@{hold: zero}")
    assert (task.specification.control_dt, task.max_steps) == (0.04, 50)
    for seed in range(3):
        assert played(task, to_goal, seed=seed)[1]["success"]
    assert not played(task, lambda _: np.zeros(4))[1]["success"]


def test_fetch_pick_and_place():
    words = "{observe: {arm: observation, goal: desired_goal}, hold: zero, max_steps: 60, make: {reward_type: dense}}"
    task = tried(f"gymnasium:gymnasium_robotics:FetchPickAndPlace-v4@{words}")
    assert [(stream.name, stream.shape) for stream in task.specification.observations] == [
        ("arm", (25,)),
        ("goal", (3,)),
    ]
    assert task.max_steps == 60


@pytest.mark.parametrize("name", ["Door", "Hammer", "Pen", "Relocate"])
def test_adroit(name):
    task = tried(f"gymnasium:gymnasium_robotics:AdroitHand{name}-v1")
    assert task.specification.control_dt == 0.01
    *_, env = played(task, lambda _: np.zeros(task.specification.action.shape), render_mode="rgb_array")
    assert np.std(env.render()) > 1
