"""Meta-World, which takes the seed of an episode by a method of the old gym, and draws its goals when it is made."""

import pytest
from third_party import played, tried

pytest.importorskip("metaworld", reason="make test-adapters installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = "gymnasium:metaworld:Meta-World/MT1@{{make: {{env_name: {}{}}}, hold: zero}}"


@pytest.mark.parametrize("name", ["reach-v3", "drawer-open-v3"])
def test_its_script_succeeds(name):
    from metaworld.policies import ENV_POLICY_MAP

    task = tried(WORDS.format(name, ", seed: 0"))
    assert (task.specification.control_dt, task.max_steps) == (0.0125, 500)
    script = ENV_POLICY_MAP[name]()
    for seed in range(3):
        assert played(task, lambda observation: script.get_action(observation["observation"]), seed=seed)[1]["success"]


def test_without_a_seed_for_its_goals_the_check_refuses_it():
    with pytest.raises(ValueError, match="must give the same episode to the last bit"):
        tried(WORDS.format("reach-v3", ""))
