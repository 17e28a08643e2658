"""The report says when episodes succeed and from where they fail, by the numbers that were measured."""

import re

import numpy as np
import pytest
from recede.envs.tasks.pick_place import PICK_PLACE, PICK_PLACE_IMAGE
from recede.evaluation.episode import Arena, _numbers
from recede.evaluation.reports.failures import failures, separating, success_curves
from recede.evaluation.view import view_of
from recede.execution.receding import RecedingHorizon
from recede.specification import Horizons


def evaluation(**more):
    return {
        "seeds": [1, 2, 3, 4],
        "success": [True, False, True, True],
        "score": [1.0, 0.4, 1.0, 1.0],
        "steps": [10, 40, 30, 20],
        "steps_to_success": [10, None, 30, 20],
    } | more


def points(markup):
    """The corners of each line in the units of the view box."""
    return [
        [tuple(map(float, corner.split())) for corner in path.split("L")]
        for path in re.findall(r'class="line" d="M([^"]*)"', markup)
    ]


def test_the_curve_rises_at_each_success_to_the_share_of_successes():
    (line,) = points(success_curves({"a": evaluation()}))
    steps = [round((x - 40) / (312 - 40) * 40) for x, _ in line]
    shares = [round((164 - y) / (164 - 12) * 100) for _, y in line]
    assert list(zip(steps, shares, strict=True)) == [
        *[(0, 0), (10, 0), (10, 25), (20, 25), (20, 50), (30, 50), (30, 75), (40, 75)]
    ]


def test_policies_share_the_axes_and_a_policy_without_success_has_a_flat_line():
    never = evaluation(success=[False] * 4, steps_to_success=[None] * 4)
    drawn = success_curves({"a": evaluation(), "<b>": never})
    assert len(points(drawn)) == 2
    assert "&lt;b&gt;" in drawn
    assert success_curves({"b": never}) == ""
    assert success_curves({"old": {k: v for k, v in evaluation().items() if k != "steps_to_success"}}) == ""


def spread(count=60, seed=0):
    """Starts whose failures lie at large x, and at large z, which is almost x; y and w say nothing."""
    rng = np.random.default_rng(seed)
    x, y, w = rng.random((3, count))
    return {"w": w, "x": x, "z": x + 0.01 * y, "y": y}, x < 0.7


def test_the_map_has_the_numbers_that_separate_failures_best():
    columns, success = spread()
    assert separating(columns, success)[0] in "xz"
    assert separating(columns, success)[1] in "wy"  # z says the same as x
    assert separating(columns, np.ones(60, bool)) is None
    assert separating(columns, np.arange(60) > 1) is None  # two failures
    assert separating({"x": columns["x"]}, success) is None


def test_failures_are_rings_with_their_seeds():
    columns, success = spread(20)
    more = {"start": {name: values.tolist() for name, values in columns.items()} | {"still": [1.0] * 20}}
    drawn = failures(
        {"a": evaluation(seeds=list(range(20)), success=success.tolist(), score=success.astype(float).tolist(), **more)}
    )
    assert drawn.count('class="failure"') == (~success).sum()
    assert drawn.count('class="success"') == success.sum()
    assert f"{(~success).sum()} of 20 episodes failed" in drawn.replace("&nbsp;", " ")
    worst = int(np.argmax(columns["x"]))
    assert f"seed {worst}: score 0.00" in drawn
    assert f'href="#episode-0-{worst}"' in drawn
    assert failures({"a": evaluation(start={"x": [1.0, 2.0, None, 4.0]})}) == ""


def test_phases_are_counted_and_the_most_frequent_one_is_first():
    phases = ["at <the wall>", None, "carrying", "at <the wall>"]
    drawn = failures({"a": evaluation(), "b": evaluation(success=[False, True, False, False], phase=phases)})
    rows = re.findall(r"<dt>([^<]*)</dt><dd>.*?width=\"([\d.]+)%\".*?<span>(\d+)</span>", drawn)
    assert rows == [("at &lt;the wall&gt;", "66.7", "2"), ("carrying", "33.3", "1")]
    assert "its 3 failed episodes" in drawn
    assert 'class="s1"' in drawn


@pytest.mark.parametrize("task", [PICK_PLACE, PICK_PLACE_IMAGE], ids=["vectors", "images"])
def test_an_outcome_knows_its_start(task):
    arena = Arena(
        task.make,
        task.specification,
        lambda: RecedingHorizon(Horizons(1, 2, 1)),
        view=view_of(task, task.specification),
    )
    arena.advance({5: None})
    start = arena._running[5][0].start
    arena.close()
    _, info = PICK_PLACE.make().reset(seed=5)
    label = "cube x, m" if task is PICK_PLACE else "cube 0"
    assert start[label] == info["state"]["cube"][0]
    assert start["gripper yaw, rad"] == info["state"]["gripper"][3]
    assert not any(name.startswith(("scene", "wrist")) for name in start)
    assert _numbers(PICK_PLACE.specification, info["state"])["cube cos_4_yaw"] == info["state"]["cube"][3]
