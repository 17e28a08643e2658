"""Push-T of gym-pusht by its id, with images."""

import numpy as np
import pytest
from recede.envs.catalogue import load_task
from third_party import played, tried

pytest.importorskip("gym_pusht", reason="make test-adapters installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ID = "gymnasium:gym_pusht:gym_pusht/PushT-v0"
WORDS = "dt: 0.1, score: reward, position: agent_pos, max_steps: 60"


def test_push_t():
    task = tried(f"{ID}@{{{WORDS}, make: {{obs_type: pixels_agent_pos}}, observe: [agent_pos]}}")
    assert task.specification.action.high == (512.0, 512.0)


def test_its_images_show_the_scene():
    task = load_task(f"{ID}@{{{WORDS}, make: {{obs_type: pixels_agent_pos}}}}")
    observation, *_ = played(task, lambda observation: observation["agent_pos"])
    assert observation["pixels"].shape == (96, 96, 3)
    assert np.std(observation["pixels"]) > 10


def test_its_step_is_not_guessed():
    with pytest.raises(ValueError, match=r"its dt is 0.01 but its render_fps is 0.1\)"):
        load_task(ID)
