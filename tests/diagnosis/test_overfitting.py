"""A training on one episode: it learns what the observations tell, and says so where they tell nothing."""

from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
import toys
from recede.datasets.store import DemonstrationStore
from recede.diagnosis.errors import Errors
from recede.diagnosis.overfitting import Sources, look_at_overfitting
from recede.diagnosis.overfitting import _settings_of as settings_of
from recede.diagnosis.overfitting import _verdict as verdict


def overfitted(path, *, steps, run=None):
    facts, before = {}, set(Path(gettempdir()).glob(".recede-overfit*"))
    sources = Sources(str(path), None, DemonstrationStore.open(path), run)
    findings = list(look_at_overfitting(sources, facts, steps=steps, device="cpu"))
    assert set(Path(gettempdir()).glob(".recede-overfit*")) == before
    return findings, facts


@pytest.mark.parametrize(
    ("error", "severity", "words"),
    [(0.02, "ok", "can learn"), (0.1, "warning", "learns slowly"), (0.2, "problem", "cannot learn")],
)
def test_the_verdict_is_against_the_mean_action(error, severity, words):
    values = np.full((3, 2), [[error], [0.25], [0.1]])
    finding = verdict(Errors(*values, span=np.ones(2), chunks=9), 0, 300, toys.SPECIFICATION)
    assert finding.severity == severity
    assert words in finding.what
    assert f"errs by {error:.1%} of the ranges; holding the last action errs by 10.0%" in finding.what
    assert severity == "ok" or "steps=600" in finding.remedy


def test_a_run_is_trained_again_with_its_own_settings(trained, reaches):
    settings = settings_of(str(trained), DemonstrationStore.open(reaches))
    assert settings["policy"].network.channels == [16, 32]
    assert settings["learning_rate"] == 4e-3
    assert (settings["horizons"].prediction, settings["observe"]) == (16, ["position", "target"])


def store_of(path, action, position):
    store = DemonstrationStore.create(path, toys.SPECIFICATION)
    for rows in (0 * action, action):  # the first episode has nothing to learn
        streams = {"position": position, "target": 0 * position, "action": rows}
        store.append({name: values.astype("float32") for name, values in streams.items()})
    return path


def circle():
    phase = np.linspace(0, 6, 40)
    return 0.8 * np.stack([np.cos(phase), np.sin(phase)], axis=1)


def test_a_few_steps_leave_facts_and_nothing_else(trained, tmp_path):
    store = store_of(tmp_path / "d.zarr", circle(), circle())
    (finding, *dimensions), facts = overfitted(store, steps=2, run=str(trained))
    assert "after 2 steps on episode 1 alone" in finding.what
    assert [entry.what.partition(":")[0] for entry in dimensions] == ["action.x", "action.y"]
    assert len(facts["losses"]) == 2


def test_actions_that_never_move_are_a_problem(tmp_path):
    (finding,), _ = overfitted(store_of(tmp_path / "d.zarr", 0 * circle(), circle()), steps=2)
    assert finding.severity == "problem"
    assert "constant within every episode" in finding.what


@pytest.mark.slow
def test_a_smooth_episode_is_learned_and_noise_is_not(tmp_path, trained):
    (finding, *_), _ = overfitted(store_of(tmp_path / "a.zarr", circle(), circle()), steps=200, run=str(trained))
    assert finding.severity == "ok", finding
    noise = np.random.default_rng(0).uniform(-1, 1, (40, 2))  # after observations that are all the same
    (finding, *_), _ = overfitted(store_of(tmp_path / "b.zarr", noise, 0 * circle()), steps=200, run=str(trained))
    assert finding.severity == "problem", finding
    assert "cannot learn" in finding.what
