"""What all executions share, beyond the promises that `check_execution` checks."""

import numpy as np
import pytest
from episodes import chunk, observation, run
from recede.configs.components.executions import EXECUTIONS, RealTimeChunkingConfig
from recede.specification import Horizons


@pytest.fixture(params=EXECUTIONS)
def config(request):
    return EXECUTIONS[request.param]


@pytest.mark.parametrize("every", [0, 16])
def test_requests_that_are_too_frequent_or_too_rare_are_refused(config, every):
    with pytest.raises(ValueError, match=rf"every.* (1 to 15|above 0).*got {every}"):
        config(every=every).build(Horizons(2, 16, 8))


def test_requests_come_once_an_action_horizon_unless_set(config):
    execution = config(every=None).build(Horizons(2, 16, 5))
    assert execution.every == 5
    requests, _ = run(execution, 11)
    assert [request is not None for request in requests] == [step % 5 == 0 for step in range(11)]


@pytest.mark.parametrize("delay", [-1, 8])
def test_a_delay_that_no_chunk_outlasts_is_refused(config, delay):
    if delay < 0:
        with pytest.raises(ValueError, match=r"delay .*got -1"):
            config().build(Horizons(), delay=delay)
    elif config is EXECUTIONS["receding"]:
        config().build(Horizons(), delay=delay)
    else:
        with pytest.raises(ValueError, match=r"8 \+ 8, but only 15 of 16.*execution=receding"):
            config().build(Horizons(), delay=delay)


def test_the_longest_of_the_last_delays_is_expected():
    execution = RealTimeChunkingConfig().build(Horizons(1, 16, 4), delay=2)
    assert execution.expected_delay == 2
    run(execution, 30, delay=3)
    assert execution.expected_delay == 3
    execution.reset()
    assert execution.expected_delay == 3
    run(execution, 60, delay=1)
    assert execution.expected_delay == 1  # ten chunks later


@pytest.mark.parametrize("shape", [(3, 2), (5, 2), (4,), (1, 4, 2), (0, 2)])
def test_a_chunk_of_another_shape_is_refused(config, shape):
    execution = config().build(Horizons(2, 4, 2))
    execution.observe(observation(0))
    execution.request()
    with pytest.raises(ValueError, match=f"each of the 4 steps .*got shape \\({shape[0]}"):
        execution.accept(np.zeros(shape))
    execution.accept(chunk(0, execution.horizons))


def test_a_chunk_that_is_not_under_way_is_refused(config):
    execution = config().build(Horizons(2, 8, 2), delay=3)
    execution.observe(observation(0))
    with pytest.raises(RuntimeError, match=r"request\(\) before accept\(\)"):
        execution.accept(chunk(0, execution.horizons))
