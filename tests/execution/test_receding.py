"""Receding horizon, step by step. An action (c, i) is that of index i of the chunk that was requested in step c."""

import itertools

import numpy as np
import pytest
from episodes import request_steps, run
from recede.execution.receding import RecedingHorizon
from recede.specification import Horizons

HORIZONS = [
    Horizons(observation, observation - 1 + action + spare, action)
    for observation, action, spare in itertools.product((1, 2, 3), (1, 2, 3, 5), (0, 1, 4))
]


@pytest.mark.parametrize("horizons", HORIZONS, ids=str)
def test_every_chunk_is_executed_from_the_current_step_on(horizons):
    requests, actions = run(RecedingHorizon(horizons), 17)
    for step in range(17):
        start = step - step % horizons.action  # the step in which the current chunk was requested
        assert (requests[step] is not None) == (step == start)
        assert actions[step] == (start, horizons.observation - 1 + step - start)


def test_receding_horizon_by_hand():
    _, actions = run(RecedingHorizon(Horizons(observation=2, prediction=6, action=3)), 8)
    assert actions == [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (3, 3), (6, 1), (6, 2)]
    _, actions = run(RecedingHorizon(Horizons(observation=2, prediction=6, action=3)), 9, delay=2)
    assert actions == [(0, 1), (0, 2), (0, 3), (0, 3), (0, 3), (3, 1), (3, 2), (3, 3), (3, 3)]


@pytest.mark.parametrize("every", [1, 3, 15])
def test_the_robot_stops_after_every_actions(every):
    requests, actions = run(RecedingHorizon(Horizons(2, 16, 8), every=every), 31)
    assert request_steps(requests) == list(range(0, 31, every))
    assert [index for _, index in actions] == [1 + step % every for step in range(31)]


def test_a_robot_that_waits_for_a_chunk_does_not_keep_its_last_velocity():
    execution = RecedingHorizon(Horizons(1, 3, 2), hold=("last", "zero"))
    requests, actions = run(execution, 8, delay=3, answer=lambda _, __: np.ones((3, 2)))
    assert request_steps(requests) == [0, 2, 7]
    assert actions == [(1, 1), (1, 1), (1, 0), (1, 0), (1, 0), (1, 1), (1, 1), (1, 0)]


@pytest.mark.parametrize("horizons", HORIZONS, ids=str)
def test_it_looks_at_the_steps_that_a_request_holds(horizons):
    execution, chunk, looks = RecedingHorizon(horizons), np.zeros((horizons.prediction, 1)), [True]
    for step in range(17):
        execution.observe({"state": np.zeros(1)})
        if execution.request() is not None:
            assert all(looks[max(step + 1 - horizons.observation, 0) :])
            execution.accept(chunk)
        looks.append(execution.looks_next)
    assert sum(looks[1:17]) <= 16 * min(horizons.observation / horizons.action, 1) + horizons.observation


class Impatient(RecedingHorizon):
    """Plans in every step."""

    def _is_due(self):
        return True


def test_an_execution_that_plans_at_other_times_looks_at_every_step():
    execution = Impatient(Horizons(1, 8, 8))
    execution.observe({"state": np.zeros(1)})
    execution.request()
    execution.accept(np.zeros((8, 1)))
    assert execution.looks_next
