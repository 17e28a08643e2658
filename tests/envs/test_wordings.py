"""The sentences of `sort` and `sort_reworded`: drawn by the seed, and none of them is of both."""

import numpy as np
import pytest
from recede.envs.catalogue import load_task
from recede.envs.tasks.sort import GOALS, Sort, SortReworded


def starts(name, seeds):
    env = load_task(name).make()
    return [env.reset(seed=seed)[1] for seed in seeds]


def test_both_have_the_same_scenes_and_goals():
    """The words are drawn last."""
    seeds = range(20)
    for one, other in zip(starts("sort", seeds), starts("sort_reworded", seeds), strict=True):
        for name, values in one["state"].items():
            np.testing.assert_array_equal(values, other["state"][name])
        assert one["sentence"] != other["sentence"]
    assert load_task("sort").specification == load_task("sort_reworded").specification


@pytest.mark.parametrize("name", ["sort", "sort_reworded"])
def test_a_seed_draws_a_sentence_that_names_the_goal(name):
    infos = starts(name, range(40))
    assert [info["sentence"] for info in starts(name, range(40))] == [info["sentence"] for info in infos]
    assert len({info["sentence"] for info in infos}) > 30
    for info in infos:
        named = GOALS[int(info["state"]["goal"].argmax())]
        assert [colour for colour in ("orange", "blue", "teal", "red") if f" {colour} " in info["sentence"]] == sorted(
            named, key=["orange", "blue", "teal", "red"].index
        )


def test_no_word_for_the_deed_or_the_things_is_of_both():
    for one, other in zip(Sort.wordings, SortReworded.wordings, strict=True):
        assert not {*one} & {*other}


def test_the_sentence_stays_throughout_an_episode_and_a_stated_start_has_the_first_words():
    env = Sort()
    info = env.reset(seed=4)[1]
    assert env.step(env.action_space.sample())[4]["sentence"] == info["sentence"]
    stated = env.reset(options={"state": info["state"]})[1]
    cube, mark = GOALS[int(info["state"]["goal"].argmax())]
    assert stated["sentence"] == f"put the {cube} cube onto the {mark} mark" != info["sentence"]
