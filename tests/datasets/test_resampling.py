"""Data sets with times get even steps by the rule of a deployed policy, and holes split their episodes."""

import re

import numpy as np
import pytest
from foreign_data import names_of
from recede.control.alignment import KEPT_S, Alignment
from recede.datasets.converted import Converted
from recede.datasets.facts import EpisodeFacts
from recede.datasets.formats.resampled import GAP_BYTES, Resampled, evened
from recede.datasets.mapping import DatasetMapping
from recede.robots.interface import Reading
from recede.specification import Specification, Stream
from timed_data import Timed, jittered, mapping_of


def episode(seed=0, seconds=KEPT_S - 0.1):
    """Readings of five kinds at rates that do not divide one another."""
    rng = np.random.default_rng(seed)
    times = {
        "qpos": jittered(rng, 97, seconds),
        "image": jittered(rng, 29, seconds, begin=0.03),
        "touch": jittered(rng, 61, seconds, begin=0.01),
        "count": jittered(rng, 13, seconds, begin=0.02),
        "command": jittered(rng, 50, seconds, begin=0.05),
    }
    of = {key: len(value) for key, value in times.items()}
    rows = {
        "qpos": rng.normal(size=(of["qpos"], 3)).astype("float32"),
        "image": rng.integers(0, 256, (of["image"], 24, 20, 3), dtype=np.uint8),
        "touch": rng.random((of["touch"], 2)) < 0.5,
        "count": rng.integers(0, 99, (of["count"], 1)),
        "command": rng.normal(size=(of["command"], 2)).astype("float32"),
    }
    return {key: (times[key], rows[key]) for key in times}


OBSERVED = {
    "qpos": Stream("qpos", (3,)),
    "image": Stream("image", (24, 20, 3), "uint8"),
    "touch": Stream("touch", (2,), "bool"),
    "count": Stream("count", (1,), "int64"),
}


def steps(dataset, index=0, keys=None):
    """All steps of an episode, key -> rows, and their times."""
    length, part = int(dataset.episode_lengths[index]), dataset._parts[index]
    rows = {column.key: dataset.read(column.key, index, 0, length) for column in dataset.columns}
    return rows, dataset._moments(part, 0, length)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [7, 20, 333])
def test_every_observation_is_bit_for_bit_what_a_deployed_policy_gets_at_that_moment(seed, rate):
    source = episode(seed)
    dataset = Resampled(Timed([source]), mapping_of(Timed([source]), rate=rate))
    alignment = Alignment(Specification(tuple(OBSERVED.values()), Stream("action", (2,)), control_dt=0.1))
    for name in OBSERVED:
        for time, value in zip(*source[name], strict=True):
            assert not alignment.add({name: Reading(value, float(time))}, 10)
    rows, moments = steps(dataset)
    assert moments[0] == alignment.begin or moments[0] == source["command"][0][0]
    for step, moment in enumerate(moments):
        for name, value in alignment.at(float(moment)).items():
            assert value.tobytes() == rows[name][step].tobytes(), (name, step)


@pytest.mark.parametrize("rate", [7, 20, 333])
def test_an_action_is_the_newest_command_and_never_a_later_one(rate):
    source = episode(1)
    dataset = Resampled(Timed([source]), mapping_of(Timed([source]), rate=rate))
    rows, moments = steps(dataset)
    for step, moment in enumerate(moments):
        newest = max(index for index, time in enumerate(source["command"][0]) if time <= moment)
        np.testing.assert_array_equal(rows["command"][step], source["command"][1][newest])


def test_a_command_at_the_moment_of_a_step_belongs_to_it_whatever_the_rounding():
    times = np.arange(60) / 10
    source = Timed([{"qpos": (times + 0.1, np.zeros((60, 1))), "command": (times, np.arange(60)[:, None])}])
    rows, _ = steps(Resampled(source, mapping_of(source, rate=10)))
    assert rows["command"][:, 0].tolist() == list(range(1, 60))


def test_of_two_readings_that_are_as_near_the_earlier_one_counts():
    times = np.arange(9) / 4
    source = Timed([{"count": (times, np.arange(9)[:, None]), "command": (times + 0.125, np.zeros((9, 1)))}])
    rows, moments = steps(Resampled(source, mapping_of(source, rate=4)))
    assert moments[0] == 0.125
    assert rows["count"][:, 0].tolist() == list(range(8))


def test_the_first_part_alone_keeps_the_seed(monkeypatch):
    monkeypatch.setattr(Timed, "episode_seeds", property(lambda _: np.array([7, 8])))
    source = Timed([silent(episode(0, 5), "qpos", 1.0, 1.8), episode(1)])
    assert Resampled(source, mapping_of(source, rate=20)).episode_seeds.tolist() == [7, -1, 8]


def test_the_steps_are_even_and_lie_where_all_columns_have_readings():
    source = episode(2)
    dataset = Resampled(Timed([source]), mapping_of(Timed([source]), rate=20))
    _, moments = steps(dataset)
    assert moments[0] == max(times[0] for times, _ in source.values())
    end = min(times[-1] for times, _ in source.values())
    assert end - 1 / 20 < moments[-1] <= end
    np.testing.assert_allclose(np.diff(moments), 1 / 20, rtol=1e-12)


def test_rows_of_any_range_are_those_of_the_whole_episode():
    source = episode(3)
    dataset = Resampled(Timed([source]), mapping_of(Timed([source]), rate=45))
    rows, moments = steps(dataset)
    rng = np.random.default_rng(0)
    for _ in range(30):
        start, stop = sorted(rng.integers(0, len(moments) + 1, 2))
        for key, values in rows.items():
            np.testing.assert_array_equal(dataset.read(key, 0, start, stop), values[start:stop])


def test_a_column_that_is_the_next_action_is_an_observation():
    source = episode(4)
    mapping = mapping_of(Timed([source]), rate=20, key="qpos", meaning="next")
    converted = Converted(evened(Timed([source]), mapping), mapping)
    content = converted.episode(0)
    np.testing.assert_array_equal(content["action"][:-1], content["qpos"][1:])
    moments = converted.dataset._moments(converted.dataset._parts[0], 0, converted.num_steps)
    expected = np.stack([np.interp(moments, source["qpos"][0], values) for values in source["qpos"][1].T], 1)
    np.testing.assert_allclose(content["qpos"], expected, atol=1e-5)
    assert converted.num_steps == converted.dataset.episode_lengths[0] - 1


def test_large_rows_that_no_step_uses_are_not_read():
    times = np.arange(200) / 100
    images = np.zeros((200, 80, 80, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    source = Timed([{"image": (times, images), "command": (times, np.zeros((200, 2)))}])
    assert images[0].nbytes > GAP_BYTES
    dataset = Resampled(source, mapping_of(source, rate=10))
    np.testing.assert_array_equal(dataset.read("image", 0, 0, 20)[:, 0, 0, 0], np.arange(0, 200, 10))
    assert [read for read in source.reads if read[0] == "image"] == [
        ("image", first, first + 1) for first in range(0, 200, 10)
    ]


def test_quaternions_take_the_shorter_way_and_stay_rotations():
    angles, times = np.linspace(0, 3, 31), np.arange(31) / 10
    pose = np.stack([angles, np.sin(angles / 2), 0 * angles, 0 * angles, np.cos(angles / 2)], 1)
    pose[1::2, 1:] *= -1  # the same rotations
    source = Timed(
        [{"pose": (times, pose), "command": (times, np.zeros((31, 1)))}], labels=("x", "qx", "qy", "qz", "qw")
    )
    dataset = Resampled(source, mapping_of(source, rate=20))
    rows, moments = steps(dataset)
    x, q = rows["pose"][:, 0], rows["pose"][:, 1:]
    np.testing.assert_allclose(x, moments, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1, atol=1e-12)
    expected = np.stack([np.sin(moments / 2), 0 * moments, 0 * moments, np.cos(moments / 2)], 1)
    np.testing.assert_allclose(np.abs((q * expected).sum(1)), 1, atol=1e-9)
    np.testing.assert_array_equal(rows["pose"][::2], pose)


def test_kinds_say_what_is_a_quaternion_and_what_an_angle():
    angles, times = np.linspace(2, 8, 31), np.arange(31) / 10
    quaternions = np.stack([np.cos(angles / 2), np.sin(angles / 2), 0 * angles, 0 * angles], 1)
    quaternions[1::2] *= -1
    about_zero, from_zero = (angles + np.pi) % (2 * np.pi) - np.pi, angles % (2 * np.pi)
    hand = np.column_stack([about_zero, quaternions, from_zero, angles])
    source = Timed([{"base": (times, hand[:, :1]), "hand": (times, hand), "command": (times, np.zeros((31, 1)))}])
    content = mapping_of(source, rate=20).to_json()
    kinds = ["number", "angle", *["quaternion_wxyz"] * 4, "angle", "number"]
    content["observations"] = {"tool": {"key": ["base", "hand"], "kinds": kinds}}
    dataset = Resampled(source, DatasetMapping.from_json(content | {"rate": 40}, "here"))
    rows, moments = steps(dataset)
    expected = 2 + 2 * moments
    np.testing.assert_allclose(rows["hand"][:, 0], (expected + np.pi) % (2 * np.pi) - np.pi, atol=1e-9)
    q = rows["hand"][:, 1:5]
    inner = np.abs(q[:, 0] * np.cos(expected / 2) + q[:, 1] * np.sin(expected / 2))
    np.testing.assert_allclose([inner, np.linalg.norm(q, axis=1)], 1, atol=1e-9)
    np.testing.assert_allclose(rows["hand"][:, 5], expected % (2 * np.pi), atol=1e-9)
    np.testing.assert_allclose(rows["hand"][:, 6], expected, atol=1e-9)


def silent(source, key, first, last):
    """An episode whose column has no reading between two times, s."""
    times, rows = source[key]
    kept = (times <= first) | (times >= last)
    return source | {key: (times[kept], rows[kept])}


def test_a_long_hole_splits_the_episode_and_the_outcome_goes_with_the_last_part():
    holey = silent(silent(episode(0, 5), "qpos", 1.0, 1.8), "image", 3.0, 3.7)
    facts = [EpisodeFacts(outcome="success", task="push"), EpisodeFacts(outcome="failure")]
    source = Timed([holey, episode(1)], facts=facts)
    dataset = Resampled(source, mapping_of(source, rate=20))
    assert names_of(dataset) == ["episode 0 part 1", "episode 0 part 2", "episode 0 part 3", "episode 1"]
    assert [facts.outcome for facts in dataset.episode_facts] == ["unknown", "unknown", "success", "failure"]
    assert [facts.task for facts in dataset.episode_facts] == ["push", "push", "push", ""]
    assert dataset.episode_facts[1].notes["part"] == 2
    qpos, image = holey["qpos"][0], holey["image"][0]
    ends = [qpos[qpos <= 1.0][-1], image[image <= 3.0][-1], min(times[-1] for times, _ in holey.values())]
    begins = [max(times[0] for times, _ in holey.values()), qpos[qpos >= 1.8][0], image[image >= 3.7][0]]
    for index in range(3):
        moments = steps(dataset, index)[1]
        assert moments[0] == begins[index]
        assert ends[index] - 1 / 20 < moments[-1] <= ends[index] + 1e-6
    assert "2 holes longer than 0.5 s make 4 episodes of 2" in dataset.summary[-1]
    assert "qpos is silent from" in dataset.summary[-1]
    one = Resampled(source, mapping_of(source, rate=20, longest_hole=1))
    assert names_of(one) == ["episode 0", "episode 1"]


def test_a_hole_within_another_changes_nothing():
    outer = silent(episode(0, 5), "touch", 1.0, 3.0)
    lengths = [
        Resampled(Timed([one]), mapping_of(Timed([one]), rate=20)).episode_lengths.tolist()
        for one in (outer, silent(outer, "qpos", 1.5, 2.2))
    ]
    assert lengths[0] == lengths[1]
    assert len(lengths[0]) == 2


def test_overlapping_holes_are_one_and_short_parts_are_left_out():
    holey = silent(silent(episode(0, 5), "touch", 1.0, 2.0), "qpos", 1.5, 2.5)
    holey = silent(holey, "touch", 2.55, 3.5)
    source = Timed([holey])
    dataset = Resampled(source, mapping_of(source, rate=3))
    assert names_of(dataset) == ["episode 0 part 1", "episode 0 part 2"]
    assert "parts between them are left out" in dataset.summary[-1]


def test_what_was_done_is_counted():
    times = np.arange(101) / 100
    slow = np.arange(11) / 10 + 0.004
    slow[0], slow[-1] = 0, 1
    source = Timed(
        [
            {
                "qpos": (times, np.zeros((101, 1))),
                "image": (slow, np.zeros((11, 24, 20, 3), np.uint8)),
                "command": (slow, np.zeros((11, 1))),
            }
        ]
    )
    dataset = Resampled(source, mapping_of(source, rate=20))
    uses = dataset.uses[0]
    assert dataset.episode_lengths.tolist() == [21]
    assert uses["qpos"]._asdict() == pytest.approx(
        {"rule": "interpolated", "rate": 100, "readings": 101, "unused": 80 / 101, "repeated": 0, "farthest": 0},
        abs=1e-9,
    )
    assert uses["image"].rule == "the nearest reading"
    assert uses["image"].farthest == pytest.approx(0.05)
    assert uses["command"].farthest == pytest.approx(0.1)  # at 0.1 s, the command of 0.104 s is unknown
    assert uses["command"].repeated == pytest.approx(10 / 20)
    assert uses["command"].unused == 0
    facts = dataset.episode_facts[0]
    assert facts.rates == pytest.approx({"qpos": 100, "image": 10, "action": 10})
    assert facts.notes["resampled"]["command"]["farthest"] == pytest.approx(0.1)
    assert "qpos: interpolated, 100 Hz, at most" in dataset.summary[1]
    assert "the newest command, 10 Hz, at most 100 ms from a step; 50% of the steps repeat" in dataset.summary[3]


def test_the_rate_of_a_stream_of_several_columns_is_that_of_the_slowest():
    source = Timed([episode(0) | {"more": (np.arange(0, 2, 0.2), np.zeros((10, 2), "float32"))}])
    mapping = mapping_of(source, rate=20, key=["command", "more"])
    assert Resampled(source, mapping).episode_facts[0].rates["action"] == pytest.approx(5)


def test_measured_delays_get_the_names_of_streams():
    facts = EpisodeFacts(delays={"qpos": 0.02, "command": 0.01, "unused": 1})
    source = Timed([episode(0)], facts=[facts])
    mapping = mapping_of(source, rate=20)
    assert Resampled(source, mapping).episode_facts[0].delays == {"qpos": 0.02, "action": 0.01}


def broken(key, times):
    return [episode(0), episode(1) | {key: (times, np.zeros((len(times), 3)))}]


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (broken("qpos", [0, 0.1, 0.1, 0.2]), "episode 1, column 'qpos': times must ascend, got 0.1 s for reading 2"),
        (broken("qpos", [0, 0.2, 0.1]), "times must ascend, got 0.1 s for reading 2 after 0.2 s"),
        (broken("qpos", [0, np.nan, 0.1]), "episode 1, column 'qpos': times must be finite, got nan for reading 1"),
        (broken("qpos", [0, 1, np.inf]), "must be finite, got inf for reading 2"),
        (broken("qpos", [0.5]), "episode 1, column 'qpos' must have two readings or more, got 1"),
        (broken("qpos", []), "two readings or more, got 0"),
        (broken("qpos", [90, 91]), "column 'qpos' begins at 90 s, and"),
        (broken("qpos", np.arange(4.0)), "episode 1 has less than 2 steps at 20 Hz between holes"),
    ],
)
def test_impossible_times_are_refused_with_episode_and_column(episodes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Resampled(Timed(episodes), mapping_of(Timed(episodes), rate=20))


def test_a_column_without_times_among_others_is_refused():
    source = Timed([episode(0) | {"count": (None, np.zeros((9, 1)))}])
    with pytest.raises(ValueError, match="column 'count' has no times, and others have"):
        Resampled(source, mapping_of(source, rate=20))


def test_differences_are_refused_at_another_rate_than_their_own():
    source = Timed([episode(0)])
    with pytest.raises(ValueError, match=r"differences must come at the rate of the steps, 20 Hz, got (49|50|51)"):
        Resampled(source, mapping_of(source, rate=20, meaning="difference"))
    assert Resampled(source, mapping_of(source, rate=50, meaning="difference")).episode_lengths[0] > 2


def test_a_data_set_with_even_steps_stays_as_it_is():
    source = Timed([{key: (None, rows) for key, (_, rows) in episode(0).items()}])
    assert evened(source, mapping_of(source, rate=20)) is source
