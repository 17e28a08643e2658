"""Executions: one checker that all of them must pass, and receding horizon step by step."""

import itertools

import numpy as np
import pytest
from recede.execution.guided import RealTimeChunking, WarmStart, prefix_weights
from recede.execution.interface import Execution
from recede.execution.overlapping import AsyncReplace, CrossFade, TemporalEnsemble
from recede.execution.receding import RecedingHorizon
from recede.specification import Horizons

EXECUTIONS = [RecedingHorizon, AsyncReplace, *AsyncReplace.__subclasses__()]
assert {Execution, *EXECUTIONS} >= {each for kind in [Execution, *EXECUTIONS] for each in kind.__subclasses__()}

HORIZONS = [
    Horizons(observation, observation - 1 + action + spare, action)
    for observation, action, spare in itertools.product((1, 2, 3), (1, 2, 3, 5), (0, 1, 4))
]
DELAYS = 0, 1, 3


def observation(step):
    return {"state": np.array([step, -step], dtype=np.float32), "image": np.full((2, 2, 3), step, dtype=np.uint8)}


def chunk(number, horizons):
    """Chunk `number`: its action at index i is (number, i)."""
    return np.array([(number, index) for index in range(horizons.prediction)], dtype=np.float32)


def run(execution, num_steps, *, delay=0, answer=chunk):
    """The control loop: for each step the request that was made (or None), and the action.

    A chunk comes `delay` steps after it was asked for; the first one is waited for.
    """
    asked, acted, coming = [], [], None
    for step in range(num_steps):
        execution.observe(observation(step))
        if coming is not None and step - coming[0] >= delay:
            execution.accept(coming[1])
            coming = None
        request = execution.request()
        asked.append(request)
        if request is not None:
            coming = step, answer(step, execution.horizons)
            if step == 0 or delay == 0:
                execution.accept(coming[1])
                coming = None
                assert execution.request() is None  # once a step is enough
        acted.append(tuple(execution.act()))
    return asked, acted


@pytest.fixture(params=EXECUTIONS, ids=lambda each: each.__name__)
def make(request):
    return request.param


def possible(kind):
    """Horizons and delays; where chunks are too short for the delay, an execution that does not stop refuses them."""
    for horizons, delay in itertools.product(HORIZONS, DELAYS):
        future = horizons.prediction - horizons.observation + 1
        every = 1 if kind is TemporalEnsemble else horizons.action
        if issubclass(kind, AsyncReplace) and max(every, delay) + delay > future:
            with pytest.raises(ValueError, match=r"a chunk must last for max\(every, delay\) \+ delay steps"):
                kind(horizons, delay=delay)
        else:
            yield horizons, delay


def test_an_execution_keeps_its_promises(make):
    for horizons, delay in possible(make):
        check(make, horizons, delay)


def check(make, horizons, delay):
    execution = make(horizons, delay=delay)
    with pytest.raises(RuntimeError, match="observe the first step before"):
        execution.request()
    with pytest.raises(RuntimeError, match=r"no action is planned.*request\(\)"):
        execution.act()
    asked, acted = run(execution, 17, delay=delay)

    assert asked[0] is not None  # nothing can be done before the first chunk
    assert asked[0].prefix is None
    for step, request in enumerate(asked):
        if request is not None:
            seen = [max(step + 1 - horizons.observation + index, 0) for index in range(horizons.observation)]
            assert request.history["state"][:, 0].tolist() == seen
            assert request.history["image"][:, 0, 0, 0].tolist() == seen
            assert request.history["state"].dtype == np.float32
            assert request.history["image"].dtype == np.uint8
    steps = [step for step, request in enumerate(asked) if request is not None]
    assert all(later - earlier >= max(delay, 1) for earlier, later in itertools.pairwise(steps[1:]))  # one at a time
    assert execution.expected_delay == delay

    execution.reset()
    with pytest.raises(RuntimeError, match="observe the first step before"):
        execution.request()
    with pytest.raises(RuntimeError, match="no action is planned"):
        execution.act()
    again = run(execution, 17, delay=delay)
    assert again[1] == acted
    assert [each is None for each in again[0]] == [each is None for each in asked]


@pytest.mark.parametrize("kind", [AsyncReplace, RealTimeChunking, WarmStart], ids=lambda kind: kind.__name__)
def test_every_action_was_planned_for_its_own_step(kind):
    """Index To - 1 of a chunk is the step at which it was asked for, however late it came."""
    for horizons, delay in possible(kind):
        asked, acted = run(kind(horizons, delay=delay), 23, delay=delay)
        for step, (number, index) in enumerate(acted):
            assert asked[int(number)] is not None
            assert number + index - (horizons.observation - 1) == step
            assert index < horizons.prediction


def agreeing(step, horizons):
    """Chunks that all say the same of every step."""
    steps = step - (horizons.observation - 1) + np.arange(horizons.prediction)
    return np.stack([np.sin(steps), np.cos(0.7 * steps)], axis=-1).astype(np.float32)


def constant(_, horizons):
    return np.full((horizons.prediction, 2), 0.1, dtype=np.float32)


def test_chunks_that_agree_are_followed_as_they_are(make):
    for horizons, delay in possible(make):
        _, acted = run(make(horizons, delay=delay), 23, delay=delay, answer=constant)
        assert np.array_equal(np.float32(acted), np.full((23, 2), 0.1, dtype=np.float32))
        if make is not RecedingHorizon or delay == 0:
            _, acted = run(make(horizons, delay=delay), 23, delay=delay, answer=agreeing)
            expected = np.stack([np.sin(np.arange(23)), np.cos(0.7 * np.arange(23))], axis=-1)
            np.testing.assert_allclose(acted, expected, atol=1e-6)


def test_an_execution_asks_for_one_chunk_at_a_time(make):
    execution = make(Horizons(2, 8, 2), delay=3)
    for step in range(2):
        execution.observe(observation(step))
        assert (execution.request() is None) == (step > 0)
    execution.accept(chunk(0, execution.horizons))
    with pytest.raises(RuntimeError, match="no chunk was asked for"):
        execution.accept(chunk(0, execution.horizons))


@pytest.mark.parametrize("kind", [AsyncReplace, CrossFade, RealTimeChunking, WarmStart], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("delay", "period"), [(0, 3), (2, 3), (5, 5)])
def test_chunks_are_asked_for_as_often_as_wanted_but_not_before_the_last_one_came(kind, delay, period):
    asked, _ = run(kind(Horizons(2, 16, 8), delay=delay, every=3), 40, delay=delay)
    steps = [step for step, request in enumerate(asked) if request is not None]
    assert {later - earlier for earlier, later in itertools.pairwise(steps[1:])} == {period}


@pytest.mark.parametrize("every", [0, 16])
def test_a_chunk_that_is_asked_for_too_often_or_too_rarely_is_refused(make, every):
    with pytest.raises(ValueError, match=f"every 1 to 15 steps, .*, got {every}"):
        make(Horizons(2, 16, 8), every=every)


@pytest.mark.parametrize("every", [1, 3, 15])
def test_a_robot_that_stops_to_think_executes_as_many_actions_as_wanted(every):
    asked, acted = run(RecedingHorizon(Horizons(2, 16, 8), every=every), 31)
    assert [step for step, request in enumerate(asked) if request] == list(range(0, 31, every))
    assert [index for _, index in acted] == [1 + step % every for step in range(31)]


def test_a_chunk_that_will_not_come_is_asked_for_again(make):
    execution = make(Horizons(2, 8, 2))
    execution.withdraw()  # nothing was asked for
    for step in range(2):
        execution.observe(observation(step))
        assert execution.request() is not None
        execution.withdraw()
        with pytest.raises(RuntimeError, match="no chunk was asked for"):
            execution.accept(chunk(0, execution.horizons))
    assert execution.request().history["state"][:, 0].tolist() == [0, 1]
    execution.accept(chunk(1, execution.horizons))
    while (request := execution.request()) is None:
        step += 1
        execution.observe(observation(step))
    execution.withdraw()
    again = execution.request()
    assert all(np.array_equal(again.history[name], request.history[name]) for name in request.history)


def test_delays_are_measured_in_steps_and_the_longest_of_the_last_is_expected():
    execution = RealTimeChunking(Horizons(1, 16, 4), delay=2)
    assert execution.expected_delay == 2
    run(execution, 30, delay=3)
    assert execution.expected_delay == 3
    execution.reset()
    assert execution.expected_delay == 3
    run(execution, 60, delay=1)
    assert execution.expected_delay == 1  # ten chunks later


def test_the_last_action_is_held_until_a_late_chunk_comes(make):
    """Nothing is made up and nothing repeats from the beginning, however late the chunk is."""
    execution = make(Horizons(2, 8, 2))
    _, acted = run(execution, 1)
    for step in range(1, 20):
        execution.observe(observation(step))
        execution.request()
        acted.append(tuple(execution.act()))
    assert acted[8:] == acted[8:9] * 12
    execution.accept(chunk(99, execution.horizons))
    assert np.isfinite(execution.act()).all()


@pytest.mark.parametrize("delay", [-1, 8])
def test_a_delay_that_no_chunk_lasts_for_is_refused(make, delay):
    if delay < 0:
        with pytest.raises(ValueError, match="delay must be 0 control steps or more, got -1"):
            make(Horizons(), delay=delay)
    elif make is RecedingHorizon:
        make(Horizons(), delay=delay)
    else:
        with pytest.raises(ValueError, match=r"8 \+ 8, but of 16 predicted ones 15 lie ahead.*execution=receding"):
            make(Horizons(), delay=delay)


def test_arrays_may_be_used_again(make):
    execution = make(Horizons(2, 4, 2))
    seen, planned = observation(1), chunk(0, execution.horizons)
    execution.observe(seen)
    seen["state"][:] = 7
    execution.observe(seen)
    seen["state"][:] = 9
    assert execution.request().history["state"][:, 0].tolist() == [1, 7]
    execution.accept(planned)
    planned[:] = np.nan
    action = execution.act()
    assert np.isfinite(action).all()
    action[:] = np.nan
    assert np.isfinite(execution.act()).all()


@pytest.mark.parametrize("shape", [(3, 2), (5, 2), (4,), (1, 4, 2), (0, 2)])
def test_a_chunk_of_another_shape_is_refused(make, shape):
    execution = make(Horizons(2, 4, 2))
    execution.observe(observation(0))
    execution.request()
    with pytest.raises(ValueError, match=f"each of the 4 steps of the prediction horizon, got shape \\({shape[0]}"):
        execution.accept(np.zeros(shape))
    execution.accept(chunk(0, execution.horizons))


@pytest.mark.parametrize("horizons", HORIZONS, ids=str)
def test_receding_horizon_executes_every_chunk_from_the_current_step_on(horizons):
    asked, acted = run(RecedingHorizon(horizons), 17)
    for step in range(17):
        start = step - step % horizons.action  # when the chunk that is under way was asked for
        assert (asked[step] is not None) == (step == start)
        assert acted[step] == (start, horizons.observation - 1 + step - start)


# By hand, with To = 2, Tp = 8, Ta = 3: what happens from step 3 on, when the second chunk is asked for.


def test_receding_horizon_by_hand():
    _, acted = run(RecedingHorizon(Horizons(observation=2, prediction=6, action=3)), 8)
    assert acted == [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (3, 3), (6, 1), (6, 2)]
    _, acted = run(RecedingHorizon(Horizons(observation=2, prediction=6, action=3)), 9, delay=2)
    assert acted == [(0, 1), (0, 2), (0, 3), (0, 3), (0, 3), (3, 1), (3, 2), (3, 3), (3, 3)]


def test_async_replace_by_hand():
    _, acted = run(AsyncReplace(Horizons(2, 8, 3), delay=2), 9, delay=2)
    assert acted == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (3, 3), (3, 4), (3, 5), (6, 3)]


def test_crossfade_by_hand():
    _, acted = run(CrossFade(Horizons(2, 8, 3), delay=2, steps=2), 8, delay=2)
    assert acted[:5] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    np.testing.assert_allclose(acted[5], (3 / 3, (2 * 6 + 3) / 3))  # two thirds of (0, 6) and one of (3, 3)
    np.testing.assert_allclose(acted[6], (2 * 3 / 3, (7 + 2 * 4) / 3))
    assert acted[7] == (3, 5)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("late", [[0], [1], [2], [3], [0, 2, 1, 3, 3, 0]], ids=str)
def test_temporal_ensemble_is_the_published_sum(late, every):
    """Of the n chunks that have come and speak of a step, the i-th oldest has the weight exp(-k i).

    Against a full table: without delay, and with a chunk every step, it is the sum of Zhao et al. 2023. late: the
    delays of the chunks in turn, in steps; the first chunk is waited for.
    """
    k, chunks = 0.3, np.random.default_rng(0).normal(size=(40, 10, 2))
    execution = TemporalEnsemble(Horizons(2, 10, 3), delay=max(late), every=every, decay=k)
    lateness, come, asked = itertools.cycle(late), [], None
    for step in range(40):
        execution.observe(observation(step))
        for _ in range(2):  # a chunk that comes makes room for the next request, and may be there in the same step
            if execution.request() is not None:
                asked, due = step, step + (next(lateness) if come else 0)
            if asked is not None and step == due:
                execution.accept(chunks[asked])
                come.append(asked)
                asked = None
        speaking = [
            begin for begin in come if step < begin + 9
        ]  # To - 1 = 1 of the 10 steps is over when it is asked for
        weights = np.exp(-k * np.arange(len(speaking)))
        actions = np.stack([chunks[begin, 1 + step - begin] for begin in speaking])
        np.testing.assert_allclose(execution.act(), weights @ actions / weights.sum(), rtol=1e-12)
    assert len(come) >= 40 // max(every, *late) - 1


def test_real_time_chunking_holds_what_will_be_over():
    asked, _ = run(RealTimeChunking(Horizons(2, 8, 3), delay=2, limit=7.0), 4, delay=2)
    prefix = asked[3].prefix
    assert (prefix.limit, prefix.exact, prefix.start) == (7.0, False, 1.0)
    # Step 2 is over. Steps 3 to 6 are planned, at indices 4 to 7 of the first chunk; two of them will be over.
    assert prefix.actions.tolist() == [[0, 3], [0, 4], [0, 5], [0, 6], [0, 7], [0, 0], [0, 0], [0, 0]]
    c = np.array([2 / 3, 1 / 3])
    falling = c * (np.exp(c) - 1) / (np.e - 1)
    np.testing.assert_allclose(prefix.weights, [1, 1, 1, *falling, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_real_time_chunking_holds_the_steps_that_are_over_to_what_was_commanded(delay):
    """They come before the step of the request in a chunk. Of steps before the first one nothing is known."""
    execution = RealTimeChunking(Horizons(observation=4, prediction=12, action=3), delay=delay, every=max(delay, 1))
    acted, requested_at, num_checked = [], None, 0
    for step in range(12):
        # Something else than the plan takes effect in every third step; the array is used again.
        changed = np.full(2, 100.0 + step) if step % 3 == 1 else None
        if step:
            acted.append(execution.act() if changed is None else changed.copy())
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
            known = min(step, 3)
            np.testing.assert_array_equal(request.prefix.actions[3 - known : 3], acted[len(acted) - known :])
            assert request.prefix.weights[:3].tolist() == [0] * (3 - known) + [1] * known
            num_checked += 1
    assert num_checked >= 3
    execution.reset()
    execution.observe(observation(0), commanded=np.ones(2))
    execution.request()
    execution.accept(chunk(0, execution.horizons))
    execution.observe(observation(1))
    execution.observe(observation(2))
    weights = execution.request()
    assert weights is None or weights.prefix.weights[:3].tolist() == [0, 1, 1]  # nothing of the last episode


def test_weights_of_the_prefix_fall_from_one_to_zero():
    for num_planned, delay in itertools.product(range(1, 16), range(18)):
        weights = prefix_weights(num_planned, delay)
        assert (weights[:delay] == 1).all()
        assert (np.diff(weights[max(delay - 1, 0) :]) < 0).all()
        assert (weights > 0).all()


def test_warm_start_moves_the_plan_on():
    asked, _ = run(WarmStart(Horizons(2, 8, 3), delay=2, start=0.3), 4, delay=2)
    prefix = asked[3].prefix
    assert prefix.actions[:, 1].tolist() == [3, 4, 5, 6, 7, 7, 7, 7]  # from the step before on, then the last again
    assert prefix.start == 0.3
    assert not prefix.weights.any()


# --- when nothing is planned: dimension 0 holds its last value, dimension 1 is zero

HOLD = ("last", "zero")


def test_a_robot_that_waits_for_a_chunk_does_not_go_on_at_its_last_velocity():
    horizons = Horizons(1, 3, 2)
    asked, acted = run(RecedingHorizon(horizons, hold=HOLD), 8, delay=3, answer=lambda _, __: np.ones((3, 2)))
    assert [request is not None for request in asked] == [True, False, True, False, False, False, False, True]
    assert acted == [(1, 1), (1, 1), (1, 0), (1, 0), (1, 0), (1, 1), (1, 1), (1, 0)]


@pytest.mark.parametrize("kind", [AsyncReplace, CrossFade, RealTimeChunking, WarmStart], ids=lambda kind: kind.__name__)
def test_a_chunk_that_comes_after_all_of_its_steps_moves_nothing(kind):
    execution = kind(Horizons(1, 3, 1), hold=HOLD)
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


def test_warm_start_goes_on_with_zero_behind_the_plan():
    execution = WarmStart(Horizons(2, 8, 3), delay=2, start=0.3, hold=HOLD)
    asked, _ = run(execution, 4, delay=2)
    assert asked[3].prefix.actions[:, 1].tolist() == [3, 4, 5, 6, 7, 0, 0, 0]
    assert asked[3].prefix.actions[:, 0].tolist() == [0] * 8  # the number of the chunk
    assert asked[3].prefix.actions.dtype == np.float32
