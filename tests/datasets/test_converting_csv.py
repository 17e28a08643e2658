"""Tables of CSV become demonstrations; a wrong row is named with its file and line."""

import random
import re
import tracemalloc

import numpy as np
import pytest
from damage import fate, spoil
from foreign_data import names_of
from recede.datasets.check import check_demonstrations
from recede.datasets.converted import Converted
from recede.datasets.copying import copy, verify
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.formats.resampled import evened
from recede.datasets.mapping import UNSET, DatasetMapping, propose
from recede.datasets.store import DemonstrationStore

LENGTHS = (7, 250, 9)
HEADER = "time,tip.x,tip.y,joint_1,joint_0,gripper,action[0],action[1],note"


def values(index, length):
    """(L, 7): the numbers behind the time."""
    return np.random.default_rng(index).normal(size=(length, 7))


def lines(index, length, *, begin=0.0, episode=""):
    numbers = values(index, length)
    return [
        ",".join([episode] * bool(episode) + [repr(begin + step / 30), *map(repr, row.tolist()), "ok"])
        for step, row in enumerate(numbers)
    ]


def write(path, *rows, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    """Files whose order by name differs from their order by number."""
    (tmp_path / "runs").mkdir()
    for index, length in enumerate(LENGTHS):
        write(tmp_path / "runs" / f"run_{index + 8}.csv", *lines(index, length, begin=1e3 * index))
    return tmp_path / "runs"


@pytest.fixture
def table(tmp_path):
    """One file with a column of episodes, with the quirks of spreadsheets: a mark of the byte order and CRLF."""
    rows = [line for index, length in enumerate(LENGTHS) for line in lines(index, length, episode=f"{index}")]
    path = tmp_path / "all.csv"
    path.write_bytes("\r\n".join([f"\ufeffepisode,{HEADER}", *rows]).encode())
    return path


def converted(path, rate=None):
    dataset = open_foreign(path)
    return Converted(dataset, DatasetMapping.from_json(propose(dataset, rate=rate), "the proposal"))


@pytest.mark.parametrize("layout", ["folder", "table"])
def test_every_value_arrives(layout, request, tmp_path):
    path = request.getfixturevalue(layout)
    demonstrations = converted(path)
    check_demonstrations(demonstrations)
    assert demonstrations.dataset.rate == 30
    np.testing.assert_allclose(demonstrations.dataset.times("gripper", 0), np.arange(LENGTHS[0]) / 30)
    assert evened(demonstrations.dataset, demonstrations.mapping) is demonstrations.dataset
    assert demonstrations.episode_lengths.tolist() == list(LENGTHS)
    streams = {stream.name: stream for stream in demonstrations.specification.streams}
    assert list(streams) == ["tip", "joint", "gripper", "action"]
    assert (streams["tip"].labels, streams["joint"].labels) == (("x", "y"), ())
    for index, length in enumerate(LENGTHS):
        expected, episode = values(index, length).astype("float32"), demonstrations.episode(index)
        np.testing.assert_array_equal(episode["tip"], expected[:, :2])
        np.testing.assert_array_equal(episode["joint"], expected[:, [3, 2]])
        np.testing.assert_array_equal(episode["gripper"], expected[:, [4]])
        np.testing.assert_array_equal(episode["action"], expected[:, 5:])
    digests = copy(demonstrations, tmp_path / "out.zarr", images="png", provenance={})
    assert verify(converted(path), DemonstrationStore.open(tmp_path / "out.zarr")) == digests


def test_episodes_have_names(folder, table):
    assert names_of(open_foreign(folder)) == ["run_8.csv", "run_9.csv", "run_10.csv"]
    assert open_foreign(table).episode_name(1) == "all.csv, episode 1"


@pytest.mark.parametrize(
    ("header", "vectors"),
    [
        ("a.x,a.y,b.x", {"a": 2, "b.x": 1}),
        ("a_0,a_2,b_2,b_1", {"a_0": 1, "a_2": 1, "b": 2}),
        ("a_0,a,b_1,c_2,c_3", {"a_0": 1, "a": 1, "b_1": 1, "c_2": 1, "c_3": 1}),
        ("a.b.x,a.b.y,a.c", {"a.b": 2, "a.c": 1}),
        ('"a, b",c', {"a, b": 1, "c": 1}),
        (",a", {"column 1": 1, "a": 1}),
        ("episode,T_ms,a", {"episode": 1, "T_ms": 1, "a": 1}),
    ],
)
def test_names_make_vectors_by_one_rule(tmp_path, header, vectors):
    count = sum(vectors.values())
    dataset = open_foreign(write(tmp_path / "a.csv", ",".join(["1"] * count), header=header))
    assert {column.key: int(np.prod(column.shape)) for column in dataset.columns} == vectors


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(tmp_path, delimiter):
    path = write(tmp_path / "a.csv", f"1{delimiter}true", f"2{delimiter}False", header=f"action{delimiter}grip")
    np.testing.assert_array_equal(open_foreign(path).read("grip", 0, 0, 2), [1, 0])
    np.testing.assert_array_equal(open_foreign(path).read("action", 0, 1, 2), [2])


def clock(tmp_path, times, name="time"):
    return open_foreign(write(tmp_path / "a.csv", *(f"{time!r},1" for time in times), header=f"{name},action"))


def test_even_times_are_a_rate_and_uneven_ones_are_times(tmp_path):
    rng = np.random.default_rng(0)
    rounded = [round(step / 30, 3) for step in range(500)]
    assert clock(tmp_path, rounded).rate == 30
    uneven = np.cumsum(rng.uniform(0.02, 0.05, 300)).tolist()
    dataset = clock(tmp_path, uneven)
    assert dataset.rate is None
    np.testing.assert_array_equal(dataset.times("action", 0), uneven)
    hole = [step / 30 for step in range(100) if step != 50]
    assert clock(tmp_path, hole).rate is None
    scaled = clock(tmp_path, [int(time * 1e9) for time in uneven], "timestamp_ns")
    np.testing.assert_allclose(scaled.times("action", 0), uneven, atol=1e-8)
    assert clock(tmp_path, range(0, 5000, 50), "t_ms").rate == 20
    with pytest.raises(ValueError, match=r"'timestamp' must be in seconds, .* call it timestamp_ns"):
        clock(tmp_path, [int(time * 1e9) for time in rounded], "timestamp")


def test_episodes_of_two_rates_have_times(tmp_path):
    for name, rate in (("a", 30), ("b", 20)):
        write(tmp_path / f"{name}.csv", *(f"{step / rate!r},1" for step in range(9)), header="time,action")
    dataset = open_foreign(tmp_path)
    assert dataset.rate is None
    np.testing.assert_array_equal(dataset.times("action", 1), np.arange(9) / 20)


def test_without_times_the_rate_is_asked_for(tmp_path):
    path = write(tmp_path / "a.csv", "1,2", header="action,x")
    assert propose(open_foreign(path))["rate"] == UNSET
    assert open_foreign(path).times("x", 0) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("action,x\n1,2\n1,2,3\n", "a.csv, line 3 must have 2 fields as the header, got 3"),
        ("action,x\n1,2\n\n1,left\n", "a.csv, line 4, column 'x' must be a number, got 'left'"),
        ("action,x\n1,2\n1,\n", "a.csv, line 3, column 'x' must be a number, got ''"),
        ("action,x\n1,2,3\n", "a.csv, line 2 must have 2 fields"),
        ("1,2\n1,2\n", "must begin with a header of names"),
        ("action,x\n", "must have a header of names and a row or more"),
        ("", "must have a header of names and a row or more"),
        ("action,x,x\n1,2,3\n", "has two columns 'x'"),
        ("action,x,x.a,x.b\n1,2,3,4\n", "columns 'x' and 'x.a' would both be 'x': rename one"),
        ("time,action\n1,1\n2,1\n2,1\n", "line 4: times must ascend, got 2 after 2.0"),
        ("time,action\n1,1\nnan,1\n", "line 3: times must ascend, got nan after 1.0"),
        ("episode,action\n1,1\n2,1\n1,1\n", "line 4: the rows of episode 1 must follow one another"),
        ('action,x\n1,2\n1,"2\n', "line 3 is no row of a table"),
        ("action,x\n1,2\n1,\udcff\n", "line 3 is no text"),
        ("action,x\n1,2\n" + " " * 2**20, "line 3 is longer than 1048576 bytes"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(message)):
        open_foreign(tmp_path / "a.csv")


def test_a_file_with_other_columns_is_refused(folder):
    write(folder / "run_9.csv", "1,2", header="time,x")
    with pytest.raises(ValueError, match=r"run_9.csv must have the columns of run_8.csv, time, tip.x, .* got time, x"):
        open_foreign(folder)


def test_a_file_that_changed_is_noticed(folder):
    demonstrations = converted(folder)
    write(folder / "run_9.csv", *lines(1, 240))
    with pytest.raises(ValueError, match=r"run_9.csv ends before row 240"):
        demonstrations.read("gripper")


def test_a_value_that_is_not_finite_is_named_with_its_episode(folder):
    text = (folder / "run_8.csv").read_text().splitlines()
    text[4] = text[4].replace(text[4].split(",")[2], "nan")
    (folder / "run_8.csv").write_text("\n".join(text))
    with pytest.raises(ValueError, match=r"run_8\.csv: stream 'tip', step 3, dimension tip\.y: values must be finite"):
        converted(folder).read("tip")


def test_random_damage_is_read_or_refused_in_one_line(tmp_path):
    """A table has no checksum, so a digit that changed is read."""
    path = tmp_path / "a.csv"
    fates = list[str]()
    for seed in range(40):
        if path.is_dir():
            path.rmdir()
        write(path, *lines(0, 20))
        spoil(path, random.Random(seed))
        fates.append(fate(lambda: converted(path, rate=30).read("action"), "convert"))
    assert "" in fates
    assert any("line" in line for line in fates)


def test_even_steps_of_another_rate_are_resampled(folder):
    dataset = open_foreign(folder)
    mapping = DatasetMapping.from_json(propose(dataset, rate=10), "the proposal")
    demonstrations = Converted(evened(dataset, mapping), mapping)
    assert demonstrations.episode_lengths.tolist() == [-(-length // 3) for length in LENGTHS]
    np.testing.assert_allclose(demonstrations.episode(0)["action"], converted(folder).episode(0)["action"][::3])


def test_times_in_words_are_no_times(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,action\n2024-01-01T10:00:00,1\n2024-01-01T10:00:01,2\n")
    dataset = open_foreign(path)
    assert (dataset.rate, dataset.times("action", 0)) == (None, None)
    assert dataset.read("action", 0, 0, 2).tolist() == [1, 2]


def test_memory_grows_with_the_rows_alone(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w") as file:
        file.write("action,x_0,x_1\n")
        for step in range(10_000):
            file.write(f"{step},{step}.123456789012345,-{step}.123456789012345\n")
    tracemalloc.start()
    dataset = open_foreign(path)
    rows = [dataset.read("x", 0, start, start + 100)[0, 0] for start in range(0, 10_000, 2_000)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == [start + 0.123456789012345 for start in range(0, 10_000, 2_000)]
    assert peak < 5e5
