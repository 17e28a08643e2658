"""What monitors measure of a chunk, and from which number on they raise an alarm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import HORIZONS, SPECIFICATION, diffusion, regression
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.wrapping import InstructedEngine
from recede.policy.likelihood import bound_terms
from recede.policy.monitor import LEVELS, NAMES, NEIGHBOURS, SAMPLES, Alarm, Calibration, Features, Monitor, alarm_above
from recede.policy.requests import Request
from recede.policy.stillness import travel
from recede.specification import Specification, Stream

RANDOM = np.random.default_rng(0)
EPISODES = [row // 4 for row in range(100)]
"""Of the windows of the demonstrations."""


def requests(count, seed=0, specification=SPECIFICATION):
    random = np.random.default_rng(seed)
    return [
        Request({s.name: random.uniform(-1, 1, (2, *s.shape)).astype(s.dtype) for s in specification.observations})
        for _ in range(count)
    ]


def observations(count, seed=0):
    rows = [request.history for request in requests(count, seed)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


@pytest.fixture(scope="module")
def policy():
    policy = diffusion().eval()
    for parameter in policy.parameters():  # networks begin with zeros
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return policy


@pytest.fixture(scope="module")
def monitor(policy):
    return Monitor(
        policy, EagerEngine(policy), features=Features.of(policy, [observations(50), observations(50, 1)], EPISODES)
    )


def chunks(policy, questions, seed=0):
    noise = np.random.default_rng(seed).standard_normal((1, len(questions), *policy.noise_shape[1:]), np.float32)
    observation = {name: np.stack([one.history[name] for one in questions]) for name in questions[0].history}
    return EagerEngine(policy).predict(observation, noise), observation, noise


def test_disagreement_is_the_spread_of_the_executed_actions_of_other_noise(policy, monitor):
    questions = requests(3)
    chunk, observation, _ = chunks(policy, questions)
    others = np.random.default_rng(0).standard_normal((SAMPLES, *policy.noise_shape), np.float32)  # for all alike
    drawn = [EagerEngine(policy).predict(observation, np.stack([noise] * 3, axis=1)) for noise in others]
    rows = np.stack([chunk, *drawn])[:, :, HORIZONS.executed] / np.array([50.0, 1.0])
    expected = np.sqrt(np.square(rows.std(axis=0)).mean(axis=(1, 2)))
    np.testing.assert_allclose(monitor(questions, chunk)["disagreement"], expected, rtol=1e-4)
    assert expected.min() > 0.01


def test_disagreement_vanishes_where_noise_does_not_matter(policy):
    class Certain(EagerEngine):
        def predict(self, observation, noise, guidance=()):
            return super().predict(observation, 0 * noise, guidance)

    questions = requests(2)
    chunk = Certain(policy).predict(
        {n: np.stack([r.history[n] for r in questions]) for n in questions[0].history},
        np.zeros((1, 2, 6, 2), np.float32),
    )
    assert Monitor(policy, Certain(policy), names=["disagreement"])(questions, chunk)["disagreement"].max() < 1e-6


def test_denoising_is_the_bound_of_the_chunk_without_its_constants(policy, monitor):
    questions = requests(4)
    chunk, observation, _ = chunks(policy, questions)
    tensors = {name: torch.from_numpy(values) for name, values in observation.items()}
    levels = torch.tensor([1, 3, 6, 8, 11, 13, 16, 18])[:, None].expand(-1, 4)  # the middles of eight parts of 20
    noise = monitor._bound_noise.expand(-1, 4, -1, -1)
    terms = bound_terms(policy, tensors, torch.from_numpy(chunk), noise=noise, level=levels)
    np.testing.assert_allclose(monitor(questions, chunk)["denoising"], 20 / LEVELS * terms.sum(dim=0), rtol=1e-4)
    spoilt = chunk + np.array([60, 1.2], np.float32) * RANDOM.choice([-1, 1], chunk.shape)
    assert (monitor(questions, spoilt)["denoising"] > monitor(questions, chunk)["denoising"]).all()


def test_distance_is_that_of_the_nearest_windows_as_a_multiple_of_theirs(policy, monitor):
    questions = requests(5, seed=7)
    rows = torch.cat([policy.encode(observations(50, seed)).flatten(1) for seed in (0, 1)]).detach().numpy()
    values = policy.encode(observations(5, 7)).flatten(1).detach().numpy()

    def apart(first):
        return np.sqrt(np.square((first[:, None] - rows) / rows.std(axis=0)).mean(axis=2))

    owner = np.array(EPISODES)
    others = np.where(owner[:, None] == owner, np.inf, apart(rows))
    spread = np.sort(others, axis=1)[:, :NEIGHBOURS].mean(axis=1)
    places = np.argsort(apart(values), axis=1)[:, :NEIGHBOURS]
    expected = np.take_along_axis(apart(values), places, axis=1).mean(axis=1) / spread[places].mean(axis=1)
    chunk, *_ = chunks(policy, questions)
    np.testing.assert_allclose(monitor(questions, chunk)["distance"], expected, rtol=1e-3)
    assert 0.7 < expected.mean() < 1.3  # drawn as the demonstrations were


def test_a_distance_counts_by_how_dense_the_demonstrations_are_there(policy):
    """Two clouds, one ten times as wide: a window of either is as far as its own cloud is wide."""
    random = torch.Generator().manual_seed(0)

    def cloud(count):
        is_wide = (torch.arange(count) % 2)[:, None, None]
        return {
            name: (
                centre
                + scale * (is_wide - 0.5 + (0.02 + 0.2 * is_wide) * torch.randn(count, 2, size, generator=random))
            )
            for name, size, centre, scale in (("state", 3, 0.0, 1.0), ("target", 2, 5.0, 5.0))
        }

    features = Features.of(policy, [cloud(400)], list(range(400)))
    distances = features.distance(policy.encode(cloud(100)).flatten(1))
    torch.testing.assert_close(distances[::2].mean(), distances[1::2].mean(), rtol=0.1, atol=0)


def test_distance_grows_away_from_the_demonstrations(policy, monitor):
    (questions,) = requests(1)
    chunk, *_ = chunks(policy, [questions])
    measured = [
        monitor([Request({n: v + away for n, v in questions.history.items()})], chunk)["distance"].item()
        for away in (0, 5, 50)
    ]
    assert measured[0] < measured[1] < measured[2]


def test_a_feature_that_never_varied_counts_but_not_beyond_measure(policy):
    rows = observations(50)
    rows["state"] = torch.cat([rows["state"][..., :2], torch.zeros_like(rows["state"][..., :1])], dim=-1)
    features = Features.of(policy, [rows], EPISODES[:50])
    moved = {**rows, "state": rows["state"] + torch.tensor([0.0, 0.0, 0.1])}
    distance = features.distance(policy.encode(moved).flatten(1))
    assert torch.isfinite(distance).all()
    assert (distance > features.distance(policy.encode(rows).flatten(1)) + 1).all()


def test_stillness_is_minus_the_way_ahead(policy, monitor):
    chunk = np.full((2, 6, 2), 150.0, np.float32)
    chunk[0, 0] = 0  # over before the current step
    chunk[1, -1, 0] = 175  # a quarter of the range
    np.testing.assert_allclose(monitor(requests(2), chunk)["stillness"], [0, -0.25])


def test_travel_knows_what_a_robot_does_without_a_command():
    chunk = np.array([[[0.5, 0.5], [0.5, 0.5]]])
    assert travel(chunk, [2, 2], ["last", "last"]) == [0]
    assert travel(chunk, [2, 2], ["last", "zero"]) == [0.25]
    assert travel(chunk, [2, 0], ["zero", "zero"]) == [0.25]


def test_numbers_do_not_depend_on_the_other_rows(policy, monitor):
    questions = requests(32)
    chunk, *_ = chunks(policy, questions)
    together, apart = monitor(questions, chunk), monitor(questions[16:], chunk[16:])
    for name in NAMES:
        np.testing.assert_allclose(
            together[name][16:], apart[name], rtol=1e-5
        )  # products of other sizes round otherwise


def test_a_monitor_sees_the_context_that_an_engine_has_of_its_own():
    specification = Specification(
        (Stream("state", (3,)), Stream("goal", (2,), context=True)), Stream("action", (2,)), control_dt=0.1
    )
    ranges = {
        "state": (-np.ones(3), np.ones(3)),
        "goal": (-np.ones(2), np.ones(2)),
        "action": (-np.ones(2), np.ones(2)),
    }
    policy = diffusion(specification, ranges).eval()
    (questions,) = requests(1, specification=specification)
    whole = {**questions.history, "goal": np.tile(np.float32([1, -1]), (2, 1))}
    rows = {name: torch.from_numpy(np.stack([values, values + 1])) for name, values in whole.items()}
    features = Features.of(policy, [rows], [0, 1])
    engine = InstructedEngine(EagerEngine(policy), {"goal": [1, -1]})
    monitor = Monitor(policy, engine, features=features, names=["distance"])
    bare = Request({"state": questions.history["state"]})
    assert monitor([bare], np.zeros((1, 6, 2), np.float32))["distance"].item() == pytest.approx(0.5)


def test_a_policy_without_noise_has_fewer_monitors():
    policy = regression()
    assert Monitor(policy, EagerEngine(policy)).names == ("stillness",)
    with pytest.raises(ValueError, match="no monitor 'disagreement': it predicts without noise"):
        Monitor(policy, EagerEngine(policy), names=["disagreement"])


def test_unknown_and_missing_monitors_are_refused(policy):
    with pytest.raises(ValueError, match="there is no monitor 'distanc': did you mean 'distance'"):
        Monitor(policy, EagerEngine(policy), names=["distanc"])
    with pytest.raises(ValueError, match="name the demonstrations that it was trained on with dataset="):
        Monitor(policy, EagerEngine(policy), names=["distance"])


def test_one_episode_says_nothing_of_the_distance_to_others(policy):
    with pytest.raises(ValueError, match="demonstrations of two episodes or more, got one"):
        Features.of(policy, [observations(3)], [4, 4, 4])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 60), rate=st.floats(0.02, 0.5), seed=st.integers(0, 2**32 - 1))
def test_alarms_are_as_rare_as_promised(count, rate, seed):
    """Whatever the law of the numbers is: among exchangeable ones, the rank of the last is uniform."""
    numbers = np.random.default_rng(seed).standard_t(1.5, (4000, count + 1))
    limits = [alarm_above(row[:-1].tolist(), rate) for row in numbers]
    if limits[0] is None:
        assert (count + 1) * rate < 1
        return
    share = np.mean(numbers[:, -1] > limits)
    exact = 1 - np.ceil(np.round((count + 1) * (1 - rate), 9)) / (count + 1)
    assert exact <= rate + 1e-9
    assert abs(share - exact) < 4.5 * np.sqrt(exact * (1 - exact) / 4000) + 1e-9


def test_an_alarm_says_how_rare_a_number_is(policy):
    monitor = Monitor(policy, EagerEngine(policy), names=["stillness"])
    alarm = Alarm(monitor, [-0.5, -0.4, -0.3, -0.2], false_alarms=0.2)
    assert alarm.above == -0.2
    (request,), chunk = requests(1), np.full((6, 2), 150.0, np.float32)
    assert alarm(request, chunk) == (1.0, True)
    chunk[-1, 0] = 185.0
    assert alarm(request, chunk) == (0.5, False)
    with pytest.raises(ValueError, match=r"false_alarms=0.1 needs monitors that 9 successful episodes .* got 4"):
        Alarm(monitor, [-0.5, -0.4, -0.3, -0.2], false_alarms=0.1)


def test_a_calibration_comes_back_for_its_policy_alone(policy, monitor, tmp_path):
    Calibration({"distance": [1.0, 2.0]}, monitor.features, {"task": "reach"}).save(tmp_path, policy)
    loaded = Calibration.load(tmp_path, policy)
    assert (loaded.largest, loaded.notes) == ({"distance": [1.0, 2.0]}, {"task": "reach"})
    for name, tensor in vars(monitor.features).items():
        assert torch.equal(getattr(loaded.features, name), tensor)
    with pytest.raises(ValueError, match="monitors of another policy: calibrate"):
        Calibration.load(tmp_path, diffusion(channels=(16, 16)))
    (tmp_path / "monitors.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged"):
        Calibration.load(tmp_path, policy)
    with pytest.raises(FileNotFoundError, match="holds no monitors: calibrate"):
        Calibration.load(tmp_path / "none", policy)


def test_a_calibration_without_demonstrations_has_no_features(policy, tmp_path):
    Calibration({"stillness": [0.0]}, None, {}).save(tmp_path, policy)
    assert Calibration.load(tmp_path, policy).features is None
