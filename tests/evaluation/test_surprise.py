"""The error of a policy in each episode is that of its executed actions, as a share of their ranges."""

import numpy as np
from flawed import SPECIFICATION, InMemory, reaches
from recede.evaluation.surprise import histories_of, surprise
from recede.specification import Horizons


class Oracle:
    """Predicts that every action is the hand of the current step, plus an offset."""

    name, precision, noise_shape = "oracle", "fp32", (0, 0, 0)
    specification, horizons = SPECIFICATION, Horizons(observation=2, prediction=6, action=4)

    def __init__(self, offset):
        self.offset = offset

    def predict(self, observation, noise, guidance=()):
        assert observation["hand"].shape[1:] == (2, 2)
        current = np.pad(observation["hand"][:, -1:], ((0, 0), (0, 0), (0, 1))) + self.offset
        return np.repeat(current, 6, axis=1)


def resting(seed, length):
    """An episode in which the hand rests; the actions of all episodes span [-1, 1]."""
    place = np.array([[-1.0, -1.0, 0.0]]) + 2 * seed * np.array([[1.0, 1.0, 0.0]])
    action = np.repeat(place, length, axis=0).astype(np.float32)
    return {"hand": action[:, :2], "image": np.zeros((length, 24, 24, 1), np.uint8), "action": action}


def test_the_error_is_a_share_of_the_range_of_each_dimension():
    demonstrations = InMemory(SPECIFICATION, [resting(0, 9), resting(1, 4), resting(0, 3)])
    assert surprise(Oracle(0.0), demonstrations)[:2].tolist() == [0, 0]
    errors = surprise(Oracle(np.array([0.2, 0.4, 0.3])), demonstrations)
    np.testing.assert_allclose(errors[:2], (0.1 + 0.2 + 0.3) / 3, rtol=1e-5)
    assert np.isnan(errors[2])  # shorter than the action horizon


def test_an_episode_that_goes_elsewhere_surprises_most():
    demonstrations = reaches(6).but(lambda rows: {"action": -rows["action"]}, episodes=[4])
    assert surprise(Oracle(0.0), demonstrations).argmax() == 4


def test_histories_begin_with_the_first_step_of_their_episode():
    demonstrations = reaches(4)
    moments = [(episode, step) for episode in range(4) for step in range(*demonstrations.bounds(episode), 3)]
    histories = histories_of(demonstrations, Oracle(0.0), moments)
    for (episode, step), history in zip(moments, histories, strict=True):
        steps = [max(step - 1, demonstrations.bounds(episode)[0]), step]
        for name in ("hand", "image"):
            expected = np.concatenate([demonstrations.read(name, one, one + 1) for one in steps])
            np.testing.assert_array_equal(history[name], expected)
