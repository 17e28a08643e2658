"""Executions whose chunks continue the current plan: the prefixes of their requests."""

import itertools

import numpy as np
import pytest
from episodes import chunk, observation, run
from recede.execution.guided import RealTimeChunking, WarmStart, prefix_weights
from recede.specification import Horizons


def test_real_time_chunking_holds_the_steps_that_will_be_over_when_the_chunk_arrives():
    requests, _ = run(RealTimeChunking(Horizons(2, 8, 3), delay=2, limit=7.0, exact=False), 4, delay=2)
    prefix = requests[3].prefix
    assert (prefix.limit, prefix.exact, prefix.start) == (7.0, False, 1.0)
    # Step 2 is over. Steps 3 to 6 are planned, at indices 4 to 7 of the first chunk; two of them will be over.
    assert prefix.actions.tolist() == [[0, 3], [0, 4], [0, 5], [0, 6], [0, 7], [0, 0], [0, 0], [0, 0]]
    c = np.array([2 / 3, 1 / 3])
    falling = c * (np.exp(c) - 1) / (np.e - 1)
    np.testing.assert_allclose(prefix.weights, [1, 1, 1, *falling, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_real_time_chunking_holds_past_steps_to_the_commanded_actions(delay):
    """Past steps precede the step of the request in a chunk. Steps before the first observation have weight 0."""
    horizons = Horizons(observation=4, prediction=12, action=3)
    execution = RealTimeChunking(horizons, delay=delay, every=max(delay, 1), limit=5.0, exact=False)
    actions, requested_at, num_checked = [], None, 0
    for step in range(12):
        # Another action than the planned one takes effect in every third step. Its array is reused.
        changed = np.full(2, 100.0 + step) if step % 3 == 1 else None
        if step:
            actions.append(execution.act() if changed is None else changed.copy())
        execution.observe(observation(step), commanded=changed)
        if changed is not None:
            changed[:] = np.nan
        if requested_at is not None and step - requested_at >= delay:
            execution.accept(chunk(requested_at, execution.horizons))
            requested_at = None
        request = execution.request()
        if request is None:
            continue
        if step == 0 or delay == 0:
            execution.accept(chunk(step, execution.horizons))
        else:
            requested_at = step
        if request.prefix is not None:
            num_past = min(step, 3)
            np.testing.assert_array_equal(request.prefix.actions[3 - num_past : 3], actions[len(actions) - num_past :])
            assert request.prefix.weights[:3].tolist() == [0] * (3 - num_past) + [1] * num_past
            num_checked += 1
    assert num_checked >= 3
    execution.reset()
    execution.observe(observation(0), commanded=np.ones(2))
    execution.request()
    execution.accept(chunk(0, execution.horizons))
    execution.observe(observation(1))
    execution.observe(observation(2))
    weights = execution.request()
    assert weights is None or weights.prefix.weights[:3].tolist() == [0, 1, 1]  # no action of the last episode


def test_weights_of_the_prefix_fall_from_one_to_zero():
    for num_planned, delay in itertools.product(range(1, 16), range(18)):
        weights = prefix_weights(num_planned, delay)
        assert (weights[:delay] == 1).all()
        assert (np.diff(weights[max(delay - 1, 0) :]) < 0).all()
        assert (weights > 0).all()


def test_warm_start_shifts_the_plan():
    requests, _ = run(WarmStart(Horizons(2, 8, 3), delay=2, start=0.3), 4, delay=2)
    prefix = requests[3].prefix
    assert prefix.actions[:, 1].tolist() == [3, 4, 5, 6, 7, 7, 7, 7]  # from the previous step on; the last is repeated
    assert prefix.start == 0.3
    assert not prefix.weights.any()


def test_warm_start_continues_with_zero_after_the_plan():
    execution = WarmStart(Horizons(2, 8, 3), delay=2, start=0.3, hold=("last", "zero"))
    requests, _ = run(execution, 4, delay=2)
    assert requests[3].prefix.actions[:, 1].tolist() == [3, 4, 5, 6, 7, 0, 0, 0]
    assert requests[3].prefix.actions[:, 0].tolist() == [0] * 8  # the number of the chunk
    assert requests[3].prefix.actions.dtype == np.float32
