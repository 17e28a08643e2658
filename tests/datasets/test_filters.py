"""Conditions that choose episodes: they mean what logic says, and every other text is refused with a remedy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.datasets.check import check_demonstrations
from recede.datasets.facts import UNKNOWN, EpisodeFacts
from recede.datasets.filters import DEEPEST, Both, Comparison, Not, matches, names, parse, rows, select
from recede.datasets.opening import open_demonstrations
from recede.datasets.selection import Selected
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, make_episode

values = st.sampled_from(["success", "3", "-1.5", "and", "", " a 'b' \"c\" \\", "so100-leader", "ß"])
comparisons = st.builds(Comparison, st.sampled_from(["operator", "notes.light"]), st.sampled_from(["=", "!="]), values)
comparisons |= st.builds(
    Comparison,
    st.sampled_from(["episode", "seconds", "rates.image", "notes.score"]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.sampled_from(["0", "2", "1e1", "-3.5"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.builds(Not, inner) | st.builds(Both, st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=8,
)
table_rows = st.fixed_dictionaries(
    {},
    optional={
        "operator": values,
        "notes.light": values | st.booleans() | st.none(),
        "episode": st.integers(0, 3),
        "seconds": st.floats(0, 20),
        "rates.image": st.floats(0, 20),
        "notes.score": st.sampled_from([2, 10.0]),
    },
)


@settings(max_examples=60, deadline=None)
@given(condition=conditions)
def test_a_condition_is_parsed_from_its_own_text(condition):
    assert parse(str(condition)) == condition
    assert parse(f"  ( {condition} )  ") == condition


@settings(max_examples=60, deadline=None)
@given(one=conditions, other=conditions, row=table_rows)
def test_and_or_and_not_are_those_of_logic(one, other, row):
    def value(text):
        return matches(parse(text), row)

    first, second = matches(one, row), matches(other, row)
    assert value(f"({one}) and ({other})") == (first and second)
    assert value(f"({one}) or ({other})") == (first or second)
    assert value(f"not ({one})") == (not first)
    assert value(f"not (({one}) or ({other}))") == value(f"not ({one}) and not ({other})")


@settings(max_examples=60, deadline=None)
@given(row=table_rows, number=st.sampled_from(["0", "2", "1e1", "-3.5"]))
def test_a_fact_that_was_not_noted_is_neither_less_nor_more(row, number):
    for name in ("episode", "seconds", "rates.image", "notes.score"):
        less, equal, more = (matches(Comparison(name, sign, number), row) for sign in ("<", "=", ">"))
        assert less + equal + more == (name in row)
        assert matches(Comparison(name, "<=", number), row) == (less or equal)
        assert matches(Comparison(name, ">=", number), row) == (more or equal)
        assert matches(Comparison(name, "!=", number), row) == (not equal)


PIECES = ["and", "or", "not", "(", ")", "=", "!=", "<", "outcome", "rates.x", "3", "'a'", '"']


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30) | st.lists(st.sampled_from(PIECES)).map(" ".join))
def test_any_text_is_a_condition_or_is_refused(text):
    try:
        condition = parse(text)
    except ValueError:
        return
    assert parse(str(condition)) == condition


def test_and_binds_more_closely_than_or_and_not_more_closely_than_both():
    assert parse("task=a or task=b and not task=c or task=d") == parse(
        "(task=a or (task=b and (not task=c))) or task=d"
    )


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("20", r"'20': episode<20"),
        ("", r"the name of a fact.*outcome=success"),
        ("outcome=succes", r"'succes'.*success"),
        ("outcom=success", r"'outcom'.*outcome"),
        ("operator<3", r"operator is a text.*= or !="),
        ("versions.mujoco>=3", r"versions.mujoco is a text"),
        ("rates>3", r"rates.KEY"),
        ("seconds>long", r"seconds>long compares with a number"),
        ("seed=", r"a value instead of its end"),
        ("outcome==success", r"a value instead of '='"),
        ("(outcome=success", r"'\)' instead of its end"),
        ("outcome=success operator=a", r"'and', 'or' or the end instead of 'operator' at character 17"),
        ("operator='a", r"cannot be read from"),
        ("operator=and", r"'and' in quotes"),
        ("not " * 2 * DEEPEST + "seed=1", rf"more than {DEEPEST} deep"),
        ("(" * 5000, rf"more than {DEEPEST} deep"),
        ("__import__('os')=1", r"__import__"),
    ],
)
def test_a_text_that_is_no_condition_is_refused_with_the_place_and_the_remedy(text, pattern):
    with pytest.raises(ValueError, match=pattern):
        parse(text)


FACTS = [
    EpisodeFacts(outcome="success", operator="Ada", rates={"image": 30}, notes={"light": {"level": 3}}),
    EpisodeFacts(outcome="failure", operator="script"),
    EpisodeFacts(outcome="success", operator="script", notes={"score": "high", "sure": True}),
    UNKNOWN,
]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four episodes with these facts, read only."""
    store = DemonstrationStore.create(tmp_path_factory.mktemp("filters") / "four", SPECIFICATION)
    for index, facts in enumerate(FACTS):
        episode = make_episode(index, 4 + index)
        store.append(episode | {"gripper": episode["gripper"].clip(-0.5, 0.5)}, seed=index - 1, facts=facts)
    return store


@pytest.mark.parametrize(
    ("condition", "episodes"),
    [
        ("outcome=success", [0, 2]),
        ("outcome=success and operator!=script", [0]),
        ("outcome!=success", [1, 3]),
        ("operator=''", [3]),
        ("rates.image>=29.5 or steps<6", [0, 1]),
        ("notes.light.level<4", [0]),
        ("notes.sure=true", [2]),
        ("seconds>0.45", [1, 2, 3]),
        ("seed>=0 and episode<=2", [1, 2]),
        ("not rates.image<40", [1, 2, 3]),
    ],
)
def test_a_condition_chooses_episodes_by_their_facts(four, condition, episodes):
    chosen = open_demonstrations(four.path, episodes=condition)
    assert chosen.episode_numbers.tolist() == episodes
    assert list(chosen.episode_facts) == [FACTS[index] for index in episodes]


@pytest.mark.parametrize(
    ("condition", "pattern"),
    [
        (
            "operator=Eve",
            r"four: no episode of 4 .*operator is script in 2, Ada in 1, not noted in 1.*give a condition",
        ),
        ("steps>99", r"steps lies in \[4, 7\]"),
        ("notes.lihgt=3", r"no episode notes 'notes.lihgt'.*notes.light.level"),
        ("delays.image<1", r"they note no delays at all"),
        ("notes.score<3", r"an episode notes 'high': use = or !="),
    ],
)
def test_a_condition_that_chooses_nothing_is_refused_with_what_is_noted(four, condition, pattern):
    with pytest.raises(ValueError, match=pattern):
        open_demonstrations(four.path, episodes=condition)


def test_an_empty_store_has_nothing_to_choose_from(tmp_path):
    path = DemonstrationStore.create(tmp_path / "empty", SPECIFICATION).path
    assert len(open_demonstrations(path, episodes="notes.light=dim")) == 0


@settings(max_examples=15, deadline=None)
@given(
    episodes=st.sets(st.integers(0, 4), min_size=1).map(sorted),
    bounds=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_a_selection_reads_what_its_episodes_hold(five, episodes, bounds):
    selection = Selected(five, episodes)
    whole = np.concatenate([five.episode(index)["action"] for index in episodes])
    start, stop = sorted(min(bound, len(whole)) for bound in bounds)
    np.testing.assert_array_equal(selection.read("action", start, stop), whole[start:stop])
    assert selection.episode_seeds.tolist() == [10 + index for index in episodes]


def test_a_selection_passes_check_demonstrations_and_has_contents_of_its_own(five):
    some, others = Selected(five, [0, 1, 3]), Selected(five, [0, 1, 4])
    assert check_demonstrations(some).startswith("3 episodes")
    assert len({some.content("image"), others.content("image"), five.content("image")}) == 3
    assert some.content("image") == Selected(five, [0, 1, 3]).content("image")


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    store = DemonstrationStore.create(tmp_path_factory.mktemp("five") / "demos", SPECIFICATION)
    for index in range(5):
        episode = make_episode(index, 3 + index)
        store.append(episode | {"gripper": episode["gripper"].clip(-0.5, 0.5)}, seed=10 + index)
    return store


def test_the_names_of_a_condition_are_listed_once():
    condition = parse("task=a and (steps<3 or not task=b)")
    assert names(condition) == ["task", "steps"]
    table = list(rows([EpisodeFacts(task="a")], [2], [-1], 0.1))
    assert table[0] == {"outcome": "unknown", "task": "a", "sentence": "", "operator": "", "input": ""} | {
        "episode": 0,
        "steps": 2,
        "seconds": 0.2,
    }
    assert select(condition, table, "here") == [0]
