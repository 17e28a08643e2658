"""Tests of pairs against closed forms, published values and simulations in which the truth is known."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.evaluation.deciding import verdict
from recede.evaluation.pairs import (
    Pairs,
    anytime_interval,
    bonett_price,
    e_value,
    holm,
    letters,
    mid_p,
    pairs_needed,
)
from representatives import representatives
from scipy import stats


@pytest.mark.parametrize(("b", "c"), [(7, 0), (12, 4), (30, 41), (1, 0)])
def test_the_mid_p_value_is_the_exact_one_less_half_of_what_was_observed(b, c):
    exact = stats.binomtest(b, b + c, 0.5).pvalue
    assert mid_p(b, c) == pytest.approx(exact - stats.binom.pmf(min(b, c), b + c, 0.5))
    assert mid_p(b, c) == mid_p(c, b)


def test_equal_counts_are_no_evidence():
    assert mid_p(0, 0) == 1
    assert mid_p(4, 4) == pytest.approx(1 - stats.binom.pmf(4, 8, 0.5) / 2)
    assert mid_p(7, 0) == pytest.approx(0.0078, abs=5e-5)  # 50 and 43 of 50


def test_intervals_of_a_difference_hold_it():
    """Of 2,000 comparisons of rates 0.9 and 0.8 in 50 shared episodes, about 95 % of the intervals hold 0.1."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(50, [0.13, 0.03, 0.84], size=2000)
    intervals = [bonett_price(int(b), int(c), 50) for b, c, _ in counts]
    assert np.mean([low <= 0.1 <= high for low, high in intervals]) == pytest.approx(0.955, abs=0.02)


def test_the_sizes_of_the_tables():
    rows = {(0.02, 0.1): 1960, (0.02, 0.3): 5884, (0.05, 0.15): 469, (0.05, 0.3): 940, (0.1, 0.2): 155, (0.1, 0.3): 233}
    assert {row: pairs_needed(*row) for row in rows} == pytest.approx(rows, abs=1)  # printed sizes are rounded
    assert pairs_needed(0.0, 0.2) is None
    assert pairs_needed(1.0, 1.0) == math.ceil(stats.norm.ppf(0.975) ** 2)


def outcomes(rng, first, second, size, *, correlation=0.0):
    """Successes of two policies; with a correlation, that share of the episodes is as hard for both."""
    difficulty = rng.random((2, size))
    shared = rng.random(size) < correlation
    difficulty[1] = np.where(shared, difficulty[0], difficulty[1])
    return difficulty[0] < first, difficulty[1] < second


def decisions(first, second, *, most=500, repeats=200, **options):
    rng = np.random.default_rng(0)
    return [verdict(*outcomes(rng, first, second, most, **options), indifference=None) for _ in range(repeats)]


@pytest.mark.slow
def test_equal_policies_are_rarely_told_apart_however_often_one_looks():
    verdicts = decisions(0.8, 0.8)
    assert sum(one.kind == "decided" for one in verdicts) <= 0.05 * len(verdicts)
    assert e_value(7, 0) == pytest.approx(26.8, abs=0.05)
    assert e_value(5000, 0) < math.inf


@pytest.mark.parametrize(
    ("first", "second", "correlation", "power", "mean"),
    [(0.9, 0.7, 0.0, 0.98, 68), pytest.param(0.9, 0.7, 0.5, 1.0, 51, marks=pytest.mark.slow)],
)
def test_different_policies_are_told_apart_after_as_many_episodes_as_is_known(first, second, correlation, power, mean):
    verdicts = decisions(first, second, most=200, correlation=correlation)
    decided = [one for one in verdicts if one.kind == "decided"]
    assert len(decided) / len(verdicts) == pytest.approx(power, abs=0.03)
    assert np.mean([one.episodes for one in decided]) == pytest.approx(mean, rel=0.2)
    assert all(one.evidence >= 20 for one in decided)
    assert np.mean([one.difference for one in decided]) == pytest.approx(first - second, abs=0.05)


def test_policies_that_differ_by_less_than_matters_are_equal():
    rng = np.random.default_rng(0)
    first, second = outcomes(rng, 0.9, 0.9, 1000, correlation=0.8)
    alike = verdict(first, second, indifference=0.05)
    assert (alike.kind, alike.episodes) == ("equal", 1000)
    assert "differ by less than 5 points" in alike.sentence("a", "b", indifference=0.05)
    assert verdict(first, second, indifference=0.01).kind == "undecided"
    assert verdict(first, second, indifference=None).kind == "undecided"


def test_a_verdict_names_the_better_policy_and_when_it_was_clear():
    second = np.ones(40, bool)
    clear = verdict(~second, second, indifference=None)
    assert (clear.kind, clear.episodes) == ("decided", 7)
    sentence = clear.sentence("a", "b", indifference=None)
    assert sentence.startswith("decided after 7 episodes: b succeeds more often than a (e-value 26.8; ")
    assert "difference over 40 episodes -100.0 points [-100.0, " in sentence
    ahead = np.arange(40) < 7  # and behind in the rest of the round: the decision stands
    assert (
        verdict(ahead, ~ahead, indifference=None)
        .sentence("a", "b", indifference=None)
        .startswith("decided after 7 episodes: a succeeds more often than b")
    )
    late = verdict(np.array([True, False] * 20), second, indifference=None)
    assert late.episodes == 14  # the seventh episode that tells them apart


@pytest.mark.parametrize("shares", representatives([(0.1, 0.1), (0.3, 0.1), (0.02, 0.0)], (0.3, 0.1)))
def test_the_anytime_interval_holds_the_difference_after_every_number_of_episodes(shares):
    rng, truth = np.random.default_rng(0), shares[0] - shares[1]
    wrong = 0
    for _ in range(100):
        differences = rng.choice([1, -1, 0], 300, p=[*shares, 1 - sum(shares)])
        low, high = anytime_interval(differences)  # excludes what any earlier one excluded
        wrong += not low <= truth <= high
        earlier = anytime_interval(differences[:100])
        assert earlier[0] <= low < high <= earlier[1]
    assert wrong <= 5


def test_holm_corrects_for_the_number_of_comparisons():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


NAMES = "abcdef"


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from([*combinations(NAMES, 2)])), st.integers(1, len(NAMES)))
def test_names_share_a_letter_if_and_only_if_they_do_not_differ(differing, size):
    names = NAMES[:size]
    differing = {pair for pair in differing if set(pair) <= set(names)}
    shared = letters(names, differing)
    for one, other in combinations(names, 2):
        assert bool(set(shared[one]) & set(shared[other])) == ((one, other) not in differing)
    assert all(shared.values())


def test_the_score_interval_is_of_the_difference_and_never_empty():
    rng = np.random.default_rng(0)
    first, noise = rng.random(400), 0.02 * rng.standard_normal(400)
    successes = np.ones(400, bool)
    pairs = Pairs(successes, successes, np.stack([first, np.clip(first - 0.1 + noise, 0, 1)], axis=1))
    truth = (pairs.scores[:, 0] - pairs.scores[:, 1]).mean()
    low, high = pairs.score_interval
    assert low < truth < high < low + 0.03
    same = Pairs(successes, successes, np.ones((400, 2))).score_interval
    assert same[0] < 0 < same[1]
