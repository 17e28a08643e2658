"""The errors of a policy stand beside those of guesses that know nothing, and both are computed as by hand."""

from dataclasses import replace

import numpy as np
import pytest
from policies import HORIZONS, SPECIFICATION, regression
from recede.datasets.selection import Selected
from recede.datasets.store import DemonstrationStore
from recede.diagnosis.errors import measure_errors
from recede.policy.engines.eager import EagerEngine
from recede.specification import Stream

MOVED = replace(SPECIFICATION, action=Stream("action", (2,), hold=("last", "zero")))
LENGTHS = (5, 9)


@pytest.fixture
def store(tmp_path):
    store, rng = DemonstrationStore.create(tmp_path / "d.zarr", MOVED), np.random.default_rng(0)
    for length in LENGTHS:
        store.append({stream.name: rng.random((length, *stream.shape)) for stream in MOVED.streams})
    return store


def test_guesses_are_the_mean_and_the_action_before_or_zero(store):
    errors = measure_errors(EagerEngine(regression(MOVED)), store, store, windows=100)
    actions, rows = store.read("action").astype(np.float64), {"mean": list[float](), "hold": list[float]()}
    for start, length in zip((0, LENGTHS[0]), LENGTHS, strict=True):
        for step in range(start, start + length - HORIZONS.action + 1):
            recorded, before = actions[step : step + HORIZONS.action], actions[max(step - 1, start)]
            rows["mean"].append(np.abs(actions.mean(0) - recorded).mean(0))
            rows["hold"].append(np.abs(before * [1, 0] - recorded).mean(0))
    assert errors.chunks == len(rows["mean"])
    np.testing.assert_allclose(errors.mean, np.mean(rows["mean"], axis=0))
    np.testing.assert_allclose(errors.hold, np.mean(rows["hold"], axis=0))
    np.testing.assert_allclose(errors.span, np.ptp(actions, axis=0))


def test_episodes_that_are_shorter_than_the_action_horizon_are_refused(store):
    with pytest.raises(ValueError, match="every episode is shorter than the 9 steps of the action horizon"):
        measure_errors(_long_horizon(), Selected(store, [0]), store, windows=3)


def _long_horizon():
    engine = EagerEngine(regression(MOVED))
    engine.horizons = replace(HORIZONS, prediction=12, action=9)
    return engine
