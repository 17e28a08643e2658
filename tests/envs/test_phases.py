"""The tasks on a table name the phases of an episode in the order in which an expert goes through them."""

from itertools import groupby

import numpy as np
import pytest
from recede.envs.catalogue import load_task
from recede.envs.task import state_of

PHASES = {
    "reach": ["on the way", "at the ball, moving"],
    "pick_place": ["before the grasp", "carrying", "on the mark, not released"],
    "reach_arm_joints": ["on the way"],  # it is slow when it arrives
    "pick_place_arm_joints": ["before the grasp", "carrying", "on the mark, not released"],
    "transfer": ["before the grasp", "carrying", "in both hands", "in the left hand, not withdrawn"],
    "stack": ["before the grasp", "carrying", "on the base, not released"],
    "sort": ["before the grasp", "carrying", "on the mark, not released"],
    "push_t": ["off the mark", "on the mark, not withdrawn"],
    "drawer": [
        *("opening the drawer", "before the grasp", "carrying", "closing the drawer", "closed, not withdrawn"),
    ],
    "peg_insertion": ["before the grasp", "carrying", "above the hole", "in the hole, not released"],
}
"""Task -> its phases in the episode of seed 2."""


def episode(task, seed, expert=None):
    """Everything that each step of an episode shows; the last one is a success."""
    env, expert = task.make(), expert or task.expert(seed)
    observation, info = env.reset(seed=seed)
    states, is_over = [state_of(observation, info)], False
    while not is_over:
        observation, _, terminated, truncated, info = env.step(expert(info["state"]))
        states.append(state_of(observation, info))
        is_over = terminated or truncated
    return states, info["success"]


@pytest.mark.parametrize("name", PHASES)
def test_an_expert_goes_through_the_phases_in_order(name):
    task = load_task(name)
    states, success = episode(task, 2)
    assert success
    assert [phase for phase, _ in groupby(map(task.phase, states[:-1]))] == PHASES[name]


def test_a_cube_that_is_pushed_into_the_wall_is_at_the_wall():
    task = load_task("pick_place")
    expert = task.expert(0)

    def straight(state):
        """As the expert, but once it holds the cube it goes straight to the mark."""
        action = expert(state)
        if task.phase(state) in ("carrying", "at the wall"):
            action[1] = state["gripper"][1]
            action[0] = state["gripper"][0] + 0.02
        return action

    states, success = episode(task, 0, straight)
    assert not success
    assert task.phase(states[-1]) == "at the wall"


def test_a_policy_may_carry_the_other_cube():
    """The goal of the last state names the cube."""
    task = load_task("sort")
    states, _ = episode(task, 2)
    carried = next(state for state in states if task.phase(state) == "carrying")
    other = {**carried, "goal": carried["goal"].reshape(2, 2)[::-1].ravel()}
    assert task.phase(other) == "carrying the other cube"


def test_a_policy_may_meet_another_goal():
    """The cube is where the goal of the episode put it; the goals of the last state name another cube or mark."""
    task = load_task("sort")
    last = episode(task, 2)[0][-1]
    goal = int(last["goal"].argmax())
    for other in set(range(4)) - {goal}:
        assert task.phase({**last, "goal": np.eye(4)[other]}) == "met another goal"
    name = ("orange", "blue")[goal // 2]
    lifted = last[name] + np.array([0, 0, 0.02, 0, 0])
    assert task.phase({**last, "goal": np.eye(4)[(goal + 1) % 4], name: lifted}) == "before the grasp"


def test_the_twin_with_cameras_has_the_same_phases():
    assert load_task("stack_image").phase is load_task("stack").phase
    assert load_task("pusht").phase is None
