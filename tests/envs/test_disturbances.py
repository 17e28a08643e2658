"""Disturbances have the severity that they state, follow from the seed, and are refused where they change nothing."""

from dataclasses import replace

import numpy as np
import pytest
from recede.envs.disturbances import KINDS, disturbed, randomised
from recede.envs.tasks.pick_place import PICK_PLACE, PICK_PLACE_IMAGE
from recede.specification import Stream
from toys import REACH

SEVERITIES = {
    "observation_noise": 0.01,
    "action_noise": 0.05,
    "push": 15.0,
    "camera": 0.05,
    "light": 0.5,
    "mass": 0.5,
    "friction": 0.95,  # a grip that does not slip feels none
    "colour": 0.1,
}
WHOLE = 60
"""Steps in which the expert carries the cube, so that its mass and friction matter."""
OF_IMAGES = ("camera", "light", "colour")


def rolled(task, seed=3, steps=20):
    """Observations of an episode whose actions hold the middle of their range, or which the expert carries out."""
    env = task.make()
    action = np.mean([task.specification.action.low, task.specification.action.high], axis=0)
    observation, info = env.reset(seed=seed)
    observations, expert = [observation], task.expert(seed) if steps == WHOLE else None
    for _ in range(steps):
        observation, *_, info = env.step(action if expert is None else expert(info["state"]))
        observations.append(observation)
        if info["success"]:
            break
    env.close()
    return observations


def flat(observations):
    return np.concatenate([np.ravel(values) for one in observations for values in one.values()]).astype(float)


@pytest.mark.parametrize("kind", SEVERITIES)
def test_an_episode_is_disturbed_as_its_seed_says(kind):
    task = PICK_PLACE_IMAGE if kind in OF_IMAGES else PICK_PLACE
    changed = disturbed(task, kind, SEVERITIES[kind])
    steps = WHOLE if kind in ("mass", "friction") else 2 if kind in OF_IMAGES else 20
    first = flat(rolled(changed, steps=steps))
    assert np.array_equal(first, flat(rolled(changed, steps=steps)))
    others = task, disturbed(task, kind, SEVERITIES[kind] / 2)
    for other in (rolled(changed, seed=4, steps=steps), *(rolled(other, steps=steps) for other in others)):
        assert not np.array_equal(first, flat(other))


def test_noise_of_observations_is_a_share_of_their_range():
    usual, noisy = (rolled(task, steps=100) for task in (PICK_PLACE, disturbed(PICK_PLACE, "observation_noise", 0.01)))
    for stream in PICK_PLACE.specification.observations[:3]:
        off = np.array([noisy[i][stream.name] - usual[i][stream.name] for i in range(100)])
        spread = off.std() / np.subtract(stream.high, stream.low).mean()
        assert 0.005 < spread < 0.015, stream.name
        assert all((one[stream.name] >= np.float32(stream.low)).all() for one in noisy)
        assert noisy[0][stream.name].dtype == stream.dtype


def test_the_expert_sees_the_undisturbed_state():
    env = disturbed(PICK_PLACE, "observation_noise", 0.1).make()
    observation, info = env.reset(seed=0)
    assert not np.array_equal(observation["cube"], info["state"]["cube"])
    assert np.array_equal(info["state"]["cube"], PICK_PLACE.make().reset(seed=0)[0]["cube"])


def test_pixels_stay_pixels():
    image = rolled(disturbed(PICK_PLACE_IMAGE, "observation_noise", 0.1), steps=1)[0]["scene"]
    assert image.dtype == np.uint8
    off = image.astype(float) - rolled(PICK_PLACE_IMAGE, steps=1)[0]["scene"]
    assert off[np.abs(off) < 60].std() == pytest.approx(25, abs=6)


def test_a_push_moves_the_hand_and_ends(monkeypatch):
    monkeypatch.setattr("recede.envs.disturbances.PUSH_SHARE", 1.0)
    usual, pushed = (rolled(task, steps=3) for task in (PICK_PLACE, disturbed(PICK_PLACE, "push", 15.0)))
    moved = np.linalg.norm(pushed[1]["gripper"][:2] - usual[1]["gripper"][:2])
    assert 0.005 < moved < 0.1  # 15 N against 480 N/m
    env = PICK_PLACE.make().unwrapped
    env.disturb("push", 15.0, np.random.default_rng(0))
    assert np.linalg.norm(env._data.xfrc_applied[:, :2]) == pytest.approx(15)
    env.disturb("push", 0.0, np.random.default_rng(0))
    assert not env._data.xfrc_applied.any()


def test_cameras_and_light_begin_from_where_they_are_in_each_episode():
    env = PICK_PLACE_IMAGE.make().unwrapped
    places, light = env._model.cam_pos.copy(), env._model.light_diffuse.copy()
    for seed in range(3):
        env.disturb("camera", 0.05, np.random.default_rng(seed))
        assert np.linalg.norm(env._model.cam_pos - places, axis=1) == pytest.approx([0.05, 0.05])
        env.disturb("light", 0.5, np.random.default_rng(seed))
        ratios = env._model.light_diffuse / light
        assert ((ratios >= 0.5) & (ratios <= 1.5)).all()


def test_what_changes_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'pusch': did you mean 'push'"):
        disturbed(PICK_PLACE, "pusch", 1.0)
    with pytest.raises(ValueError, match="changes only images, and task 'pick_place' has none"):
        disturbed(PICK_PLACE, "camera", 0.1)
    with pytest.raises(ValueError, match="has no method disturb"):
        disturbed(REACH, "push", 1.0)
    unlimited = replace(REACH.specification, action=Stream("action", REACH.specification.action.shape))
    with pytest.raises(ValueError, match="stream 'action' has no limits"):
        disturbed(replace(REACH, specification=unlimited), "action_noise", 0.1)
    assert disturbed(PICK_PLACE, "delay", 100.0) is PICK_PLACE
    assert PICK_PLACE.make_batch is not None
    assert disturbed(PICK_PLACE, "push", 1.0).make_batch is None  # or many worlds at once would be undisturbed
    assert set(SEVERITIES) | {"delay"} == set(KINDS)


def test_a_randomised_world_differs_by_its_seed_and_begins_from_the_usual_one():
    task = randomised(PICK_PLACE_IMAGE, ["mass", "friction", "colour", "camera", "light"])
    env, worlds = task.make(), []
    usual = PICK_PLACE_IMAGE.make().unwrapped._model
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        model = env.unwrapped._model
        cube = model.jnt_bodyid[model.jnt_type == 0]
        worlds.append(
            [model.body_mass[cube], model.geom_friction[:, 0], model.mat_rgba, model.cam_pos, model.light_diffuse]
        )
        worlds[-1] = [values.copy() for values in worlds[-1]]
        others = np.setdiff1d(np.arange(model.nbody), cube)
        assert np.array_equal(model.body_mass[others], usual.body_mass[others])
        share = model.body_mass[cube] / usual.body_mass[cube]
        assert np.allclose(model.body_inertia[cube], share[:, None] * usual.body_inertia[cube])
        assert (np.abs(share - 1) <= 0.5).all()
        assert (np.abs(model.geom_friction / usual.geom_friction - 1) <= 0.3 + 1e-9).all()
    for first, second, third in zip(*worlds, strict=True):
        assert np.array_equal(first, third)
        assert not np.array_equal(first, second)
    env.close()


def test_the_expert_succeeds_in_randomised_worlds():
    task, successes = randomised(PICK_PLACE, ["mass", "friction"]), 0
    env = task.make()
    for seed in range(10):
        (_, info), expert, is_over = env.reset(seed=seed), task.expert(seed), False
        while not is_over:
            _, _, terminated, truncated, info = env.step(expert(info["state"]))
            is_over = terminated or truncated
        successes += info["success"]
    assert successes >= 9


def test_colours_of_a_task_without_images_are_refused():
    with pytest.raises(ValueError, match="colour changes only images"):
        randomised(PICK_PLACE, ["colour"])
