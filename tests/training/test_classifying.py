"""A classifier of noisy chunks is trained, guides the policy that it was trained for, and no other."""

import json
import re

import numpy as np
import pytest
from recede.checkpoints.opening import load_policy
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.policy.classifier import Classifier
from recede.policy.engines.eager import EagerEngine
from recede.specification import Specification, Stream

NUM_EPISODES, STEPS = 40, 12
SMALL = ["policy.network.channels=[8]", "policy.network.groups=4", "policy.network.time_size=8", "device=cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, recede):
    """Episodes that go up or down, as their notes say, after the same observations; and a policy of both ways."""
    folder = tmp_path_factory.mktemp("classifying")
    specification = Specification((Stream("state", (1,)),), Stream("action", (1,)), control_dt=0.1)
    store, random = DemonstrationStore.create(folder / "demos", specification), np.random.default_rng(0)
    episodes = []
    for episode in range(NUM_EPISODES):
        sign = 1 if episode % 2 else -1
        action = sign * (0.5 + 0.1 * random.normal(size=(STEPS, 1)).astype(np.float32))
        state = 0.1 * random.normal(size=(STEPS, 1)).astype(np.float32)
        facts = EpisodeFacts(notes={"way": "up" if sign > 0 else "down"})
        episodes.append(NewEpisode({"state": state, "action": action}, facts=facts))
    store.append_many(episodes)
    options = [f"dataset={folder / 'demos'}", f"out={folder / 'run'}", "steps=150", "learning_rate=5e-3", *SMALL]
    assert recede("train", *options, "batch_size=64").status == 0
    return folder


@pytest.fixture(scope="module")
def trained(folder, recede):
    """The result of the command."""
    options = [f"run={folder / 'run'}", f"dataset={folder / 'demos'}", "condition=notes.way=up"]
    return recede("train-classifier", *options, f"out={folder / 'up'}", "steps=150", "device=cpu")


def test_it_tells_the_ways_apart_and_guides(folder, trained):
    assert trained.status == 0, trained.err
    assert "accuracy in held-out episodes, little noise: 100 %" in trained.out
    assert f"classifier: {folder / 'up'}" in trained.out
    policy, _ = load_policy(folder / "run")
    engine, classifier = EagerEngine(policy), Classifier.load(folder / "up", policy)
    noise = np.random.default_rng(0).normal(size=(1, 50, *policy.noise_shape[1:])).astype(np.float32)
    observation = {"state": np.zeros((50, policy.horizons.observation, 1), np.float32)}
    plain = (engine.predict(observation, noise) > 0).mean()
    up, down = (
        (engine.predict(observation, noise, [classifier.guidance(policy, holds=holds, weight=1.0)]) > 0).mean()
        for holds in (True, False)
    )
    assert 0.2 < plain < 0.8
    assert up > 0.95
    assert down < 0.05
    none = engine.predict(observation, noise, [classifier.guidance(policy, holds=True, weight=0.0)])
    np.testing.assert_array_equal(none, engine.predict(observation, noise))


def test_the_same_command_trains_the_same_classifier(folder, trained, recede):
    options = [f"run={folder / 'run'}", f"dataset={folder / 'demos'}", "condition=notes.way=up"]
    assert recede("train-classifier", *options, f"out={folder / 'again'}", "steps=150", "device=cpu").status == 0
    first, second = (json.loads((folder / name / "classifier.json").read_text()) for name in ("up", "again"))
    assert first == second


def test_the_classifier_of_another_policy_and_a_damaged_one_are_refused(folder, trained):
    (own, _), (other, _) = load_policy(folder / "run"), load_policy(folder / "run")
    other.normalizer.streams["state"].half_range += 1
    with pytest.raises(ValueError, match="train-classifier"):
        Classifier.load(folder / "up", other)
    with pytest.raises(FileNotFoundError, match="train-classifier"):
        Classifier.load(folder, own)
    weights = folder / "up" / "classifier.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match="SHA-256"):
            Classifier.load(folder / "up", own)
    finally:
        weights.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition": "notes.way!=sideways"}, "but of 40 in .* it holds in 40"),
        ({"condition": "nots.way=up"}, "nots.way"),
        ({"condition": "notes.way"}, "condition='notes.way' needs one of"),
        ({"steps": "0"}, "steps must be above 0, got 0"),
        ({"run": "{folder}/demos"}, "demos"),
        ({"checkpoint": "first"}, "'last' or 'best'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(folder, recede, change, message):
    options = {"run": f"{folder / 'run'}", "dataset": f"{folder / 'demos'}", "condition": "notes.way=up"}
    options |= {key: value.format(folder=folder) for key, value in change.items()}
    result = recede("train-classifier", *(f"{key}={value}" for key, value in options.items()), f"out={folder / 'no'}")
    assert result.status == 2
    assert re.search(message, result.err), result.err
    assert not (folder / "no" / "classifier.json").exists()
