"""A policy observes some streams of a task, context that replaces the task's, and the sentence of an episode."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import recede
import toys
from recede.datasets.facts import EpisodeFacts
from recede.datasets.mirror import Mirrored
from recede.datasets.observing import Observing, Worded
from recede.datasets.store import DemonstrationStore
from recede.envs.promises import PromiseError
from recede.evaluation.rollout import rollout
from recede.evaluation.view import view_of
from recede.execution.receding import RecedingHorizon
from recede.policy.engines.wrapping import InstructedEngine
from recede.specification import WORDS, Horizons, Specification, Stream

POSITION, TARGET = toys.SPECIFICATION.observations
ACTION, DT = toys.SPECIFICATION.action, toys.SPECIFICATION.control_dt
HORIZONS = Horizons(observation=1, prediction=2, action=1)
GOAL = replace(TARGET, context=True)
ASKED = replace(toys.REACH, specification=Specification((POSITION, GOAL), ACTION, DT))


def spelled(sentence):
    """The first two letters as numbers."""
    return np.array([ord(letter) for letter in sentence[:2]], np.float32)


class Asking(toys.Reach):
    """It says what it asks for."""

    def reset(self, *, seed: Any = None, options=None) -> Any:
        observation, info = super().reset(seed=seed)
        return observation, info | {"sentence": f"{'ab'[seed % 2]}z go"}


class Recorder:
    """An engine that keeps what it observes and stays where it is."""

    name, precision, horizons, noise_shape = "recorder", "fp32", HORIZONS, (1, 2, 2)

    def __init__(self, specification):
        self.specification, self.observed = specification, []

    def predict(self, observation, noise, guidance=()):
        self.observed.append(observation)
        return np.zeros((len(noise[0]), 2, 2), np.float32)


def observed(task, specification=None, *, seeds=(3, 4), engine: Any = None, **options) -> Any:
    """What an engine observes in two episodes of two steps."""
    engine = engine or Recorder(specification)
    rollout(
        engine,
        replace(task, max_steps=2),
        seeds,
        execution=lambda: RecedingHorizon(HORIZONS),
        progress=False,
        **options,
    )
    return getattr(engine, "observed", None)


def test_a_policy_observes_only_its_own_streams():
    for observation in observed(toys.REACH, Specification((POSITION,), ACTION, DT)):
        assert observation.keys() == {"position"}


def test_stated_context_replaces_that_of_the_task():
    engine = Recorder(ASKED.specification)
    observed(ASKED, engine=InstructedEngine(engine, {"target": [0.25, -0.5]}))
    for observation in engine.observed:
        assert (observation["target"] == np.array([0.25, -0.5], np.float32)).all()
    for observation in observed(ASKED, engine=Recorder(ASKED.specification)):
        assert (observation["target"][0, 0] != observation["target"][1, 0]).all()


def test_the_sentence_of_an_episode_is_observed_as_words():
    specification = Specification((POSITION, Stream(WORDS, (2,), context=True)), ACTION, DT)
    task = replace(toys.REACH, make=Asking)
    for observation in observed(task, specification, embed=spelled):
        assert observation[WORDS][:2, 0].tolist() == [spelled("bz").tolist(), spelled("az").tolist()]
    view = view_of(toys.REACH, specification, embed=spelled)
    with pytest.raises(PromiseError, match=r"info\['sentence'\].* give one for all episodes with words="):
        view.begin({"success": False})


def test_a_policy_that_needs_more_than_the_task_has_names_it():
    words = Specification((POSITION, Stream(WORDS, (2,), context=True)), ACTION, DT)
    with pytest.raises(ValueError, match="words: only on one side"):
        view_of(toys.REACH, words)


@pytest.fixture
def store(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", toys.SPECIFICATION)
    for index, sentence in enumerate(["az", "bz", "az"]):
        rows = np.full((3 + index, 2), index / 10, np.float32)
        store.append({"position": rows, "target": rows, "action": rows}, facts=EpisodeFacts(sentence=sentence))
    return store


def test_demonstrations_with_some_streams_and_with_words(store):
    demonstrations = Worded(Observing(store, ["position"]), spelled, digest="1")
    recede.check_demonstrations(demonstrations)
    assert [stream.name for stream in demonstrations.specification.observations] == ["position", WORDS]
    assert demonstrations.specification.context == (Stream(WORDS, (2,), context=True),)
    expected = np.repeat([spelled("az"), spelled("bz"), spelled("az")], [3, 4, 5], axis=0)
    np.testing.assert_array_equal(demonstrations.read(WORDS), expected)
    np.testing.assert_array_equal(demonstrations.read(WORDS, 2, 8), expected[2:8])
    assert demonstrations.content(WORDS) != Worded(store, spelled, digest="2").content(WORDS)
    mirrored = Mirrored(demonstrations, dict.fromkeys(("position", "action"), np.negative))
    np.testing.assert_array_equal(mirrored.read(WORDS), np.tile(demonstrations.read(WORDS), (2, 1)))
    np.testing.assert_array_equal(mirrored.read("action")[-1], -demonstrations.read("action")[-1])
    assert demonstrations.content("position") == store.content("position")


def test_demonstrations_that_cannot_be_observed_so_are_refused(store):
    with pytest.raises(ValueError, match="no observation 'positon' to observe: did you mean 'position'"):
        Observing(store, ["positon"])
    rows = np.zeros((2, 2), np.float32)
    store.append({"position": rows, "target": rows, "action": rows})
    with pytest.raises(ValueError, match=r"episode 3 has no sentence: .* episodes=\"sentence!=''\""):
        Worded(store, spelled, digest="1")
