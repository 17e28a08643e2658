"""How well monitors foretell failures, on episodes of which everything is known."""

import numpy as np
import pytest
from recede.envs.faults import Fault
from recede.evaluation.episode import Outcome
from recede.evaluation.foretelling import ELAPSED, auroc, auroc_interval, foretelling, shortage, table


def episode(seed, numbers, *, steps, success_step=None, fault=None):
    """An episode of a chunk every 5 steps."""
    requested = list(range(0, 5 * len(numbers), 5))
    return Outcome(
        seed,
        success_step is not None,
        1.0,
        steps,
        success_step=success_step,
        fault=fault,
        requested=requested,
        monitors={"doubt": numbers},
    )


def episodes(successes=40, failures=10):
    """Successes in 20 steps with numbers up to 1; failures in 40 steps, with 5 from step 15 on."""
    good = [episode(i, [0.1, 0.2, 0.3, 0.4 + i / 100], steps=20, success_step=20) for i in range(successes)]
    bad = [episode(100 + i, [0.1, 0.2, 0.3, *[5.0] * 5], steps=40) for i in range(failures)]
    return [*good, *bad]


def test_the_area_counts_pairs():
    random = np.random.default_rng(0)
    for _ in range(20):
        failed, succeeded = random.integers(0, 5, random.integers(1, 9)), random.integers(0, 5, random.integers(1, 9))
        pairs = [(a > b) + (a == b) / 2 for a in failed for b in succeeded]
        assert auroc(failed, succeeded) == pytest.approx(np.mean(pairs))


def test_the_interval_of_the_area_holds_the_true_area_as_often_as_it_says():
    random, normal = np.random.default_rng(0), 0.7602  # the area of N(1, 1) above N(0, 1)
    hits = 0
    for _ in range(100):
        low, high = auroc_interval(random.normal(1, 1, 25), random.normal(0, 1, 40))
        hits += low <= normal <= high
    assert hits >= 90


def test_numbers_before_the_end_are_compared():
    content = foretelling(episodes(), control_dt=0.1, false_alarms=0.1)
    row = content["monitors"]["doubt"]
    assert {seconds: area["auroc"] for seconds, area in row["auroc_before"].items()} == {"0.5": 1.0, "1": 1.0, "2": 1.0}
    late = foretelling(
        [episode(1, [1, 9], steps=25), episode(2, [1, 2], steps=8, success_step=8)], control_dt=0.1, false_alarms=0.1
    )
    areas = late["monitors"]["doubt"]["auroc_before"]
    assert areas["0.5"]["auroc"] == 1.0  # 9 against 1
    assert areas["1"] is None  # the success has no chunk 10 steps before its end


def test_at_equal_times_all_episodes_have_had_as_long():
    row = foretelling(episodes(), control_dt=0.1, false_alarms=0.1)["monitors"]
    assert row[ELAPSED]["auroc_at_equal_time"]["auroc"] == 0.5
    assert row[ELAPSED]["auroc_before"]["0.5"]["auroc"] == 1.0
    assert row["doubt"]["auroc_at_equal_time"]["auroc"] == 1.0


def test_alarms_are_calibrated_and_counted_in_other_episodes():
    content = foretelling(episodes(), control_dt=0.1, false_alarms=0.1)
    row = content["monitors"]["doubt"]
    assert (content["calibrating"], content["succeeded"], content["failed"]) == (20, 40, 10)
    assert row["largest"] == pytest.approx([0.4 + i / 100 for i in range(0, 40, 2)])
    assert row["alarm_above"] == pytest.approx(0.4 + 36 / 100)  # the 19th of 20
    assert row["false_alarms"]["episodes"] == 20
    assert row["false_alarms"]["alarms"] == 2  # 37 and 39 of the odd ones
    assert row["foretold"] == {"episodes": 10, "alarms": 10, "rate_95": pytest.approx((0.722, 1.0), abs=1e-3)}
    assert row["foretold_s"] == pytest.approx(2.5)  # from step 15 to step 40


def test_what_comes_after_success_does_not_count():
    after = episode(1, [0.1, 0.2, 9.0, 9.0], steps=20, success_step=9)
    content = foretelling([after, *episodes(2)], control_dt=0.1, false_alarms=0.5)
    assert content["monitors"]["doubt"]["largest"][0] == 0.2


def test_episodes_that_broke_off_count_nowhere():
    fault = Fault(9, 3, "step()", "x", "y")
    broken = Outcome(9, False, 0.0, 3, fault=fault)
    assert foretelling([*episodes(), broken], control_dt=0.1, false_alarms=0.1) == foretelling(
        episodes(), control_dt=0.1, false_alarms=0.1
    )


def test_too_few_successes_raise_no_alarms_and_say_so():
    content = foretelling(episodes(10), control_dt=0.1, false_alarms=0.05)
    assert content["monitors"]["doubt"]["alarm_above"] is None
    assert content["monitors"]["doubt"]["foretold"]["alarms"] == 0
    assert shortage(content) == [
        "no alarms: they are calibrated by 19 successful episodes, half of those there are, and there were 10: "
        "evaluate more episodes, or accept more false_alarms="
    ]
    assert "| – | – | – |" in table(content | {"ms": {}})
    assert not shortage(foretelling(episodes(), control_dt=0.1, false_alarms=0.05))


@pytest.mark.parametrize(("successes", "failures"), [(3, 0), (0, 3)])
def test_one_kind_of_episode_has_no_area(successes, failures):
    content = foretelling(episodes(successes, failures), control_dt=0.1, false_alarms=0.5)
    row = content["monitors"]["doubt"]
    assert row["auroc_at_equal_time"] is None
    assert set(row["auroc_before"].values()) == {None}
    assert "doubt" in table(content | {"ms": {}})


def test_the_table_says_all_of_it():
    lines = table(foretelling(episodes(), control_dt=0.1, false_alarms=0.1) | {"ms": {"doubt": 3.21}}).splitlines()
    assert lines[0].startswith("| monitor | AUROC 0.5 s before the end | AUROC 1 s before the end |")
    assert "AUROC at 2.0 s | false alarms | failures foretold | ms |" in lines[0]
    assert lines[2].startswith("| doubt | 1.00 [")
    assert lines[2].endswith("| 2 of 20 [3, 30] % | 10 of 10 [72, 100] %, 2.5 s before the end | 3.21 |")
    assert lines[3].startswith(f"| {ELAPSED} |")
