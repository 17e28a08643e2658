import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recede.datasets.formats.replay_buffer import ReplayBuffer
from recede.envs.tasks.pusht import (
    KEYPOINTS,
    MAX_STEPS,
    PUSHT,
    PUSHT_IMAGE,
    agent_position,
    block_keypoints,
    block_offset,
    fitted_pose,
)
from recede.evaluation.replay import replay

STORE = "RECEDE_PUSHT_STORE"


@pytest.fixture
def gym_pusht():
    return pytest.importorskip("gym_pusht.envs", reason="needs the extra: pip install 'recede[pusht]'")


@pytest.fixture(scope="module")
def recordings():
    if STORE not in os.environ:
        pytest.skip(f"needs the published demonstrations: set {STORE} to the folder pusht_cchi_v7_replay.zarr")
    return ReplayBuffer(Path(os.environ[STORE]), PUSHT.specification, PUSHT.sources)


def follow_block(env, observation, rng):
    """An action near the block, so that the agent touches it; observation: of `PUSHT`."""
    middle = observation["block_keypoints"].reshape(9, 2).mean(0)
    return (middle + rng.normal(0, 60, 2)).astype(np.float32)


def episode(env, seed, steps=80):
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    trace = [*observation.values(), info["score"]]
    for _ in range(steps):
        observation, reward, _, _, info = env.step(follow_block(env, observation, rng))
        trace += [*observation.values(), reward, info["score"]]
    return np.concatenate([np.ravel(part) for part in trace])


def states(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(50, 450, (count, 4)), rng.uniform(-np.pi, np.pi, count)])


def test_it_needs_gym_pusht_only_to_make_an_environment():
    code = (
        "import sys; sys.modules['gym_pusht'] = None\n"
        "from recede.envs.tasks.pusht import PUSHT\n"
        "assert PUSHT.specification.action.high == (512, 512) and 'torch' not in sys.modules\n"
        "try: PUSHT.make()\n"
        "except ImportError as error: assert \"pip install 'recede[pusht]'\" in str(error), error\n"
        "else: raise AssertionError('made without gym-pusht')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_keypoints_turn_and_move_with_the_block():
    quarter = np.array([[0, 0, 100.0, 200.0, np.pi / 2]])
    expected = np.column_stack([100 - KEYPOINTS[:, 1], 200 + KEYPOINTS[:, 0]])
    np.testing.assert_allclose(block_keypoints(quarter), expected.reshape(1, 18), atol=1e-12)


def test_the_angle_does_not_jump_where_it_wraps():
    around = np.zeros((3, 5))
    around[:, 4] = [2 * np.pi - 1e-6, 0.0, 2 * np.pi]
    assert np.abs(np.diff(block_keypoints(around), axis=0)).max() < 2e-4


def test_the_pose_is_fitted_to_the_keypoints():
    originals = states(50)
    positions, angles = fitted_pose(block_keypoints(originals))
    np.testing.assert_allclose(positions, originals[:, 2:4], atol=1e-10)
    np.testing.assert_allclose(np.exp(1j * angles), np.exp(1j * originals[:, 4]), atol=1e-10)


def test_a_mirror_maps_the_outline_to_itself_and_states_to_states():
    originals = states(50)
    x, y = 512 - originals[:, 1::2][:, :2], 512 - originals[:, 0:4:2]
    mirrored = np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1], np.pi / 2 - originals[:, 4]])
    for name, rows in [
        *(("agent_position", agent_position), ("block_keypoints", block_keypoints), ("block_offset", block_offset))
    ]:
        np.testing.assert_allclose(PUSHT.mirror[name](rows(originals)), rows(mirrored), atol=1e-9)
    outline = block_keypoints(np.array([[0, 0, 256, 256, np.pi / 4]]))
    np.testing.assert_allclose(PUSHT.mirror["block_keypoints"](outline), outline, atol=1e-9)


def test_a_mirrored_image_is_the_image_of_the_mirrored_state(gym_pusht):
    env, original = PUSHT_IMAGE.make(), states(1, seed=3)[0]
    original[:4] = original[:4].round()
    reflected = [512 - original[1], 512 - original[0], 512 - original[3], 512 - original[2], np.pi / 2 - original[4]]
    frames = []
    for state in (original, reflected):
        points = block_keypoints(np.array([state]))[0]
        options = PUSHT.restore({"agent_position": np.array(state[:2]), "block_keypoints": points})
        frames.append(env.reset(options=options)[0]["image"])
    mirrored = PUSHT_IMAGE.mirror["image"](frames[0][None])[0]
    difference = np.abs(mirrored.astype(int) - frames[1])
    assert np.mean(difference > 40) < 0.01  # edges are drawn a pixel of 512 apart
    assert np.mean(np.abs(frames[0].astype(int) - frames[1]) > 40) > 0.02


def test_observations_match_the_rows_of_the_sources(gym_pusht):
    env = PUSHT.make()
    observation, _ = env.reset(seed=4)
    state = env.env.unwrapped.get_obs()[None]
    for name, value in observation.items():
        np.testing.assert_allclose(value, PUSHT.sources[name][1](state)[0], rtol=1e-6)


def test_an_observed_state_is_restored(gym_pusht):
    env = PUSHT.make()
    observation, _ = env.reset(seed=4)
    restored, _ = env.reset(options=PUSHT.restore(observation))
    for name, value in observation.items():
        np.testing.assert_allclose(restored[name], value, atol=1e-4)


def test_the_limits_hold_against_the_edge_of_the_board(gym_pusht):
    env = PUSHT.make()
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        for step in range(MAX_STEPS):
            outward = observation["block_keypoints"].reshape(9, 2).mean(0) - 256
            action = 256 + 1000 * outward / np.abs(outward).max() * (step % 3 != 0)
            observation, *_ = env.step(action)
            assert observation in env.observation_space


def test_an_episode_depends_on_its_seed_alone(gym_pusht):
    used = PUSHT.make()
    episode(used, 1)
    traces = [episode(used, 2), episode(PUSHT.make(), 2)]
    np.testing.assert_array_equal(*traces)
    assert np.ptp(traces[0][-40:]) > 0
    assert not np.array_equal(traces[0], episode(used, 3))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_mid_episode_continues_identically(gym_pusht, copied):
    env, rng = PUSHT.make(), np.random.default_rng(0)
    observation, _ = env.reset()  # without a seed
    for _ in range(60):
        observation, *_ = env.step(follow_block(env, observation, rng))
    twin = copied(env)
    for _ in range(60):
        action = follow_block(env, observation, rng)
        (observation, reward, *_), (again, reward_again, *_) = env.step(action), twin.step(action)
        np.testing.assert_array_equal(observation["block_keypoints"], again["block_keypoints"])
        assert reward == reward_again


def test_the_task_can_be_pickled():
    assert pickle.loads(pickle.dumps(PUSHT)).specification == PUSHT.specification


def test_success_is_more_than_95_percent_of_the_outline(gym_pusht):
    env = PUSHT.make()
    assert env.reset(options=restore(256, 256))[1]["score"] == 1.0
    _, reward, terminated, truncated, info = env.step([60, 60])
    assert (reward, terminated, truncated, info["success"], info["score"]) == (1.0, True, False, True, 1.0)

    # Moved along its bar by d, the T keeps of its area 120 * 30 + 30 * 90 all but d * (30 + 90).
    along = np.array([np.cos(np.pi / 4), np.sin(np.pi / 4)])
    for distance, success in ((2.6, True), (2.65, False)):
        _, info = env.reset(options=restore(*(256 + distance * along)))
        assert info["score"] == pytest.approx(min((1 - distance * 120 / 6300) / 0.95, 1), abs=1e-9)
        assert info["success"] == success


def restore(x, y):
    return PUSHT.restore({"agent_position": np.full(2, 60.0), "block_keypoints": goal_keypoints(x, y)})


def goal_keypoints(x, y):
    return block_keypoints(np.array([[0, 0, x, y, np.pi / 4]]))[0]


def test_an_image_equals_that_of_gym_pusht_without_its_mark(gym_pusht):
    for size in (96, 480, 512):
        env = PUSHT.make(render_mode="rgb_array", render_size=size)
        env.reset(seed=5)
        env.step([100, 200])
        inner = env.env.unwrapped
        image = env.render()
        assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
        np.testing.assert_array_equal(image, inner._get_img(inner._draw(), size, size, render_action=False))
    assert PUSHT.make().render() is None
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        PUSHT.make(render_mode="human")


def test_a_preview_shows_the_step_that_follows(gym_pusht):
    env = PUSHT.make(render_mode="rgb_array")
    env.reset(options=restore(256, 256))
    for number in range(12):
        action = np.array([300.0 + 10 * number, 256.0])  # into the block
        shown = [env.preview(action, share) for share in (0.0, 0.5, 1.0)]
        np.testing.assert_array_equal(shown[0], env.render())
        env.step(action)
        is_alike = (np.abs(env.render().astype(int) - shown[2]) < 40).all(axis=2)
        assert is_alike.mean() > 0.995
        assert (shown[1] != shown[2]).any() or number == 0


def test_actions_point_to_where_the_agent_goes(gym_pusht):
    env = PUSHT.make(render_mode="rgb_array", render_size=256)
    env.reset(options=restore(256, 256))
    action = np.array([450.0, 80.0])
    for _ in range(20):
        env.step(action)
    image = env.render().astype(int)
    rows, columns = np.nonzero((image[..., 2] > 200) & (image[..., 0] < 120))  # royal blue, as the agent alone
    np.testing.assert_allclose([columns.mean(), rows.mean()], env.pixels(action[None])[0], atol=1.0)


def test_the_published_demonstrations_are_206_episodes(recordings):
    assert (len(recordings), recordings.num_steps) == (206, 25_650)


def test_published_demonstrations_and_their_mirror_images_lie_within_the_limits(recordings):
    for stream in PUSHT.specification.streams:
        rows = recordings.read(stream.name)
        for values in (rows, PUSHT.mirror[stream.name](rows)):
            assert (values >= stream.low).all()
            assert (values <= stream.high).all()


def test_published_images_match_those_of_the_task(gym_pusht, recordings):
    """Edges may differ, because another version of the drawing library smooths them differently."""
    images = ReplayBuffer(Path(os.environ[STORE]), PUSHT_IMAGE.specification, PUSHT_IMAGE.sources)
    env = PUSHT_IMAGE.make()
    for step in (0, 40, 300):
        observation = {
            stream.name: recordings.read(stream.name, step, step + 1)[0] for stream in PUSHT.specification.streams
        }
        image = env.reset(options=PUSHT.restore(observation))[0]["image"]
        difference = np.abs(image.astype(int) - images.read("image", step, step + 1)[0])
        assert np.mean(difference > 0) < 0.03
        assert np.mean(difference) < 1


def test_keypoints_match_the_published_demonstrations(recordings):
    demonstrations = recordings
    published = demonstrations.foreign_rows("keypoint").reshape(-1, 18).astype(np.float64)
    state = demonstrations.foreign_rows("state")
    # Theirs are always our nine points on a rigid block,
    positions, angles = fitted_pose(published[::10])
    fitted = block_keypoints(np.column_stack([np.zeros((len(angles), 2)), positions, angles]))
    assert np.abs(fitted - published[::10]).max() < 1e-4
    # and without contact the block is where the state says; with contact they are one physics step late.
    difference = np.abs(block_keypoints(state) - published).max(axis=1)
    touching = demonstrations.foreign_rows("n_contacts")[:, 0] > 0
    assert np.mean(difference[~touching] < 1e-4) > 0.998
    assert np.median(difference) < 3e-5
    assert difference.max() < 2.1


@pytest.mark.slow
def test_recorded_actions_reproduce_the_recorded_block_trajectory(gym_pusht, recordings):
    episodes = list(replay(PUSHT, recordings))
    deviations = np.array([replayed.deviations["block_keypoints"] for replayed in episodes])
    assert np.median(deviations) < 1e-4
    assert (deviations < 1e-3).sum() >= 200
    assert deviations.max() < 0.5
    assert max(replayed.deviations["agent_position"] for replayed in episodes) < 1e-4
    assert all(replayed.num_steps == replayed.recorded_steps for replayed in episodes)
    assert sum(replayed.success for replayed in episodes) == 7


def test_a_block_that_starts_elsewhere_is_noticed(gym_pusht, recordings):
    def naive(observation):  # the reset of gym-pusht taken at its word
        (position,), (angle,) = fitted_pose(observation["block_keypoints"][None])
        return {"reset_to_state": np.array([*observation["agent_position"], *position, angle])}

    task = dataclasses.replace(PUSHT, restore=naive)
    deviations = [replayed.deviations["block_keypoints"] for replayed in replay(task, recordings, range(3))]
    assert min(deviations) > 1
