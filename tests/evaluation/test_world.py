"""Results are compared only if their episodes have the same world, whatever it lies in."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from recede.envs.tasks.pick_place import PICK_PLACE, PICK_PLACE_IMAGE, PickPlace
from recede.evaluation.world import world, world_differences
from toys import REACH


class Slippery(PickPlace):
    """`pick_place` with another physics under the same name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._model.geom_friction[:, 0] *= 0.5


class Failing(PickPlace):
    """A `pick_place` that fails in its third step."""

    def step(self, action):
        if self._steps == 2:
            raise RuntimeError("the socket is closed")
        return super().step(action)


def noted(task):
    return json.loads(json.dumps(world(task)))


@pytest.fixture(scope="module")
def usual():
    return noted(PICK_PLACE)


def test_a_task_is_always_the_same_world(usual):
    assert world_differences(usual, noted(PICK_PLACE)) == []
    assert world_differences(usual, noted(replace(PICK_PLACE, name="moved"))) == []
    assert set(usual["probe"]) == {"gripper", "cube", "target", "offset"}
    assert "mujoco" in usual["versions"]


def test_policies_may_observe_other_streams_of_the_same_world(usual):
    images = world(PICK_PLACE_IMAGE)
    assert world_differences(usual, images) == []
    assert len(images["probe"]["scene"]) == 3  # the mean of each channel


def test_another_physics_under_the_same_name_is_named(usual):
    first, *_ = world_differences(usual, noted(replace(PICK_PLACE, make=Slippery)))
    assert first.startswith("'gripper' is [")
    assert first.endswith("after the same 10 actions from seed 0")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_steps": 100}, "max_steps is 100 and 200"),
        ({"control_dt": 0.2}, "control_dt is 0.2 and 0.1"),
        ({"versions": {"mujoco": "3.0"}}, "version of mujoco is 3.0 and"),
        ({"probe": None}, "failed when it was tried"),
        ({"probe": {"other": [1.0]}}, "no stream in common"),
        ({"probe": {"cube": [1.0]}}, "'cube' has 1 and 5 numbers"),
    ],
)
def test_every_difference_is_named(usual, change, words):
    differences = world_differences(usual | change, usual)
    assert len(differences) == 1
    assert words in differences[0]


def test_other_actions_are_another_world(usual):
    action = usual["action"] | {"high": [9.0] * 5}
    assert world_differences(usual | {"action": action}, usual) == [
        f"action high is {[9.0] * 5} and {usual['action']['high']}"
    ]
    assert any("action shape is" in difference for difference in world_differences(noted(REACH), usual))


def test_a_world_that_fails_is_noted_and_rounding_is_no_difference(usual):
    assert world(replace(PICK_PLACE, make=partial(Failing)))["probe"] is None
    rounded = {name: (np.array(values) + 1e-6).tolist() for name, values in usual["probe"].items()}
    assert world_differences(usual | {"probe": rounded}, usual) == []
