"""Every task keeps the promises of `recede.envs.task`."""

import copy
import importlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from recede.envs.check import check_task
from recede.envs.gymnasium_adapter import box
from recede.envs.tasks.pick_place import PICK_PLACE, PICK_PLACE_IMAGE


def pusht(name):
    pytest.importorskip("gym_pusht", reason="Push-T needs the extra 'pusht'", exc_type=ImportError)
    return getattr(importlib.import_module("recede.envs.tasks.pusht"), name)


TASKS = {
    "pick_place": lambda: PICK_PLACE,
    "pick_place_image": lambda: PICK_PLACE_IMAGE,
    "pusht": lambda: pusht("PUSHT"),
    "pusht_image": lambda: pusht("PUSHT_IMAGE"),
}


@pytest.fixture(params=TASKS)
def task(request):
    task = TASKS[request.param]()
    assert task.name == request.param
    if any(stream.is_image for stream in task.specification.observations):
        try:
            task.make().reset(seed=0)
        except OSError as error:
            pytest.skip(str(error))
    return task


@pytest.fixture
def env(task):
    made = task.make()
    yield made
    made.close()


@pytest.fixture
def camera(task):
    made = task.make(render_mode="rgb_array")
    made.reset(seed=0)
    try:
        made.render()
    except OSError as error:
        pytest.skip(str(error))
    yield made
    made.close()


def limits(stream):
    space = box(stream)
    return space.low, space.high


def random_actions(task, num_steps, seed=0):
    """A random walk within the limits; it is smoother than independent draws and moves objects."""
    low, high = limits(task.specification.action)
    random = np.random.default_rng(seed)
    shares = np.clip(0.5 + np.cumsum(random.normal(0, 0.08, (num_steps, len(low))), axis=0), 0, 1)
    return (low + shares * (high - low)).astype(np.float32)


def steps_of(env, actions):
    """The results of `actions` as one flat list of bytes and numbers, to compare bit by bit."""
    outcomes = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        outcomes += [(name, value.tobytes()) for name, value in observation.items()]
        outcomes += [reward, terminated, truncated, info["success"], info["score"]]
        if terminated or truncated:
            break
    return outcomes


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")  # our actions are in metres and radians
def test_it_passes_the_checker_of_gymnasium(env):
    check_env(env, skip_render_check=True)


def test_it_passes_check_task(task):
    report = check_task(task)
    assert "seeds 0 and 1 differ" in report
    assert "are clipped to their limits" in report
    assert "480 x 480 pixels" in report
    assert ("expert" in report) == (task.expert is not None)
    assert report.count("actions are not drawn") == 0
    assert report.count("also between two steps") == 1


def test_another_seed_passes_too(task):
    if not any(stream.is_image for stream in task.specification.observations):  # cameras do not depend on seeds
        check_task(task, seed=100_000, steps=60)


def test_an_episode_does_not_begin_with_success(env):
    assert not any(env.reset(seed=seed)[1]["success"] for seed in (*range(5), *range(100_000, 100_005)))


def test_spaces_are_the_finite_limits_of_the_specification(task, env):
    spaces = {**env.observation_space.spaces, "action": env.action_space}
    assert set(spaces) == {stream.name for stream in task.specification.streams}
    for stream in task.specification.streams:
        low, high = (0, 255) if stream.is_image else (np.array(stream.low, stream.dtype), np.array(stream.high))
        space = spaces[stream.name]
        assert (space.shape, space.dtype.name) == (stream.shape, stream.dtype)
        assert np.all(space.low == low)
        assert np.all(space.high == np.asarray(high, stream.dtype))
        assert np.isfinite(low).all()
        assert np.isfinite(high).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_refused(env, bad):
    env.reset(seed=0)
    action = env.action_space.low.copy()
    action[-1] = bad
    with pytest.raises(ValueError, match="finite"):
        env.step(action)


def test_a_reset_without_seed_draws_another_start(env):
    first, _ = env.reset(seed=0)
    second, _ = env.reset()
    assert any(np.any(first[name] != second[name]) for name in first)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_mid_episode_continues_identically(task, env, copied):
    actions = random_actions(task, 60)
    env.reset(seed=2)
    steps_of(env, actions[:20])
    twin = copied(env)
    ahead = steps_of(twin, actions[20:])
    assert steps_of(env, actions[20:]) == ahead  # nor has the twin's progress touched the original
    (after, _), (twin_after, _) = env.reset(), twin.reset()
    for name in after:
        np.testing.assert_array_equal(after[name], twin_after[name])


def test_an_episode_is_truncated_at_max_steps(task, env):
    env.reset(seed=0)
    low, high = limits(task.specification.action)
    for step in range(1, task.max_steps + 1):
        _, _, terminated, truncated, _ = env.step((low + high) / 2)
        assert not terminated
        assert truncated == (step == task.max_steps)
    env.reset(seed=0)
    assert not env.step((low + high) / 2)[3]


def test_a_mirrored_episode_follows_the_same_physics(task, env):
    """The mirror image of an episode equals the episode from the mirrored start with the mirrored actions."""
    if task.mirror is None or task.restore is None:
        pytest.skip("the task has no mirror, or restores no states to begin with in it")
    assert set(task.mirror) == {stream.name for stream in task.specification.streams}
    start, _ = env.reset(seed=11)
    actions = random_actions(task, 25, seed=1)
    shown_start = {name: task.mirror[name](value[None])[0] for name, value in start.items()}
    shown_actions = task.mirror["action"](actions)
    env.reset(options=task.restore(start))
    observations = [env.step(action)[0] for action in actions]
    env.reset(options=task.restore(shown_start))
    mirrored_observations = [env.step(action)[0] for action in shown_actions]
    for stream in task.specification.observations:
        rows, expected = (
            np.stack([step[stream.name] for step in steps]) for steps in (mirrored_observations, observations)
        )
        scale = 1e-3 * (np.array(stream.high) - stream.low)
        assert np.all(np.abs(rows - task.mirror[stream.name](expected)) < scale), stream.name
        assert np.any(np.abs(rows - expected) > scale), stream.name  # which is not what was seen before it


@pytest.mark.parametrize("num_moves", [0, 20])
def test_a_robot_that_is_commanded_its_position_stays_there(task, env, num_moves):
    observation, _ = env.reset(seed=4)
    low, high = limits(task.specification.action)
    for action in random_actions(task, num_moves):
        observation = env.step(action)[0]
    home = observation[task.position]
    assert (home.shape, home.dtype) == (low.shape, low.dtype)
    away = [np.abs(env.step(home)[0][task.position] - home) / (high - low) for _ in range(20)]
    assert np.max(away) < 0.05  # it needs its way to brake
    assert np.max(away[-1]) < 0.01


@pytest.mark.parametrize(("position", "message"), [("griper", "did you mean 'gripper'"), ("target", r"shape \(5,\)")])
def test_an_impossible_position_is_refused(position, message):
    with pytest.raises(ValueError, match=message):
        replace(PICK_PLACE, position=position)


def test_it_renders_only_on_request(env):
    env.reset(seed=0)
    assert env.render() is None
    assert env.render_mode is None


def test_the_image_shows_the_scene_and_where_actions_point(task, camera):
    image = camera.render()
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.std() > 5
    assert camera.metadata["render_fps"] == pytest.approx(1 / task.specification.control_dt)
    actions = random_actions(task, 30)
    points = camera.pixels(actions)
    assert points.shape == (30, 2)
    assert np.all((points > -0.1 * image.shape[0]) & (points < 1.1 * np.array(image.shape[1::-1])))
    for action in actions:
        camera.step(action)
    assert np.any(camera.render() != image)


def test_an_unknown_render_mode_is_refused(task):
    with pytest.raises(ValueError, match="rgb_array"):
        task.make(render_mode="human")
