"""Demonstrations that are joined keep every promise, and streams are matched by name."""

from dataclasses import replace

import numpy as np
import pytest
from recede.datasets.check import check_demonstrations
from recede.datasets.facts import EpisodeFacts
from recede.datasets.joined import Joined
from recede.datasets.selection import Selected
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, assert_episodes, make_episode


@pytest.fixture
def make_store(tmp_path):
    """A function that makes a store of episodes, with their streams in another order if it is turned."""

    def make(name, seeds, *, turned=False, specification=SPECIFICATION):
        if turned:
            specification = replace(specification, observations=specification.observations[::-1])
        store = DemonstrationStore.create(tmp_path / name, specification)
        for seed in seeds:
            episode = make_episode(seed, 5 + seed)
            episode["gripper"] = episode["gripper"].clip(-0.5, 0.5)
            store.append(episode, seed=seed, facts=EpisodeFacts(operator=f"{name} {seed}"))
        return store

    return make


def test_joined_demonstrations_are_those_of_the_parts_in_turn(make_store):
    one, other = make_store("one", range(3)), make_store("other", range(3, 5), turned=True)
    joined = Joined([one, Selected(other, [1]), one])
    check_demonstrations(joined)
    parts = [*(one.episode(index) for index in range(3)), other.episode(1), *(one.episode(index) for index in range(3))]
    assert_episodes(joined, parts)
    assert joined.specification == one.specification
    assert joined.episode_numbers.tolist() == [0, 1, 2, 1, 0, 1, 2]
    assert [facts.operator for facts in joined.episode_facts][2:5] == ["one 2", "other 4", "one 0"]
    assert joined.episode_seeds.tolist() == [0, 1, 2, 4, 0, 1, 2]
    whole = np.concatenate([part["image"] for part in parts])
    for start, stop in ((0, 0), (3, 3), (4, 30), (17, 28), (18, 27), (0, None)):
        np.testing.assert_array_equal(joined.read("image", start, stop), whole[start:stop])


def test_the_digest_of_images_is_that_of_all_parts(make_store):
    one, other = make_store("one", range(2)), make_store("other", range(2, 4))
    digests = [Joined(parts).content("image") for parts in ([one, other], [other, one], [one], [one, other, one])]
    assert len({*digests}) == 4
    assert Joined([one, other]).content("image") == digests[0]
    unknown = Selected(other, [0])
    unknown.content = lambda name: None
    assert Joined([one, unknown]).content("image") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observations": SPECIFICATION.observations[:2]}, r"other must have .*/one, .*contact: only on one side"),
        ({"control_dt": 0.05}, r"control_dt is 0.1 s on one side and 0.05 s"),
    ],
)
def test_a_stream_that_one_of_them_lacks_is_refused(make_store, change, words):
    one = make_store("one", range(1))
    other = make_store("other", [], specification=replace(SPECIFICATION, **change))
    with pytest.raises(ValueError, match=words):
        Joined([one, other])


def test_kinds_are_those_that_any_part_states_and_others_are_refused(make_store):
    def kinds_of_gripper(kinds):
        gripper = replace(SPECIFICATION.observations[0], kinds=kinds)
        return replace(SPECIFICATION, observations=(gripper, *SPECIFICATION.observations[1:]))

    silent = make_store("silent", range(1))
    stated = make_store("stated", range(1), specification=kinds_of_gripper("axis_angle"))
    other = make_store("other", range(1), specification=kinds_of_gripper("roll_pitch_yaw"))
    for parts in ([silent, stated], [stated, silent], [silent, silent, stated]):
        joined = Joined(parts)
        assert joined.stream("gripper").kinds == ("axis_angle",) * 3
        check_demonstrations(joined)
    for parts in ([stated, other], [silent, stated, other], [stated, silent, other]):
        with pytest.raises(
            ValueError, match=r"other must have .*gripper: kinds is \('axis_angle'.* and \('roll_pitch_"
        ):
            Joined(parts)
