"""`pick_place`: its physics, success and score, rendering, and scripted expert."""

import os
import subprocess
import sys
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from recede.envs.tasks.pick_place import CLEARANCE, PICK_PLACE, PickPlace, remaining_distance

HIGHEST = 0.09
OPEN, CLOSED = 0.08, 0.015


@pytest.fixture
def env():
    return PickPlace()


def state(*, gripper=(-0.15, 0.0, 0.08, 0.0, OPEN), cube=(-0.2, 0.0, 0.02), cube_yaw=0.0, target=(0.17, 0.0)):
    cube = np.array([*cube, np.cos(4 * cube_yaw), np.sin(4 * cube_yaw)])
    return {"state": {"gripper": np.array(gripper), "cube": cube, "target": np.array(target)}}


def run(env, seed, *, noise=0.0, meddle=None):
    """Run the expert; returns observations, rewards and the last info. meddle(step, observation) -> action or None."""
    expert, random = PICK_PLACE.expert(seed), np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    observations, rewards, done = [observation], [], False
    while not done:
        action = meddle(len(rewards), observation) if meddle else None
        action = expert(observation) if action is None else action
        executed = action + np.array([*random.normal(0, noise, 3), 0, 0])
        observation, reward, terminated, truncated, info = env.step(executed)
        observations.append(observation)
        rewards.append(reward)
        done = terminated or truncated
    return observations, rewards, info


def grasp(env, seed=0):
    """Run the expert until the cube is lifted; returns the action that holds it there."""
    expert = PICK_PLACE.expert(seed)
    observation, _ = env.reset(seed=seed)
    for _ in range(60):
        if observation["cube"][2] > 0.05:
            break
        observation, *_ = env.step(expert(observation))
    assert observation["cube"][2] > 0.05
    return np.array([*observation["gripper"][:2], HIGHEST, 0.0, CLOSED])


def side_of(observations):
    """The side of the wall that the cube passed: +1, -1, or 0 if neither is clear."""
    cubes = np.array([observation["cube"][:2] for observation in observations])
    crossing = cubes[np.argmax(cubes[:, 0] > 0)]
    return np.sign(crossing[1]) if abs(crossing[1]) > 0.12 else 0.0


# --- the physics


@pytest.mark.parametrize("seed", range(3))
def test_the_fingers_hold_the_cube_by_friction(env, seed):
    action = grasp(env, seed)
    for _ in range(5):
        observation, *_ = env.step(action)
    offset = observation["cube"][:3] - observation["gripper"][:3]
    for _ in range(30):  # three seconds
        observation, *_ = env.step(action)
    np.testing.assert_allclose(observation["cube"][:3] - observation["gripper"][:3], offset, atol=5e-4)
    assert observation["gripper"][4] == pytest.approx(0.04, abs=2e-3)  # the opening shows the cube between the fingers
    action[4] = OPEN
    for _ in range(10):
        observation, *_ = env.step(action)
    assert observation["cube"][2] == pytest.approx(0.02, abs=1e-3)


def test_fingers_that_miss_the_cube_close_completely(env):
    env.reset(options=state())
    for _ in range(20):
        observation, *_ = env.step([-0.1, 0.1, 0.05, 0.0, 0.0])
    assert abs(observation["gripper"][4]) < 2e-3


@pytest.mark.parametrize("height", [0.016, 0.05, HIGHEST])
@pytest.mark.parametrize("y", [-0.08, 0.0, 0.07])
@pytest.mark.parametrize("yaw", [0.0, 1.2])
def test_the_gripper_never_passes_the_wall(env, height, y, yaw):
    env.reset(options=state(gripper=(-0.1, y, height, yaw, 0.02), cube=(-0.2, 0.15, 0.02)))
    for _ in range(50):
        observation, *_ = env.step([0.26, y, height, yaw, 0.0])
    assert observation["gripper"][0] < 0
    assert abs(observation["gripper"][1] - y) < 0.03


@pytest.mark.parametrize("height", [0.05, HIGHEST])
def test_the_cube_is_not_carried_over_the_wall(env, height):
    action = grasp(env)
    action[2] = height
    for _ in range(10):
        env.step(action)
    action[0] = 0.26
    for _ in range(50):
        observation, *_ = env.step(action)
    assert observation["cube"][0] < 0
    assert observation["gripper"][0] < 0


def test_absolute_targets_are_reached_without_overshoot(env):
    env.reset(options=state(cube=(0.2, 0.15, 0.02)))
    target = np.array([-0.1, 0.05, 0.04, 0.3, 0.03])
    path = np.array([env.step(target)[0]["gripper"] for _ in range(20)])
    np.testing.assert_allclose(path[-1], target, atol=1e-3)
    start = np.array([-0.15, 0.0, 0.08, 0.0, OPEN])
    assert np.all((path - target) * np.sign(target - start) < 2e-3)


def test_divergence_is_an_error_until_a_reset(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log file
    env.reset(seed=0)
    env.unwrapped._data.qvel[0] = 1e12
    with pytest.raises(FloatingPointError, match="BADQVEL"):
        env.step([-0.15, 0, 0.08, 0, OPEN])
    _, _, info = run(env, 0)
    assert info["success"]


# --- observations, success and score


@pytest.mark.parametrize("yaw", np.linspace(-np.pi, np.pi, 13))
def test_a_cube_looks_the_same_every_quarter_turn(env, yaw):
    def observed_cube(angle):
        env.reset(options=state())
        half = angle / 2
        env.unwrapped._data.qpos[env.unwrapped._cube[3:]] = [np.cos(half), 0, 0, np.sin(half)]
        return env.unwrapped._state()["cube"]

    np.testing.assert_allclose(observed_cube(yaw)[3:], [np.cos(4 * yaw), np.sin(4 * yaw)], atol=1e-6)
    np.testing.assert_allclose(observed_cube(yaw + np.pi / 2), observed_cube(yaw), atol=1e-6)


def test_no_episode_starts_solved_and_starts_differ(env):
    starts = []
    for seed in range(200):
        observation, info = env.reset(seed=seed)
        assert (info["success"], info["score"]) == (False, 0.0)
        assert observation["cube"][0] < -0.1
        assert observation["target"][0] > 0.1
        starts.append(np.concatenate([observation["gripper"], observation["cube"], observation["target"]]))
    spread = np.std(starts, axis=0)
    assert np.all(np.delete(spread, 7) > 4e-3)  # all but the cube's height on the table
    assert np.abs(np.mean(starts, axis=0)[[1, 6, 11]]).max() < 0.01  # y: neither way round is favoured


@pytest.mark.parametrize(
    ("offset", "cube_height", "height", "is_success"),
    [
        (0.0, 0.02, 0.08, True),
        (0.029, 0.02, 0.08, True),
        (0.031, 0.02, 0.08, False),  # beside the middle
        (0.0, 0.02, 0.05, False),  # the fingers are still around it
        (0.0, 0.05, 0.08, False),  # in the air
    ],
)
def test_success_is_a_released_cube_at_rest_on_the_mark(env, offset, cube_height, height, is_success):
    place = np.array([0.17, 0.02])
    options = state(gripper=(*place, height, 0, OPEN), cube=(place[0], place[1] + offset, cube_height), target=place)
    _, info = env.reset(options=options)
    assert info["success"] == is_success
    assert (info["score"] == 1.0) == is_success
    assert info["score"] == 1.0 or info["score"] <= 0.9
    if is_success:
        assert env.step([*place, height, 0, OPEN])[2]


def test_a_cube_that_slides_across_the_mark_is_no_success(env):
    env.reset(options=state(gripper=(0.1, 0.1, 0.08, 0, OPEN), cube=(0.12, 0, 0.02)))
    env.unwrapped._data.qvel[env.unwrapped._cube_velocity[0]] = 1.0
    observation, _, terminated, _, _ = env.step([0.1, 0.1, 0.08, 0, OPEN])
    assert abs(observation["cube"][0] - 0.17) < 0.02
    assert not terminated


def test_rewards_add_up_to_the_score(env):
    _, rewards, info = run(env, 1)
    assert info["score"] == 1.0
    assert sum(rewards) == pytest.approx(1.0)
    assert min(rewards) > -0.02
    assert rewards[-1] == pytest.approx(0.1, abs=2e-3)


coordinate = st.floats(-0.25, 0.25, allow_nan=False)
points = st.tuples(coordinate, coordinate).map(np.array)


@given(points, points)
def test_the_remaining_distance_leads_around_the_wall(cube, target):
    way = remaining_distance(cube, target)
    assert way >= np.hypot(*(target - cube)) - 1e-12
    mirror = np.array([1.0, -1.0])
    assert way == pytest.approx(remaining_distance(cube * mirror, target * mirror))
    assert way == pytest.approx(remaining_distance(target, cube))
    corner = np.array([0.0, PickPlace.wall + CLEARANCE])
    assert way <= np.hypot(*(corner - cube)) + np.hypot(*(corner - target)) + 1e-12


@pytest.mark.parametrize("bad", [[0.0] * 4, np.zeros((1, 5)), [0, 0, 0, 0, np.nan]])
def test_an_impossible_action_is_refused(env, bad):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="5 finite numbers"):
        env.step(bad)


def test_misuse_is_refused(env):
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(5))
    with pytest.raises(ValueError, match="'goal'"):
        env.reset(options={"goal": 1})
    with pytest.raises(ValueError, match="'cube', 'target'"):
        env.reset(options={"state": {"gripper": np.zeros(5)}})


# --- rendering


def rendered(render_size=240):
    env = PickPlace("rgb_array", render_size=render_size)
    env.reset(seed=0)
    try:
        env.render()
    except OSError as error:
        pytest.skip(str(error))
    return env


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
def test_gymnasium_makes_and_checks_it():
    made = gymnasium.make("recede.envs.tasks.pick_place:recede/PickPlace-v0", render_mode="rgb_array", render_size=96)
    rendered().close()  # skips without EGL
    assert made.spec.id == "recede/PickPlace-v0"
    check_env(made.unwrapped)
    made.close()


@pytest.mark.parametrize("place", [(-0.2, 0.1), (-0.1, -0.15), (0.2, 0.0)])
def test_pixels_match_the_rendered_cube(place):
    env = rendered()
    env.reset(options=state(gripper=(0.0, 0.2, 0.09, 0, OPEN), cube=(*place, 0.02)))
    image = env.render().astype(int)
    orange = (image[..., 0] - image[..., 2] > 100) & (image[..., 1] - image[..., 2] > 60)  # the cap of the wall is red
    rows, columns = np.nonzero(orange)
    (column, row), *_ = env.pixels([[*place, 0.02, 0, 0]])
    assert abs(columns.mean() - column) < 4
    assert abs(rows.mean() - row) < 4
    env.close()


def test_a_preview_shows_the_step_that_follows_and_leaves_the_scene_alone():
    env, twin = rendered(), rendered()
    env.reset(seed=3)
    twin.reset(seed=3)
    action = env.action_space.low * 0.3 + env.action_space.high * 0.7
    shown = [env.preview(action, share) for share in (0, 0.5, 1)]
    assert all((one != other).any() for one, other in pairwise(shown))
    for one, other in zip(env.step(action)[0].values(), twin.step(action)[0].values(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(env.preview(action, 0), shown[-1])
    image = env.render()
    np.testing.assert_array_equal(image, twin.render())  # only previews are rough
    is_alike = np.abs(image.astype(int) - shown[-1]).max(axis=2) < 60
    assert is_alike.mean() > 0.95  # edges and shadows are rougher
    env.close()
    twin.close()


def test_the_renderer_is_opened_again_after_close():
    env = rendered()
    first = env.render()
    env.close()
    np.testing.assert_array_equal(env.render(), first)
    env.close()


WITHOUT_EGL = """
import ctypes

class CDLL(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if "EGL" in str(name):
            raise OSError(f"{name}: cannot open shared object file")
        super().__init__(name, *arguments, **options)

ctypes.CDLL = CDLL
"""


@pytest.mark.parametrize(
    ("renderer", "prelude", "words"),
    [
        ("", WITHOUT_EGL, ["rendering needs EGL", "cannot open shared object file", "libegl1", "libgl1-mesa-dri"]),
        ("disable", "", ["MUJOCO_GL=disable was asked for, and fails here", "unset it to use EGL"]),
        ("nonsense", "", ["MUJOCO_GL=nonsense was asked for", "RuntimeError: invalid value", "unset it to use EGL"]),
        ("glfw", "", ["MUJOCO_GL=glfw was asked for", "unset it to use EGL"]),
        ("osmesa", "", ["MUJOCO_GL=osmesa was asked for", "unset it to use EGL"]),
    ],
)
def test_without_its_renderer_everything_but_rendering_works(renderer, prelude, words):
    program = (
        "from recede.envs.tasks.pick_place import PickPlace\n"
        "import os\n"
        "env = PickPlace('rgb_array')\n"
        "env.reset(seed=0)\n"
        "env.step(env.action_space.sample())\n"
        "env.pixels([[0, 0, 0, 0, 0]])\n"
        "for attempt in range(2):\n"
        "    try:\n        env.render()\n"
        "    except OSError as error:\n        print(os.environ['MUJOCO_GL'], error)\n"
        "    else:\n        print('it renders')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MUJOCO_GL": renderer}
    command = [sys.executable, "-c", prelude + program]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    if renderer == "osmesa" and "it renders" in outcome.stdout:
        pytest.skip("this machine has libOSMesa")
    assert outcome.stdout.startswith(renderer or "disable")  # what was asked for stays as it was
    assert all(outcome.stdout.count(word) == 2 for word in words), outcome.stdout
    assert outcome.stderr == ""


# --- the expert


def test_the_expert_succeeds_on_both_sides_of_the_wall(env):
    sides, lengths = [], []
    for seed in range(30):
        observations, rewards, info = run(env, seed)
        assert info["success"], seed
        sides.append(side_of(observations))
        lengths.append(len(rewards))
    sides, lengths = np.array(sides), np.array(lengths)
    assert set(sides) == {-1.0, 1.0}
    assert 45 <= lengths.min() <= lengths.max() <= 90
    assert lengths[sides > 0].mean() == pytest.approx(lengths[sides < 0].mean(), rel=0.05)  # equally good ways


def test_the_expert_takes_either_side_equally_often():
    num_left = sum(PICK_PLACE.expert(seed)._side > 0 for seed in range(1000))
    assert abs(num_left - 500) < 4 * np.sqrt(250)  # four standard deviations


def test_the_expert_depends_only_on_the_observation(env):
    observations, _, _ = run(env, 3)
    expert = PICK_PLACE.expert(3)
    forth = [expert(observation) for observation in observations]
    back = [expert(observation) for observation in observations[::-1]]
    np.testing.assert_array_equal(forth, back[::-1])


def test_the_expert_stays_on_the_side_where_the_gripper_is(env):
    experts = [next(e for e in map(PICK_PLACE.expert, range(100)) if e._side == side) for side in (-1, 1)]
    held = state(gripper=(0.0, 0.19, 0.07, 0, 0.04), cube=(0.0, 0.19, 0.07))
    observation, _ = env.reset(options=held)
    for expert in experts:
        assert expert(observation)[0] > 0.005
        assert expert(observation)[1] > 0.15


def test_the_expert_moves_in_small_steps_within_the_limits(env):
    low, high = np.array(PICK_PLACE.specification.action.low), np.array(PICK_PLACE.specification.action.high)
    for seed in range(5):
        expert = PICK_PLACE.expert(seed)
        observations, _, _ = run(env, seed)
        actions = np.array([expert(observation) for observation in observations[:-1]])
        assert np.all((low - 1e-6 <= actions) & (actions <= high + 1e-6))
        grippers = np.array([observation["gripper"] for observation in observations])
        assert np.abs(np.diff(grippers[:, :3], axis=0)).max() < 0.03  # 0.3 m/s
        assert np.abs(np.diff(grippers[:, :3], n=2, axis=0)).max() < 0.02  # 2 m/s^2


@pytest.mark.parametrize("noise", [0.002, 0.005])
def test_the_expert_recovers_from_noise(env, noise):
    assert all(run(env, seed, noise=noise)[2]["success"] for seed in range(8))


def test_the_expert_regrasps_a_dropped_cube(env):
    for seed in range(6):

        def drop(step, observation):
            if 25 <= step < 31:  # on the way round
                return np.array([*observation["gripper"][:4], OPEN])
            return None

        observations, _, info = run(env, seed, meddle=drop)
        assert min(observation["cube"][2] for observation in observations[27:33]) < 0.025
        assert info["success"], seed


def test_the_expert_corrects_a_cube_released_beside_the_mark(env):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        place = np.array([0.17, 0.0]) + 0.04 * rng.choice([-1, 1], 2)
        observation, _ = env.reset(options=state(gripper=(*place, 0.03, 0, OPEN), cube=(*place, 0.02)))
        expert, terminated, truncated = PICK_PLACE.expert(seed), False, False
        while not (terminated or truncated):
            observation, _, terminated, truncated, _ = env.step(expert(observation))
        assert terminated


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_the_expert_succeeds_nearly_always(env, noise):
    outcomes = [run(env, seed, noise=noise)[2]["success"] for seed in range(250)]
    assert np.mean(outcomes) >= 0.98
