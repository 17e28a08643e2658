"""A training on several datasets of which some lack an observation, which is masked, and known to be absent."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import recede
import torch
import toys
from policy_server import serve
from recede.checkpoints.exporting import recorded_trials
from recede.checkpoints.opening import load_policy
from recede.checkpoints.runs import checkpoint_of_step
from recede.commands import control
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import HorizonsConfig, RegressionConfig
from recede.configs.components.representations import RelativeConfig
from recede.configs.deployment import ControlConfig
from recede.configs.evaluation import EvaluateConfig
from recede.configs.training import TrainConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.facts import EpisodeFacts
from recede.datasets.normalisation import fit_ranges
from recede.datasets.observing import Masked, as_observed, as_recorded
from recede.datasets.store import DemonstrationStore
from recede.diagnosis.overfitting import Sources, look_at_overfitting
from recede.diagnosis.trained import open_trained
from recede.evaluation.results import subject_of
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.making import make_engine
from recede.policy.engines.wrapping import without_absent
from recede.policy.interface import Lesson
from recede.policy.requests import Request
from recede.serving.client import RemotePolicy
from recede.specification import ABSENT, Specification, Stream
from recede.training.loop import prepare, train
from stopping import stop_after

POSITION, TARGET = toys.SPECIFICATION.observations
WRIST = Stream("wrist", (12, 16, 3), "uint8")
WHOLE = replace(toys.SPECIFICATION, observations=(POSITION, TARGET, WRIST))
LESS = replace(toys.SPECIFICATION, observations=(POSITION,))
STEPS = 10
"""Steps of an episode; with an action horizon of 4 it has 7 windows."""


def make(path, specification, episodes=3, seed=0):
    """A store of random episodes. Its targets lie in [0.2, 0.4], so zeros would widen their range."""
    store, new = DemonstrationStore.create(path, specification), []
    for index in range(episodes):
        rng = np.random.default_rng([seed, index])
        streams = {
            stream.name: rng.integers(0, 256, (STEPS, *stream.shape), np.uint8)
            if stream.is_image
            else rng.uniform(0.2, 0.4, (STEPS, *stream.shape)).astype(stream.dtype)
            for stream in specification.streams
        }
        new.append(NewEpisode(streams, facts=EpisodeFacts()))
    store.append_many(new)
    return store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [make(folder / "whole.zarr", WHOLE), make(folder / "less.zarr", LESS, seed=1)]


def configuration(stores, out, **changes):
    camera = ResNetEncoderConfig(width=16, stages=1, keypoints=4, features=6, mlp=[8])
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16), encoder=camera)
    options = {"policy": policy, "device": "cpu", "batch_size": 8, "steps": 4, "warmup": 1, "held_out": 0.4}
    options |= {"horizons": HorizonsConfig(observation=2, prediction=8, action=4), "ema_maximum": 0.9}
    return TrainConfig(
        dataset=[str(store.path) for store in stores], out=str(out), **({"missing": "mask"} | options | changes)
    )


@pytest.fixture(scope="module")
def prepared(stores, tmp_path_factory):
    return prepare(configuration(stores, tmp_path_factory.mktemp("prepared") / "run"))


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    train(configuration(stores, out, save_every=2))
    return out


def windows_of(prepared, dataset):
    """The windows of the training episodes of a dataset, as a batch."""
    chosen = prepared.windows.episode_of_each() // 3 == dataset
    return prepared.windows.batch(torch.from_numpy(np.flatnonzero(chosen)))


# --- the demonstrations


def test_what_is_absent_is_zero_and_said_to_be_absent(prepared, stores):
    specification = prepared.demonstrations.specification
    assert [stream.name for stream in specification.observations] == ["position", "target", "wrist", ABSENT]
    assert specification.may_be_absent == (TARGET, WRIST)
    whole, less = (windows_of(prepared, dataset).observation for dataset in (0, 1))
    assert whole[ABSENT].unique(dim=0).tolist() == [[[0, 0], [0, 0]]]
    assert less[ABSENT].unique(dim=0).tolist() == [[[1, 1], [1, 1]]]
    assert not less["wrist"].any()
    assert not less["target"].any()
    assert len(prepared.validation_of) == 2  # an episode of each is held out
    recede.check_demonstrations(Masked(stores[1], [TARGET, WRIST]))
    recede.check_demonstrations(prepared.demonstrations)


def test_ranges_are_those_of_the_episodes_that_have_the_stream(prepared, stores):
    episodes = [episode for episode in range(3) if episode not in prepared.manifest["held_out_episodes"]]
    alone = fit_ranges(stores[0], episodes, {})["target"]
    centre, half_range = prepared.policy.normalizer.affine("target")
    np.testing.assert_allclose(centre, (alone.low + alone.high) / 2, rtol=1e-6)
    np.testing.assert_allclose(half_range, (alone.high - alone.low) / 2, rtol=1e-6)
    assert not [note for note in prepared.notes if note.startswith(("still", "coarse"))]


# --- what is learned


@pytest.mark.parametrize(("dataset", "is_absent"), [(0, False), (1, True)])
def test_nothing_is_learned_from_what_is_absent(prepared, dataset, is_absent):
    policy, batch = prepared.policy, windows_of(prepared, dataset)
    policy.zero_grad()
    noise = torch.zeros(1, len(batch.action), *policy.noise_shape[1:])
    policy.loss(Lesson(batch.observation, batch.action, noise, torch.zeros(1, len(noise[0]), 1))).mean().backward()
    of_camera = [parameter.grad.abs().max().item() for parameter in policy.encoder.cameras.parameters()]
    of_vectors = policy.encoder.mlp[0].weight.grad.abs().amax(0)  # position, target, absent_streams
    assert (max(of_camera) == 0) == is_absent
    assert (of_vectors > 0).tolist() == [True, True, *[not is_absent] * 2, *[is_absent] * 2]


def test_what_is_absent_changes_no_prediction_and_its_absence_does(prepared):
    policy, observation = prepared.policy, windows_of(prepared, 1).observation
    noise = torch.zeros(0, len(observation["wrist"]), *policy.noise_shape[1:])
    expected = policy.predict(observation, noise)
    other = {"wrist": torch.full_like(observation["wrist"], 200), "target": observation["target"] + 0.7}
    torch.testing.assert_close(policy.predict(observation | other, noise), expected, rtol=0, atol=0)
    present = policy.predict(observation | {ABSENT: torch.zeros_like(observation[ABSENT])}, noise)
    assert (present - expected).abs().max() > 1e-4


def test_absent_context_is_the_token_of_unknown_context():
    goal = Stream("goal", (3,), context=True)
    flags = Stream(ABSENT, (1,), labels=("goal",))
    specification = Specification((POSITION, goal, flags), toys.SPECIFICATION.action, 0.1)
    encoder = ResNetEncoderConfig().build(specification, HorizonsConfig(observation=1).build())
    torch.nn.init.normal_(encoder.unknown)
    position, goals = torch.rand(2, 1, 2), torch.rand(2, 1, 3)
    absent = torch.tensor([[[1.0]], [[0.0]]])
    encoded = encoder({"position": position, "goal": goals, ABSENT: absent})
    present = encoder({"position": position, "goal": goals, ABSENT: 0 * absent})
    torch.testing.assert_close(encoded[0, 0], encoder.unknown[0])
    torch.testing.assert_close(encoded[1], present[1])
    assert (present[0, 0] - encoder.unknown[0]).abs().max() > 0.1


# --- trained policies


def test_a_stopped_training_ends_bit_for_bit_the_same(stores, run, tmp_path, monkeypatch):
    config = configuration(stores, tmp_path / "run", save_every=2)
    stop_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    train(config)
    for name in ("policy.safetensors", "training.safetensors"):
        assert (checkpoint_of_step(run, 4) / name).read_bytes() == (
            checkpoint_of_step(tmp_path / "run", 4) / name
        ).read_bytes()
    with pytest.raises(ValueError, match="missing was mask and is null"):
        train(replace(config, missing=None))


@pytest.mark.slow
def test_an_exported_policy_agrees(stores, run):
    policy, _ = load_policy(run)
    engine, _ = make_engine(policy, "onnx")
    draws, *size = policy.noise_shape
    for store in stores:
        trials = recorded_trials(store, policy, str(store.path)).observation
        assert (trials[ABSENT] == (store is stores[1])).all()
        noise = np.zeros((draws, len(trials[ABSENT]), *size), np.float32)
        np.testing.assert_allclose(engine.predict(trials, noise), EagerEngine(policy).predict(trials, noise), atol=1e-5)


def test_an_evaluation_leaves_out_what_its_task_lacks(run, capsys):
    subject = subject_of(EvaluateConfig(run=str(run), task="toys:REACH"))
    assert "absent in reach, which the policy knows: wrist" in capsys.readouterr().out
    assert subject.policy.engine.specification == toys.SPECIFICATION
    policy, _ = load_policy(run)
    evaluation = recede.evaluate(policy, toys.REACH, episodes=2, progress=False)
    assert [outcome.fault for outcome in evaluation.outcomes] == [None, None]
    rng = np.random.default_rng(0)
    rows = {name: rng.uniform(0.2, 0.4, (5, 2, 2)).astype(np.float32) for name in ("position", "target")}
    flags = np.tile(np.array([0, 1], np.float32), (5, 2, 1))
    whole = rows | {"wrist": np.full((5, 2, *WRIST.shape), 9, np.uint8), ABSENT: flags}
    noise = np.zeros((0, 5, *policy.noise_shape[1:]), np.float32)
    expected = EagerEngine(policy).predict(whole, noise)
    np.testing.assert_allclose(subject.policy.engine.predict(rows, noise), expected, atol=1e-6)


def test_a_robot_and_a_server_do_without_what_may_be_absent(run):
    policy, config = load_policy(run)[0], ControlConfig(run=str(run))
    control._check_fits(toys.SPECIFICATION, policy.specification, config)
    control._check_fits(LESS, policy.specification, config)
    with pytest.raises(ValueError, match="position: only on one side"):
        control._check_fits(replace(LESS, observations=(TARGET,)), policy.specification, config)
    history = {"position": np.full((2, 2), 0.3, np.float32)}
    predict = control._load(config, False, frozenset(history))
    expected = predict(Request(history))
    engine = without_absent(EagerEngine(policy), history)
    np.testing.assert_allclose(
        engine.predict({"position": history["position"][None]}, np.zeros((0, 1, 8, 2))), [expected]
    )
    with serve(EagerEngine(policy)) as (address, _), closing(RemotePolicy(address)) as remote:
        np.testing.assert_allclose(remote(Request(history)), expected, atol=1e-6)


def test_a_doctor_looks_at_what_there_is(run, stores):
    trained = open_trained(str(run), dataset=str(stores[1].path), task=None, episodes=None)
    assert trained.demonstrations is not None
    assert trained.demonstrations.specification.differences(trained.policy.specification) == []
    assert as_recorded(trained.demonstrations).specification == LESS
    assert as_recorded(as_observed(stores[0], trained.policy.specification)).specification == WHOLE


@pytest.mark.parametrize("index", [0, 1])
def test_a_doctor_trains_such_a_run_on_an_episode_of_either_store(run, stores, index):
    sources = Sources(str(stores[index].path), "toys:REACH", stores[index], str(run))
    finding, *_ = look_at_overfitting(sources, {}, steps=2, device="cpu")
    assert "after 2 steps on episode 0 alone" in finding.what


# --- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"missing": None}, r"less\.zarr lacks the observation 'target' of .*whole\.zarr: give missing=mask"),
        ({"missing": None, "observe": ["position"]}, None),
        ({"observe": ["position"]}, "needs a dataset that lacks a stream.*leave it out"),
        ({"observe": ["position", "target"]}, None),
        ({"observe": ["position", "targt"]}, "no observation 'targt': did you mean 'target'"),
        ({"task": "toys:REACH"}, None),
    ],
)
def test_datasets_that_differ_are_refused_or_masked(stores, tmp_path, changes, words):
    config = configuration(stores[::-1], tmp_path / "run", **changes)
    if "task" in changes:
        config.observe = ["position", "target"]
        config.dataset = [str(make(tmp_path / "reach.zarr", toys.SPECIFICATION).path), str(stores[1].path)]
    if words is None:
        prepare(config)
        return
    with pytest.raises(ValueError, match=words):
        prepare(config)


def test_an_action_is_never_masked(stores, tmp_path):
    action = Stream("action", (3,))
    other = make(tmp_path / "other.zarr", replace(LESS, action=action))
    with pytest.raises(ValueError, match=r"action: shape is \(2,\) on one side and \(3,\) on the other"):
        prepare(configuration([stores[0], other], tmp_path / "run"))


def test_an_action_does_not_refer_to_what_may_be_absent(tmp_path):
    place = replace(POSITION, kinds="position")
    action = replace(toys.SPECIFICATION.action, kinds="position")
    whole = replace(toys.SPECIFICATION, observations=(place, TARGET), action=action)
    parts = [make(tmp_path / "a", whole), make(tmp_path / "b", replace(whole, observations=(TARGET,)))]
    config = configuration(parts, tmp_path / "run")
    config.policy.representation = RelativeConfig(reference=["position"])
    with pytest.raises(ValueError, match=r"'position', which one of the datasets lacks: .*representation=absolute"):
        prepare(config)


def test_missing_needs_several_datasets():
    with pytest.raises(ValueError, match="needs several datasets"):
        TrainConfig(dataset="a", out="b", missing="mask")
    with pytest.raises(ValueError, match="must be mask or null, got 'drop'"):
        TrainConfig(dataset=["a", "b"], out="c", missing="drop")
