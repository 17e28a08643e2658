"""A policy with a representation sees and commands the data's own units, in all that it does."""

import re

import numpy as np
import pytest
import torch
from recede.policy.check import check_policy
from recede.policy.classifier import Classifier
from recede.policy.denoising.energies import Energies, HalfSpace
from recede.policy.denoising.guidance import Prefix
from recede.policy.engines.check import check_engine
from recede.policy.engines.eager import EagerEngine
from recede.policy.interface import Lesson
from recede.policy.likelihood import bound_rest, bound_terms
from recede.policy.rotations import to_matrix
from represented import CHOICES, hands, plans, represented_policy

ROWS = 5
MODES = list(CHOICES)
GRAPHS = ("onnx", "openvino_fp32")


@pytest.fixture(scope="module")
def policies():
    return {mode: represented_policy(mode) for mode in MODES}


def drawn(policy, seed=2):
    draws, *chunk = policy.noise_shape
    return np.random.default_rng(seed).standard_normal((draws, ROWS, *chunk), dtype=np.float32)


def assert_same_poses(actual, expected, atol):
    places = np.r_[0:3, 6]
    np.testing.assert_allclose(actual[..., places], expected[..., places], atol=atol)
    turns = [to_matrix("axis_angle", np.asarray(x)[..., 3:6]) for x in (actual, expected)]
    np.testing.assert_allclose(*turns, atol=atol)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_denoised_has_the_learned_size_and_chunks_that_of_the_data(policies, mode):
    policy = policies[mode]
    chunk = EagerEngine(policy).predict(hands(ROWS), drawn(policy))
    assert policy.noise_shape[1:] == (6, 10)
    assert chunk.shape == (ROWS, 6, 7)


@pytest.mark.parametrize("mode", MODES)
def test_the_engine_keeps_every_promise(policies, mode):
    report = check_engine(EagerEngine(policies[mode]), observation=hands(16), half_range=np.ones(7))
    assert "prefix" in report


@pytest.fixture
def engines(workshop, policies):
    """Mode -> its engines; the graphs of all are the same, because only numpy knows to what actions refer."""
    workshop.policies["represented"] = policies["absolute"]
    return {mode: [workshop.engine("represented", name, policies[mode]) for name in GRAPHS] for mode in MODES}


@pytest.mark.slow  # of the export
@pytest.mark.parametrize("mode", MODES)
def test_engines_in_numpy_agree_also_with_a_plan(engines, policies, mode):
    policy, weights = policies[mode], np.tile(np.array([1, 1, 0.5, 0, 0, 0], np.float32), (ROWS, 1))
    for guidance in ((), [Prefix(plans(ROWS), weights)], [Prefix(plans(ROWS), 0 * weights, start=0.5)]):
        expected = EagerEngine(policy).predict(hands(ROWS), drawn(policy), guidance)
        for engine in engines[mode]:
            assert_same_poses(engine.predict(hands(ROWS), drawn(policy), guidance), expected, 2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_is_held_in_units_wherever_the_robot_is_by_now(policies, mode):
    policy, weights = policies[mode], np.tile(np.array([1, 1, 1, 0, 0, 0], np.float32), (ROWS, 1))
    for seed in (3, 4):
        chunk = EagerEngine(policy).predict(hands(ROWS, seed), drawn(policy), [Prefix(plans(ROWS), weights)])
        assert_same_poses(chunk[:, :3], plans(ROWS)[:, :3], 1e-5)
        assert np.abs(chunk[:, 3:] - plans(ROWS)[:, 3:]).max() > 1e-2


@pytest.mark.parametrize("mode", MODES)
def test_energies_see_units_and_pull_through_the_representation(policies, mode):
    policy = policies[mode]
    space = policy.space.at({"hand": torch.from_numpy(hands(2)["hand"]).double()})
    x = space.encode(torch.from_numpy(plans(2)).double())
    direction = torch.from_numpy(np.random.default_rng(5).standard_normal(plans(2).shape))
    step = torch.from_numpy(np.random.default_rng(6).standard_normal(tuple(x.shape)))
    ahead, behind = ((space.decode(x + sign * 1e-6 * step) * direction).sum() for sign in (1, -1))
    torch.testing.assert_close((space.pull(x, direction) * step).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-5)
    below = HalfSpace((0.05,) * 7, (1.0, *[0.0] * 6), -0.5)
    guided, free = (
        EagerEngine(policy).predict(hands(ROWS), drawn(policy), guidance)
        for guidance in ([Energies((below,), exact=False)], ())
    )
    assert guided[..., 0].mean() < free[..., 0].mean() - 0.05


@pytest.mark.slow  # of the export
def test_energies_without_pytorch_are_refused(engines, policies):
    energies = Energies((HalfSpace((0.1,) * 7, (1.0, *[0.0] * 6), 0.0),), exact=False)
    with pytest.raises(ValueError, match="energies need the gradient of the representation"):
        engines["relative"][0].predict(hands(ROWS), drawn(policies["relative"]), [energies])


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_the_likelihood_and_a_classifier_know_the_observation(policies, mode):
    policy = policies[mode]
    observation, chunk = {"hand": torch.from_numpy(hands(ROWS)["hand"])}, torch.from_numpy(plans(ROWS))
    noise = torch.from_numpy(drawn(policy))
    lesson = Lesson(observation, chunk, noise, torch.full((1, ROWS, policy.num_uniforms), 0.5))
    assert policy.loss(lesson).shape == (1, ROWS, 6)
    terms = bound_terms(policy, observation, chunk, noise=noise, level=torch.zeros(1, ROWS, dtype=torch.long))
    assert (terms.shape, bound_rest(policy, observation, chunk).shape) == ((1, ROWS), (ROWS,))
    assert Classifier(policy, size=4).logits(policy, lesson).shape == (ROWS,)


def test_actions_without_their_observation_are_refused(policies):
    with pytest.raises(ValueError, match=re.escape("use space.at(observation)")):
        policies["relative"].space.encode(torch.zeros(1, 6, 7))


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_with_a_representation_keeps_every_promise(mode):
    assert "chunk" in check_policy(lambda: represented_policy(mode).requires_grad_())


def test_autocast_rounds_no_pose():
    policy, observation = represented_policy("difference"), {"hand": torch.from_numpy(hands(ROWS)["hand"])}
    space, chunk = policy.space.at(observation), torch.from_numpy(plans(ROWS))
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_poses(space.decode(space.encode(chunk)).numpy(), chunk.numpy(), 1e-5)
