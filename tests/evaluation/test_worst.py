"""The worst episodes are rolled out once more, at even moments, and shown only if they went as before."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import toys
from recede.configs.evaluation import EvaluateConfig
from recede.envs.faults import Fault
from recede.evaluation.episode import Outcome
from recede.evaluation.results import measure
from recede.evaluation.worst import even_moments, film_worst, worst

SCORES = [0.5, 1.0, 0.2, 0.9, 0.2, 0.0, 0.6]


def test_the_worst_are_the_failed_episodes_of_the_lowest_scores():
    outcomes = [Outcome(seed, score == 1, score, 40) for seed, score in enumerate(SCORES)]
    outcomes[5] = replace(outcomes[5], fault=Fault(5, 3, "step()", "ValueError", "oops"))
    assert [outcome.seed for outcome in worst(outcomes)] == [2, 4, 0, 6]
    assert [outcome.seed for outcome in worst(outcomes, most=1)] == [2]


def test_if_all_succeed_the_slowest_is_the_worst():
    outcomes = [Outcome(seed, True, 1.0, steps) for seed, steps in enumerate((12, 30, 7))]
    assert [outcome.seed for outcome in worst(outcomes)] == [1]
    assert worst([]) == []


@pytest.mark.parametrize("steps", [1, 3, 5, 40, 200])
def test_moments_are_even_and_have_both_ends(steps):
    moments = sorted(even_moments(steps))
    assert (moments[0], moments[-1]) == (0, steps)
    assert len(moments) == min(6, steps + 1)
    assert np.ptp(np.diff(moments)) <= 1


@pytest.fixture(scope="module")
def measured(trained):
    """Eight episodes, the first of which is filmed."""
    return measure(EvaluateConfig(run=str(trained), task="toys:REACH", episodes=8, videos=1, device="cpu"))


def with_task(measured, **more):
    return replace(measured, task=replace(toys.REACH, **more))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"delay_ms": 200.0}])
def test_the_worst_go_as_before_and_show_even_moments(trained, changes):
    config = EvaluateConfig(run=str(trained), task="toys:REACH", episodes=8, videos=1, device="cpu", **changes)
    measured = measure(config)
    expected = {outcome.seed: outcome for outcome in worst(measured.evaluation.outcomes)}
    shown, missing = film_worst(measured)
    assert ([outcome.seed for outcome in shown], missing) == (list(expected), [])
    for outcome in shown:
        plain = replace(expected[outcome.seed], frames={}, chunks=())
        assert replace(outcome, frames={}, chunks=()) == plain
        assert set(outcome.frames) == even_moments(outcome.num_steps)
        assert [int(frame.max()) for frame in outcome.frames.values()][:-1] == sorted(outcome.frames)[:-1]
        assert outcome.chunks


def test_an_episode_that_is_filmed_already_is_not_rolled_out_again(measured):
    (first, *_) = measured.evaluation.outcomes
    alone = replace(measured, evaluation=replace(measured.evaluation, outcomes=[first]))
    shown, _ = film_worst(replace(alone, task=None))
    assert shown[0].frames.keys() == even_moments(first.num_steps)


class Restless(toys.Reach):
    """Begins elsewhere at every reset."""

    count = 0

    def reset(self, *, seed=None, options=None):
        Restless.count += 1
        return super().reset(seed=(seed or 0) + Restless.count)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Restless, "the seed does not decide all"),
        (partial(toys.Faulty, kind="no render"), "this simulation has no window"),
    ],
)
def test_what_cannot_be_shown_is_named(measured, make, words):
    outcomes = [replace(outcome, frames={}, chunks=()) for outcome in measured.evaluation.outcomes]
    unfilmed = replace(measured, evaluation=replace(measured.evaluation, outcomes=outcomes))
    shown, missing = film_worst(with_task(unfilmed, make=make))
    assert shown == []
    assert [text.split(":")[0].split(",")[0] for text in missing] == [f"seed {one.seed}" for one in worst(outcomes)]
    assert all(words in text for text in missing)
