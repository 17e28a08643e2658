"""Two arms and a camera of gym-aloha. Its images have 640 x 480 pixels, which take long, so episodes are short."""

import numpy as np
import pytest
from recede.envs.catalogue import load_task
from third_party import starts, tried

pytest.importorskip("gym_aloha", reason="make test-adapters installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = "make: {obs_type: pixels_agent_pos}, max_steps: 5"


def test_insertion():
    task = tried(f"gymnasium:gym_aloha:gym_aloha/AlohaInsertion-v0@{{{WORDS}, observe: [agent_pos]}}", steps=2)
    assert (task.specification.control_dt, task.specification.action.shape) == (0.02, (14,))


def test_images_of_transfer_cube_show_where_the_seed_puts_the_cube():
    task = load_task(f"gymnasium:gym_aloha:gym_aloha/AlohaTransferCube-v0@{{{WORDS}}}")
    assert [stream.name for stream in task.specification.observations] == ["agent_pos", "pixels_top"]
    first, other, again = starts(task, "pixels_top")
    assert (first.shape, np.std(first) > 10) == ((480, 640, 3), True)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
