import copy
import pickle
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from recede.envs.gymnasium_adapter import GymnasiumAdapter, box
from recede.specification import Specification, Stream

ACTION = Stream("action", (1,), units="N m", low=-2, high=2)
ANGLE = Stream("angle", (2,), units="1", labels=("cos", "sin"), low=-1, high=1)
VELOCITY = Stream("velocity", (1,), units="rad/s", low=-8, high=8)
PENDULUM = Specification((ANGLE, VELOCITY), ACTION, control_dt=0.05)


def observe(raw, info):
    return {"angle": raw[:2], "velocity": raw[2:]}


def judge(raw, reward, terminated, info, threshold=0.99):
    return raw[0] > threshold, (raw[0] + 1) / 2


def pendulum(*, max_steps=200, **changes):
    inner = gymnasium.make("Pendulum-v1", max_episode_steps=1000)
    arguments = {"specification": PENDULUM, "observe": observe, "judge": judge, **changes}
    return GymnasiumAdapter(inner, max_steps=max_steps, **arguments)


@pytest.mark.filterwarnings("ignore:.*environment not having a spec:UserWarning")
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space:UserWarning")
def test_it_passes_the_checker_of_gymnasium():
    check_env(pendulum())


def test_observations_are_those_of_the_inner_environment():
    adapted, inner = pendulum(), gymnasium.make("Pendulum-v1")
    (observation, _), (raw, _) = adapted.reset(seed=5), inner.reset(seed=5)
    for action in ([1.5], [-0.5], [2.0]):
        np.testing.assert_array_equal(observation["angle"], raw[:2])
        np.testing.assert_array_equal(observation["velocity"], raw[2:])
        assert observation in adapted.observation_space
        observation, reward, *_ = adapted.step(action)
        raw, expected, *_ = inner.step(np.array(action, np.float32))
        assert reward == expected


def test_observations_are_not_overwritten_by_the_next_step():
    buffer = np.zeros(3, np.float32)

    def reuse(raw, info):
        buffer[:] = raw
        return {"angle": buffer[:2], "velocity": buffer[2:]}

    env = pendulum(observe=reuse)
    first, _ = env.reset(seed=5)
    kept = first["angle"].copy()
    env.step([1.5])
    np.testing.assert_array_equal(first["angle"], kept)


def test_actions_are_clipped_to_their_limits():
    beyond, within = pendulum(), pendulum()
    beyond.reset(seed=1), within.reset(seed=1)
    a, b = beyond.step(np.array([50.0]))[0], within.step(np.array([2.0]))[0]
    np.testing.assert_array_equal(a["velocity"], b["velocity"])


@pytest.mark.parametrize("action", [[1.0, 2.0], 1.0, [np.nan], [np.inf]])
def test_an_impossible_action_is_refused(action):
    env = pendulum()
    env.reset(seed=1)
    with pytest.raises(ValueError, match=r"an action must be \(1,\) finite numbers"):
        env.step(action)


def test_an_episode_is_truncated_after_max_steps_and_terminated_by_success():
    env = pendulum(max_steps=3, judge=partial(judge, threshold=2.0))
    env.reset(seed=0)
    assert [env.step([0.0])[3] for _ in range(3)] == [False, False, True]
    env.reset(seed=0)
    assert not env.step([0.0])[3]  # counted from the reset

    env = pendulum(max_steps=1, judge=lambda raw, reward, terminated, info: (True, 1.0))
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step([0.0])
    assert (terminated, truncated, info["success"], info["score"]) == (True, False, True, 1.0)


def test_the_outcome_is_known_after_reset():
    env = pendulum(judge=lambda raw, reward, terminated, info: (False, 0.25))
    _, info = env.reset(seed=0)
    assert (info["success"], info["score"]) == (False, 0.25)


def test_resets_without_a_seed_continue_the_random_sequence():
    env = pendulum()
    first = [env.reset(seed=7)[0]["angle"], env.reset()[0]["angle"], env.reset()[0]["angle"]]
    again = [env.reset(seed=7)[0]["angle"], env.reset()[0]["angle"], env.reset()[0]["angle"]]
    np.testing.assert_array_equal(first, again)
    assert len({tuple(angle) for angle in first}) == 3


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"angle": [0, 1.0]}, "every stream of the specification, 'velocity' is missing"),
        ({"angle": [0, 1.0], "velocity": [0.0], "angel": [0.0]}, "'angel'.*'angle'"),
        ({"angle": [0.0], "velocity": [0.0]}, r"return 'angle' as \(2,\) in float32, got \(1,\)"),
        ({"angle": [0, 1j], "velocity": [0.0]}, "'angle' as .* in float32, got .* in complex128"),
    ],
)
def test_observations_that_do_not_fit_are_refused_at_reset(returned, message):
    with pytest.raises(ValueError, match=message):
        pendulum(observe=lambda raw, info: returned).reset(seed=0)


def test_float_images_are_not_truncated_to_black():
    image = Specification((Stream("image", (4, 4, 3), "uint8"),), ACTION, control_dt=0.05)
    env = pendulum(specification=image, observe=lambda raw, info: {"image": np.full((4, 4, 3), 0.5)})
    with pytest.raises(ValueError, match=r"in uint8, got .* in float64"):
        env.reset(seed=0)


def test_a_score_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\], judge gave 1.5: scale it"):
        pendulum(judge=lambda raw, reward, terminated, info: (False, 1.5)).reset(seed=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_mid_episode_continues_identically(copied):
    env = pendulum()
    env.reset(seed=3)
    env.step([1.0])
    twin = copied(env)
    for action in ([2.0], [-1.0]):
        result, twin_result = env.step(action), twin.step(action)
        np.testing.assert_array_equal(result[0]["velocity"], twin_result[0]["velocity"])
        assert result[1] == twin_result[1]


def test_a_preview_is_that_of_the_inner_environment_within_the_limits():
    env = pendulum()
    assert env.preview is None
    env.env.preview = lambda action, share: (action.tolist(), share)
    assert env.preview([99.0], 0.5) == (env.action_space.high.tolist(), 0.5)


def test_pixels_are_those_of_the_given_function():
    env = pendulum(pixels=lambda actions: np.repeat(actions, 2, axis=1) * 10)
    np.testing.assert_array_equal(env.pixels(np.array([[1.0], [2.0]])), [[10, 10], [20, 20]])
    with pytest.raises(ValueError, match="pixels="):
        pendulum().pixels(np.zeros((1, 1)))


def test_the_space_of_a_stream_without_limits_is_that_of_its_dtype():
    image = box(Stream("image", (2, 2, 3), "uint8"))
    assert (image.low.min(), image.high.max(), image.dtype) == (0, 255, np.uint8)
    assert not box(Stream("force", (2,))).is_bounded()
    assert box(ACTION) == gymnasium.spaces.Box(-2, 2, (1,))


def test_pixels_in_a_stream_are_those_of_the_given_function_or_unknown():
    actions = np.array([[1.0], [2.0]])
    env = pendulum(pixels_in=lambda stream, rows: np.repeat(rows, 2, axis=1) * len(stream))
    np.testing.assert_array_equal(env.pixels_in("eye", actions), [[3, 3], [6, 6]])
    assert pendulum().pixels_in("eye", actions) is None
