"""The chunks of a step are those that the policy samples from the recorded observations up to it."""

import numpy as np
import pytest
from policies import HORIZONS, SPECIFICATION, diffusion, regression
from recede.datasets.store import DemonstrationStore
from recede.evaluation.rollout import sample_chunks
from recede.evaluation.viewing.foresight import Foresight
from recede.evaluation.viewing.showing import Showing
from recede.policy.engines.eager import as_engine
from viewed import decoded


@pytest.fixture
def store(tmp_path):
    made, rng = DemonstrationStore.create(tmp_path / "x.zarr", SPECIFICATION), np.random.default_rng(0)
    for length in (9, 12):
        made.append(
            {
                stream.name: rng.uniform(0, 1, (length, stream.size)).astype(stream.dtype)
                for stream in SPECIFICATION.streams
            }
        )
    return made


def test_chunks_follow_from_the_observations_up_to_their_step(store):
    engine = as_engine(diffusion())
    foresight = Foresight("runs/x", engine, store, samples=5, seed=3)
    chunks = foresight.chunks(1, 4)
    assert chunks.shape == (5, HORIZONS.prediction, 2)
    assert len(np.unique(chunks.reshape(5, -1), axis=0)) == 5  # each has noise of its own
    rows = {stream.name: store.read(stream.name, 12, 14) for stream in SPECIFICATION.observations}
    np.testing.assert_array_equal(chunks, sample_chunks(engine, rows, count=5, seed=3))
    np.testing.assert_array_equal(foresight.chunks(1, 4), chunks)
    assert not np.array_equal(foresight.chunks(1, 5), chunks)
    first = {name: np.repeat(store.read(name, 9, 10), 2, axis=0) for name in rows}
    np.testing.assert_array_equal(foresight.chunks(1, 0), sample_chunks(engine, first, count=5, seed=3))


def test_a_policy_without_noise_has_one_chunk(store):
    foresight = Foresight("runs/x", as_engine(regression()), store, samples=5)
    assert foresight.described() == {"name": "x", "samples": 1, "observation": 2, "prediction": 6, "action": 3}
    answer = Showing(demonstrations=store, name="x", foresight=foresight).fan(0, 3)
    assert (answer["count"], answer["points"]) == (1, None)
    np.testing.assert_array_equal(decoded(answer["chunks"]).reshape(1, 6, 2), foresight.chunks(0, 3))


def test_demonstrations_of_other_streams_are_refused(seen_store):
    with pytest.raises(ValueError, match=r"must have the streams of the policy in runs/x .*name demonstrations"):
        Foresight("runs/x", as_engine(diffusion()), seen_store)
