"""`transfer`: when a cube is handed over, and how the expert of both arms recovers."""

import experts
import numpy as np
import pytest
from recede.envs.arm import TwoArms
from recede.envs.arm_kinematics import FORE, HAND, SHOULDER, UPPER
from recede.envs.catalogue import load_task
from recede.envs.experts.gantry import OPEN
from recede.envs.tasks.transfer import TRANSFER

HOLDING, AWAY = (0.0, 0.05, 0.12, 0.0, 0.04), (0.0, -0.1, 0.12, 0.0, OPEN)
"""A left hand around a cube in the air, and a right hand that has let it go."""


def begin(left=HOLDING, right=AWAY, cube=(0.0, 0.05, 0.12, 1.0, 0.0)):
    env = TRANSFER.make()
    return env, env.reset(options={"state": {**TwoArms.at([left, right]), "cube": np.array(cube)}})[1]


@pytest.mark.parametrize(
    ("change", "is_success"),
    [
        ({}, True),
        ({"cube": (0.019, 0.05, 0.12, 1, 0)}, True),
        ({"cube": (0.021, 0.05, 0.12, 1, 0)}, False),  # beside the fingertips
        ({"left": (*HOLDING[:4], 0.046)}, False),  # the fingers do not hold it
        ({"left": (0, 0.05, 0.079, 0, 0.04), "cube": (0, 0.05, 0.079, 1, 0)}, False),  # too low
        ({"right": (0, -0.029, 0.12, 0, OPEN)}, False),  # the right hand is still there
        ({"right": (0, -0.031, 0.12, 0, OPEN)}, True),
    ],
)
def test_success_is_a_cube_that_the_left_hand_alone_holds_in_the_air(change, is_success):
    env, info = begin(**change)
    assert info["success"] == is_success
    velocities = np.zeros(env._model.nv)
    velocities[env._cube_velocity[2]] = 0.02
    assert not env.is_solved(info["state"], velocities)


def test_the_left_hand_does_not_reach_the_cube_where_it_begins():
    foot = TwoArms.feet["left_"]
    shoulder, longest = np.array([foot.x, foot.y, SHOULDER]), UPPER + FORE + HAND
    env = TRANSFER.make()
    cubes = [env.reset(seed=seed)[1]["state"]["cube"][:3] for seed in range(20)]
    assert np.linalg.norm(cubes - shoulder, axis=1).min() > longest


def test_a_cube_that_a_hand_holds_stays_there():
    env, info = begin()
    for _ in range(10):
        command = info["state"]["joints"].copy()
        command[6] = 0.015
        *_, info = env.step(command)
    assert info["success"]


def finish(seed, *, drop=(), side=0):
    """Let the expert end an episode, and open one hand in the steps `drop`; returns the states and last info."""
    env = TRANSFER.make()
    _, info = env.reset(seed=seed)
    return experts.finish("transfer", env, info, seed=seed, drop=drop, fingers=7 * side + 6, opening=OPEN)


def test_the_left_hand_takes_the_cube_turned_to_either_side():
    turns = set()
    for seed in range(4):
        states, info = finish(seed)
        assert info["success"], seed
        turns.add(np.sign(states[-1]["left_gripper"][3]))
        assert abs(states[-1]["left_gripper"][3]) == pytest.approx(np.pi / 2, abs=0.1)
    assert turns == {-1, 1}


@pytest.mark.parametrize("seed", range(2))
def test_the_expert_takes_a_cube_again_that_the_right_hand_dropped(seed):
    states, info = finish(seed, drop=range(14, 20), side=1)
    assert info["success"]
    heights = [state["cube"][2] for state in states]
    assert max(heights[:16]) > 0.03
    assert min(heights[18:24]) < 0.025


def test_a_left_hand_that_cannot_close_is_waited_for():
    states, info = finish(0, drop=range(20, 60))
    assert info["success"]
    assert len(states) > 60


def test_the_table_names_both_arms():
    labels = load_task("transfer").specification.action.labels
    assert (labels[0], labels[6], labels[7], labels[13]) == (
        *("left_shoulder_pan", "left_gripper"),
        *("right_shoulder_pan", "right_gripper"),
    )
    streams = [stream.name for stream in load_task("transfer_image").specification.observations]
    assert streams == ["joints", "left_gripper", "right_gripper", "scene", "left_wrist", "right_wrist"]
