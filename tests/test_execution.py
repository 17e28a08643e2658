"""Executions: one checker that all of them must pass, and receding horizon step by step."""

import itertools

import numpy as np
import pytest
from recede.control.execution import Execution, RecedingHorizon
from recede.specification import Horizons

EXECUTIONS = Execution.__subclasses__()

HORIZONS = [
    Horizons(observation, observation - 1 + action + spare, action)
    for observation, action, spare in itertools.product((1, 2, 3), (1, 2, 3, 5), (0, 1, 4))
]


def observation(step):
    return {"state": np.array([step, -step], dtype=np.float32), "image": np.full((2, 2, 3), step, dtype=np.uint8)}


def chunk(number, horizons):
    """Chunk `number`: its action at index i is (number, i)."""
    return np.array([(number, index) for index in range(horizons.prediction)], dtype=np.float32)


def run(execution, num_steps):
    """The control loop: for each step the history that was asked for (or None), and the action."""
    asked, acted = [], []
    for step in range(num_steps):
        execution.observe(observation(step))
        history = execution.request()
        asked.append(history)
        if history is not None:
            execution.accept(chunk(step, execution.horizons))
        acted.append(tuple(execution.act()))
    return asked, acted


@pytest.fixture(params=EXECUTIONS, ids=lambda each: each.__name__)
def make(request):
    return request.param


@pytest.mark.parametrize("horizons", HORIZONS, ids=str)
def test_an_execution_keeps_its_promises(make, horizons):
    execution = make(horizons)
    with pytest.raises(RuntimeError, match="observe the first step before"):
        execution.request()
    with pytest.raises(RuntimeError, match=r"no action is planned.*request\(\)"):
        execution.act()
    asked, acted = run(execution, 17)

    assert asked[0] is not None  # nothing can be done before the first chunk
    for step, history in enumerate(asked):
        if history is not None:
            seen = [max(step + 1 - horizons.observation + index, 0) for index in range(horizons.observation)]
            assert history["state"][:, 0].tolist() == seen
            assert history["image"][:, 0, 0, 0].tolist() == seen
            assert history["state"].dtype == np.float32
            assert history["image"].dtype == np.uint8
    # Every action was planned for its own step: index To - 1 of a chunk is the step at which it was asked for.
    for step, (number, index) in enumerate(acted):
        assert asked[int(number)] is not None
        assert number + index - (horizons.observation - 1) == step
        assert index < horizons.prediction

    execution.reset()
    with pytest.raises(RuntimeError, match="observe the first step before"):
        execution.request()
    with pytest.raises(RuntimeError, match="no action is planned"):
        execution.act()
    again = run(execution, 17)
    assert again[1] == acted
    assert [each is None for each in again[0]] == [each is None for each in asked]


def test_an_execution_asks_until_it_is_answered(make):
    execution = make(Horizons(2, 4, 2))
    execution.observe(observation(0))
    first, second = execution.request(), execution.request()
    assert first is not None
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_arrays_may_be_used_again(make):
    execution = make(Horizons(2, 4, 2))
    seen, planned = observation(1), chunk(0, execution.horizons)
    execution.observe(seen)
    seen["state"][:] = 7
    execution.observe(seen)
    seen["state"][:] = 9
    assert execution.request()["state"][:, 0].tolist() == [1, 7]
    execution.accept(planned)
    planned[:] = np.nan
    assert np.isfinite(execution.act()).all()


@pytest.mark.parametrize("shape", [(3, 2), (5, 2), (4,), (1, 4, 2), (0, 2)])
def test_a_chunk_of_another_shape_is_refused(make, shape):
    execution = make(Horizons(2, 4, 2))
    execution.observe(observation(0))
    with pytest.raises(ValueError, match=f"each of the 4 steps of the prediction horizon, got shape \\({shape[0]}"):
        execution.accept(np.zeros(shape))
    assert execution.request() is not None


@pytest.mark.parametrize("horizons", HORIZONS, ids=str)
def test_receding_horizon_executes_every_chunk_from_the_current_step_on(horizons):
    asked, acted = run(RecedingHorizon(horizons), 17)
    for step in range(17):
        start = step - step % horizons.action  # when the chunk that is under way was asked for
        assert (asked[step] is not None) == (step == start)
        assert acted[step] == (start, horizons.observation - 1 + step - start)


def test_receding_horizon_by_hand():
    _, acted = run(RecedingHorizon(Horizons(observation=2, prediction=6, action=3)), 8)
    assert acted == [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (3, 3), (6, 1), (6, 2)]


def test_a_chunk_that_comes_early_replaces_the_plan():
    execution = RecedingHorizon(Horizons(2, 6, 3))
    execution.observe(observation(0))
    for number in (0, 1):
        execution.accept(chunk(number, execution.horizons))
    assert [tuple(execution.act()) for _ in range(3)] == [(1, 1), (1, 2), (1, 3)]
    assert execution.request() is not None
