"""Each fault of a recording is found in a copy that has it, with its episodes, and the clean recording has none."""

import os

import numpy as np
import pytest
from flawed import (
    InMemory,
    constant,
    every_second,
    jumping,
    noisy,
    noted,
    reaches,
    repeating,
    shifted,
    starting,
    waiting,
)
from recede.datasets.faults import faults
from recede.datasets.films import watch
from recede.datasets.inspection import warnings
from recede.datasets.judging import remarks, ways_of
from recede.datasets.opening import open_demonstrations
from recede.datasets.quality import measure
from recede.datasets.selection import Selected
from recede.datasets.similarity import near_duplicates
from recede.envs.catalogue import load_task


def judged(demonstrations, errors=None):
    """Title -> its remark."""
    measures = measure(demonstrations)
    films = watch(demonstrations, measures)
    return {remark.title: remark for remark in remarks(demonstrations, measures, films, errors)}


@pytest.fixture(scope="module")
def clean():
    return reaches()


def copy_of(demonstrations, source, *, at):
    """A copy whose episode `at` is nearly that of `source`."""
    episodes = list(demonstrations.episodes)
    episodes[at] = episodes[source] | noisy(episodes[source], "action", 1e-3)
    return InMemory(demonstrations.specification, episodes)


FLAWED = [
    ("Idle start", [3], lambda d, s: d.but(waiting, episodes=[3])),
    ("Idle end", [3, 5], lambda d, s: d.but(lambda rows: waiting(rows, at_end=True), episodes=[3, 5])),
    ("Jumps", [6], lambda d, s: d.but(lambda rows: jumping(rows, s, 0.4 * np.ptp(d.streams[s])), episodes=[6])),
    ("Jerks", [6], lambda d, s: d.but(lambda rows: noisy(rows, s, 0.06 * np.ptp(d.streams[s])), episodes=[6])),
    ("Near duplicates", [2, 7], lambda d, s: copy_of(d, 2, at=7)),
    ("One start", [], lambda d, s: d.but(lambda rows: starting(rows, d.episodes[0], [s]))),
    ("Frozen images", [4], lambda d, s: d.but(lambda rows: repeating(rows, "image", 8, 24), episodes=[4])),
    ("Repeated images", [4], lambda d, s: d.but(lambda rows: every_second(rows, "image"), episodes=[4])),
    ("Late camera", [], lambda d, s: d.but(lambda rows: shifted(rows, ["image"], 3))),
    ("Skewed images", [8], lambda d, s: d.but(lambda rows: shifted(rows, ["image"], 3), episodes=[8])),
    ("Skew", [8], lambda d, s: d.but(lambda rows: shifted(rows, [s, "image"], 3), episodes=[8])),
    ("Never moves", [9], lambda d, s: d.but(lambda rows: constant(rows, "action", -1), episodes=[9])),
    ("Failures", [1], lambda d, s: noted(d, 1, outcome="failure")),
    ("Skew of clocks", [1], lambda d, s: noted(d, 1, delays={s: 0.01, "image": 0.15})),
    ("Slow streams", [1], lambda d, s: noted(d, 1, rates={s: 10.2, "image": 7.5})),
]


def test_nothing_looks_wrong_in_a_clean_recording(clean):
    assert judged(clean) == {}
    assert faults(clean) == []
    assert ways_of(measure(clean)) is None


@pytest.mark.parametrize(("title", "episodes", "damage"), FLAWED, ids=[title for title, *_ in FLAWED])
def test_a_fault_is_found_in_its_episodes_and_nothing_else_is(clean, title, episodes, damage):
    result = judged(damage(clean, "hand"))
    assert set(result) == {title}
    assert list(result[title].episodes) == episodes
    assert result[title].remedy


def clipped(rows):
    """A motion that runs into the limits of the action and stays there."""
    action = rows["action"].copy()
    action[:, :2] *= 1.6
    return {"action": action.clip(-1, 1)}


def test_saturation_at_the_limits_is_found(clean):
    (fault,) = faults(clean.but(clipped))
    assert "action.x" in fault.text
    assert "cut off" in fault.text


def test_a_policy_names_the_episodes_that_it_predicts_badly(clean):
    errors = np.full(len(clean), 0.02)
    errors[[3, 5]], errors[7] = 0.06, np.nan
    assert judged(clean, errors)["Hard to predict"].episodes == (3, 5)


def test_episodes_are_named_as_in_the_store_and_the_remedy_leaves_them_out(clean):
    flawed = Selected(clean.but(waiting, episodes=[3, 20]), [1, 3, 5, 7, 9, 20])
    remark = judged(flawed)["Idle start"]
    assert remark.episodes == (1, 5)
    assert "episodes 3, 20" in remark.text
    assert 'episodes="episode!=3 and episode!=20"' in remark.remedy


def test_faults_of_streams_are_named_by_the_episodes_of_the_store_too(clean):
    short = clean.but(lambda rows: {name: values[:4] for name, values in rows.items()}, episodes=[20])
    stuck = clean.but(lambda rows: repeating(rows, "hand", 5, 40), episodes=[20])
    dark = clean.but(lambda rows: {"image": np.zeros_like(rows["image"])}, episodes=[20])
    outside = clean.but(lambda rows: {"action": rows["action"] * 1.5}, episodes=[20])
    for flawed in (short, stuck, dark, outside):
        lines = warnings(Selected(flawed, [*range(1, 12), 20]))
        assert [line for line in lines if "episode 20" in line], lines


def test_two_ways_are_told_apart_if_the_start_does_not_decide():
    demonstrations = reaches(30, sides=(1.0, -1.0))
    ways = ways_of(measure(demonstrations))
    assert ways is not None
    assert ways.way.sum() == 15
    assert {*ways.way[::2]} | {*ways.way[1::2]} == {0, 1}
    assert len({*ways.way[::2]}) == 1
    assert judged(demonstrations) == {}
    few = ways_of(measure(reaches(20, sides=(2.0, -2.0))))
    assert few is not None
    assert few.way.sum() == 10
    assert ways_of(measure(reaches(30, sides=(0.3, -0.3, 0.1, -0.1, 0.0)))) is None


def test_near_duplicates_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    paths = rng.random((40, 16, 3))
    for one, other in ((3, 9), (9, 30), (5, 6)):
        paths[other] = paths[one] + rng.normal(size=(16, 3)) * 2e-3
    assert near_duplicates(paths.astype(np.float16)) == [[3, 9, 30], [5, 6]]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_episodes_are_not_judged_against_each_other(count):
    demonstrations = reaches(count)
    assert judged(demonstrations.but(lambda rows: jumping(rows, "hand", 0.5), episodes=[0])) == {}


def test_streams_that_never_move_are_left_out(clean):
    still = clean.but(lambda rows: {name: np.zeros_like(rows[name]) for name in ("hand", "action")})
    measures = measure(still)
    assert measures.dimensions == []
    assert remarks(still, measures, watch(still, measures)) == []


@pytest.fixture(scope="module")
def pusht():
    """The first forty human demonstrations of Push-T."""
    if "RECEDE_PUSHT_STORE" not in os.environ:
        pytest.skip("set RECEDE_PUSHT_STORE to the store of `recede download pusht`")
    store = open_demonstrations(os.environ["RECEDE_PUSHT_STORE"], load_task("pusht_image"))
    return InMemory(store.specification, [store.episode(index) for index in range(40)])


@pytest.mark.slow
def test_people_are_not_accused(pusht):
    assert judged(pusht) == {}
    assert ways_of(measure(pusht)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("title", "episodes", "damage"), FLAWED, ids=[title for title, *_ in FLAWED])
def test_a_fault_of_peoples_demonstrations_is_found(pusht, title, episodes, damage):
    result = judged(damage(pusht, "agent_position"))
    assert title in result
    assert list(result[title].episodes) == episodes
    assert set(result) == {title}
