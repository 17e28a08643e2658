"""Executions that request the next chunk early. An action (c, i) is that of index i of the chunk of step c."""

import itertools

import numpy as np
import pytest
from episodes import observation, request_steps, run
from recede.configs.components.executions import EXECUTIONS
from recede.execution.overlapping import AsyncReplace, CrossFade, TemporalEnsemble
from recede.specification import Horizons

OVERLAPPING = [name for name in EXECUTIONS if name != "receding"]
UNMIXED = ["async_replace", "rtc", "warm_start"]
HORIZONS = [
    Horizons(observation, observation - 1 + action + spare, action)
    for observation, action, spare in itertools.product((1, 2, 3), (1, 2, 3, 5), (0, 1, 4))
]


@pytest.mark.parametrize("name", UNMIXED)
def test_every_action_is_executed_in_its_own_step(name):
    """Index To - 1 of a chunk is the step of its request, however late the chunk is. A chunk must outlast the delay."""
    for horizons, delay in itertools.product(HORIZONS, (0, 1, 3)):
        if max(horizons.action, delay) + delay > horizons.future:
            with pytest.raises(ValueError, match=r"must last for max\(every, delay\) \+ delay steps"):
                EXECUTIONS[name]().build(horizons, delay=delay)
            continue
        requests, actions = run(EXECUTIONS[name]().build(horizons, delay=delay), 23, delay=delay)
        for step, (number, index) in enumerate(actions):
            assert requests[int(number)] is not None
            assert number + index - (horizons.observation - 1) == step
            assert index < horizons.prediction


@pytest.mark.parametrize("name", OVERLAPPING)
@pytest.mark.parametrize(("delay", "period"), [(0, 3), (2, 3), (5, 5)])
def test_requests_come_every_few_steps_but_not_before_the_last_chunk(name, delay, period):
    requests, _ = run(EXECUTIONS[name](every=3).build(Horizons(2, 16, 8), delay=delay), 40, delay=delay)
    steps = request_steps(requests)
    assert {later - earlier for earlier, later in itertools.pairwise(steps[1:])} == {period}


def test_async_replace_by_hand():
    _, actions = run(AsyncReplace(Horizons(2, 8, 3), delay=2), 9, delay=2)
    assert actions == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (3, 3), (3, 4), (3, 5), (6, 3)]


def test_crossfade_by_hand():
    _, actions = run(CrossFade(Horizons(2, 8, 3), delay=2, steps=2), 8, delay=2)
    assert actions[:5] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    np.testing.assert_allclose(actions[5], (3 / 3, (2 * 6 + 3) / 3))  # two thirds of (0, 6) and one of (3, 3)
    np.testing.assert_allclose(actions[6], (2 * 3 / 3, (7 + 2 * 4) / 3))
    assert actions[7] == (3, 5)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("late", [[0], [1], [2], [3], [0, 2, 1, 3, 3, 0]], ids=str)
def test_temporal_ensemble_is_the_published_sum(late, every):
    """Of the n chunks that plan a step, the i-th oldest has the weight exp(-k i).

    Against a full table: without delay, and with a chunk every step, it is the sum of Zhao et al. 2023. late: the
    delays of the chunks in turn, in steps; the robot waits for the first chunk.
    """
    k, chunks = 0.3, np.random.default_rng(0).normal(size=(40, 10, 2))
    execution = TemporalEnsemble(Horizons(2, 10, 3), delay=max(late), every=every, decay=k)
    lateness, accepted, requested_at = itertools.cycle(late), [], None
    for step in range(40):
        execution.observe(observation(step))
        for _ in range(2):  # an accepted chunk makes room for the next request, whose chunk may arrive in the same step
            if execution.request() is not None:
                requested_at, due = step, step + (next(lateness) if accepted else 0)
            if requested_at is not None and step == due:
                execution.accept(chunks[requested_at])
                accepted.append(requested_at)
                requested_at = None
        planning = [begin for begin in accepted if step < begin + 9]  # 9 of the 10 steps lie ahead at a request
        weights = np.exp(-k * np.arange(len(planning)))
        actions = np.stack([chunks[begin, 1 + step - begin] for begin in planning])
        np.testing.assert_allclose(execution.act(), weights @ actions / weights.sum(), rtol=1e-12)
    assert len(accepted) >= 40 // max(every, *late) - 1


@pytest.mark.parametrize("name", OVERLAPPING)
def test_a_chunk_that_arrives_after_all_of_its_steps_moves_nothing(name):
    execution = EXECUTIONS[name](every=1).build(Horizons(1, 3, 1), hold=("last", "zero"))
    execution.observe(observation(0))
    execution.request()
    execution.accept(np.ones((3, 2)))
    execution.observe(observation(1))
    execution.request()
    for step in range(2, 6):
        execution.observe(observation(step))
    assert execution.act().tolist() == [1, 0]  # the plan has run out
    execution.accept(np.full((3, 2), 2.0))
    assert execution.act().tolist() == [2, 0]
