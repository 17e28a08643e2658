"""Two arms and a camera of gym-aloha. An image of 640 x 480 pixels takes a fifth of a second, so episodes are short."""

import numpy as np
import pytest
from recede.envs.catalogue import load_task
from third_party import played, tried

pytest.importorskip("gym_aloha", reason="make test-adapters installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", ["Insertion", "TransferCube"])
def test_aloha(name):
    words = "{make: {obs_type: pixels_agent_pos}, observe: [agent_pos], max_steps: 10}"
    task = tried(f"gymnasium:gym_aloha:gym_aloha/Aloha{name}-v0@{words}", steps=4)
    assert (task.specification.control_dt, task.specification.action.shape) == (0.02, (14,))


def test_its_images_show_the_scene():
    task = load_task(
        "gymnasium:gym_aloha:gym_aloha/AlohaInsertion-v0@{make: {obs_type: pixels_agent_pos}, max_steps: 3}"
    )
    assert [stream.name for stream in task.specification.observations] == ["agent_pos", "pixels_top"]
    observation, *_ = played(task, lambda observation: observation["agent_pos"])
    assert observation["pixels_top"].shape == (480, 640, 3)
    assert np.std(observation["pixels_top"]) > 10
