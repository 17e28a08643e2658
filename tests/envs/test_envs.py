"""Every task keeps the promises of `recede.envs.task`."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from recede.envs.arm import JOINTS
from recede.envs.catalogue import TASKS, load_task
from recede.envs.check import check_task
from recede.envs.faults import RunningEnv
from recede.envs.gymnasium_adapter import box
from recede.envs.physics import mujoco
from recede.envs.tasks.pick_place import PICK_PLACE
from recede.recording.scripted import demonstrate

EXAMPLES = {"pusht_image", "pick_place_arm", "reach_arm_joints"}
"""The tasks with images, and the tasks of one arm, that the quick tests run in full.

The code of the others is the same, and images and arms take time.
"""


def marked(names, *examples):
    """The names as parameters: variants of other tasks are slow, but for these examples."""
    variants = {name for name in names if "_image" in name or "_arm" in name or name == "sort_reworded"}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in variants - {*examples} else []) for name in names]


@pytest.fixture(params=marked(TASKS, *EXAMPLES))
def task(request):
    return ready(request.param)


def ready(name):
    """The task; the test is skipped if this machine cannot run it."""
    if name.startswith("pusht"):
        pytest.importorskip("gym_pusht", reason="Push-T needs the extra 'pusht'", exc_type=ImportError)
    if "_arm" in name and "joints" not in name:
        pytest.importorskip("mink", reason="an arm that is commanded by poses needs the extra 'arm_ik'")
    task = load_task(name)
    assert task.name == name
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


@pytest.mark.slow
def test_it_passes_check_task(task):
    report = check_task(task)
    assert "seeds 0 and 1 differ" in report
    assert "are clipped to their limits" in report
    assert "480 x 480 pixels" in report
    assert ("expert" in report) == (task.expert is not None)
    assert report.count("actions are not drawn") == 0
    assert report.count("also between two steps") == 1


@pytest.mark.slow
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
@pytest.mark.parametrize("task", marked(TASKS, *EXAMPLES, "pick_place_image"), indirect=True)
def test_a_copy_in_mid_episode_continues_identically(task, env, copied):
    actions = random_actions(task, 15)
    env.reset(seed=2)
    steps_of(env, actions[:5])
    twin = copied(env)
    ahead = steps_of(twin, actions[5:])
    assert steps_of(env, actions[5:]) == ahead  # nor has the twin's progress touched the original
    (after, _), (twin_after, _) = env.reset(), twin.reset()
    for name in after:
        np.testing.assert_array_equal(after[name], twin_after[name])


@pytest.mark.slow
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
        scale, mirrored = 1e-3 * (np.array(stream.high) - stream.low), task.mirror[stream.name](expected)
        assert np.all(np.abs(rows - mirrored) < scale), stream.name
        if stream.name not in ("goal", "drawer"):  # which have no left and no right
            assert np.any(np.abs(rows - expected) > scale), stream.name  # which is not what was seen before it


@pytest.mark.parametrize("num_moves", [0, 20])
def test_a_robot_that_is_commanded_its_position_stays_there(task, env, num_moves):
    observation, _ = env.reset(seed=4)
    low, high = limits(task.specification.action)
    for action in random_actions(task, num_moves, seed=3):  # on which no robot leans on anything
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
    are_shown = ((points > -0.1 * image.shape[0]) & (points < 1.1 * np.array(image.shape[1::-1]))).all(1)
    are_of_joints = task.position == "joints"  # which may bring the hand out of the picture
    assert are_shown.mean() > 0.5 if are_of_joints else are_shown.all()
    for action in actions:
        camera.step(action)
    assert np.any(camera.render() != image)


PLAIN = [name for name in TASKS if not name.endswith("_image")]
SCRIPTED = [name for name in PLAIN if not name.startswith("pusht")]
"""The tasks with an expert; what it does depends on no image."""


LEVER = 0.3
"""The distance of an arm's hand from its joints (m), by which noise of the one is noise of the others."""


def outcomes(task, seeds, *, noise=0.0):
    """Whether the expert succeeds in the episode of each seed, with noise (m) on the positions that it commands."""
    env, successes, labels = task.make(), [], task.specification.action.labels
    scales = np.array([1.0 if label in "xyz" else (label in JOINTS) / LEVER for label in labels])
    for seed in seeds:
        expert, random, is_over = task.expert(seed), np.random.default_rng(seed), False
        _, info = env.reset(seed=seed)
        while not is_over:
            action = expert(info["state"]) + random.normal(0, noise, len(labels)) * scales
            _, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
        successes.append(info["success"])
    return successes


@pytest.mark.parametrize("name", marked(SCRIPTED, *EXAMPLES))
def test_the_expert_succeeds(name):
    assert all(outcomes(ready(name), range(100, 102)))
    assert all(outcomes(ready(name), range(104, 106), noise=0.003))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize("name", SCRIPTED)
def test_the_expert_succeeds_in_95_of_100_episodes(name, noise):
    assert sum(outcomes(ready(name), range(100), noise=noise)) >= 95


@pytest.mark.parametrize("name", SCRIPTED)
def test_an_expert_acts_by_its_seed_and_observation_alone(name):
    task, env = ready(name), ready(name).make()
    states = [env.reset(seed=seed)[1]["state"] for seed in range(5)]
    expert, twin = task.expert(0), task.expert(0)
    forth, back = [expert(state) for state in states], [twin(state) for state in states[::-1]]
    np.testing.assert_array_equal(forth, back[::-1])
    assert any((task.expert(seed)(states[0]) != forth[0]).any() for seed in range(1, 4))


def extremes(low, high, random):
    """Draws each dimension of an action from its ends."""
    return np.where(random.random(low.shape) < 0.5, low, high)


@pytest.mark.parametrize("kind", ["held still", "random", "extreme"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", marked(PLAIN))  # it is judged in the same way with every robot
def test_nothing_is_won_without_skill(name, kind, seed):
    task = ready(name)
    env, (low, high) = task.make(), limits(task.specification.action)
    observation, _ = env.reset(seed=seed)
    walk, random = random_actions(task, task.max_steps, seed), np.random.default_rng(seed)
    home = observation[task.position]
    for step in range(task.max_steps):
        action = {"held still": home, "random": walk[step], "extreme": extremes(low, high, random)}[kind]
        _, _, terminated, truncated, info = env.step(action)
        assert not info["success"]
    assert truncated
    assert not terminated


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", marked(PLAIN, *EXAMPLES))
def test_the_physics_bear_extreme_actions(name, count):
    """A warning of MuJoCo is a FloatingPointError of the step."""
    task = ready(name)
    env, (low, high), random = task.make(), limits(task.specification.action), np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(count):
        observation, *_ = env.step(extremes(low, high, random))
        for stream in task.specification.observations:
            assert np.isfinite(observation[stream.name]).all()


@pytest.mark.parametrize("name", marked(SCRIPTED, *EXAMPLES))
def test_recorded_actions_lead_to_the_recorded_observations(name):
    task = ready(name)
    streams, is_success, sentence, _ = demonstrate(task, RunningEnv(task.make, task.specification), 5)
    env = task.make()
    observation, info = env.reset(seed=5)
    for step, action in enumerate(streams["action"]):
        for stream in task.specification.observations:
            np.testing.assert_allclose(observation[stream.name], streams[stream.name][step], rtol=0, atol=1e-6)
        observation, _, _, _, info = env.step(action)
    assert info["success"] == is_success is True
    assert info["sentence"] == sentence != ""


@pytest.mark.parametrize(
    "name",
    marked([f"{name}_image" for name in SCRIPTED if f"{name}_image" in TASKS], "pick_place_image"),
)
def test_a_task_with_images_is_the_same_task(name):
    """It is judged by the same state, and its images differ between starts."""
    task, plain = ready(name), load_task(name.removesuffix("_image"))
    env, twin = task.make(), plain.make()
    pictures = []
    for seed in range(2):
        observation, info = env.reset(seed=seed)
        _, other = twin.reset(seed=seed)
        pictures.append(observation["scene"])
        for _ in range(2):
            assert {n: v.tobytes() for n, v in info["state"].items()} == {
                n: v.tobytes() for n, v in other["state"].items()
            }
            action = plain.expert(seed)(other["state"])
            observation, *_, info = env.step(action)
            *_, other = twin.step(action)
    assert (pictures[0] != pictures[1]).any()
    for stream in task.specification.observations:
        assert observation[stream.name].shape == stream.shape
        assert not stream.is_image or observation[stream.name].std() > 5
    env.close()
    assert "offset" not in observation  # the cameras show it


PENETRATION = 2e-3
"""How deep (m) bodies may press into each other in any physics step while an expert acts.

The fingers close at up to 0.3 m/s, so in a physics step of 5 ms they are 1.5 mm in a cube before a contact exists; the
deepest contact of all experts is 1.7 mm. At rest it is below 1 mm.
"""


@pytest.mark.parametrize("name", marked(SCRIPTED, *EXAMPLES))
def test_bodies_hardly_penetrate_while_the_expert_acts(name):
    task = ready(name)
    env, expert, deepest, is_over = task.make(), task.expert(1), 0.0, False
    _, info = env.reset(seed=1)
    model, data, state = env._model, env._data, info["state"]
    while not is_over:
        data.ctrl[:] = env.controls(data.qpos, expert(state))
        for _ in range(env.substeps):
            mujoco.mj_step(model, data)
            deepest = max(deepest, *-data.contact.dist, 0.0)
        state = env._state()
        is_over = env.is_solved(state, data.qvel)
    assert deepest < PENETRATION
    assert deepest > 0 or name.startswith("reach")


def test_an_unknown_render_mode_is_refused(task):
    with pytest.raises(ValueError, match="rgb_array"):
        task.make(render_mode="human")
