"""`check_demonstrations` accepts a format that keeps every promise, and names each broken promise."""

from pathlib import Path

import numpy as np
import pytest
import recede
from recede.datasets import check
from recede.datasets.demonstrations import Demonstrations
from recede.specification import Specification, Stream

SPECIFICATION = Specification(
    (Stream("gripper", (2,), labels=("x", "y"), low=-0.1, high=0.1), Stream("image", (3, 2, 3), "uint8")),
    Stream("action", (2,)),
    control_dt=0.1,
)


class Sound(Demonstrations):
    """Three episodes in memory."""

    def __init__(self):
        self.path, self.specification = Path("memory"), SPECIFICATION
        self.episode_ends = np.array([4, 9, 20])
        self.episode_seeds = np.array([3, -1, 0])
        rng = np.random.default_rng(0)
        self.rows = {
            "gripper": rng.uniform(-0.1, 0.1, (20, 2)).astype("float32"),
            "image": rng.integers(0, 256, (20, 3, 2, 3), dtype=np.uint8),
            "action": rng.normal(size=(20, 2)).astype("float32"),
        }
        self.rows["gripper"][7] = 0.1  # in float32 a little more than in float64

    def read(self, name, start=0, stop=None):
        start, stop = self.step_range(start, stop)
        return self.rows[self.stream(name).name][start:stop].copy()


def read_by(function):
    """Demonstrations whose `read` returns `function(demonstrations, name, start, stop, rows)`."""

    class Broken(Sound):
        def read(self, name, start=0, stop=None):
            return function(self, name, start, stop, super().read(name, start, stop))

    return Broken()


def with_attributes(**attributes):
    demonstrations = Sound()
    for name, value in attributes.items():
        setattr(demonstrations, name, value)
    return demonstrations


def with_value(stream, value):
    demonstrations = Sound()
    demonstrations.rows[stream][7, 1] = value
    return demonstrations


class Viewed(Sound):
    def read(self, name, start=0, stop=None):
        start, stop = self.step_range(start, stop)
        return self.rows[self.stream(name).name][start:stop]


class Unchecked(Sound):
    def read(self, name, start=0, stop=None):
        return self.rows[self.stream(name).name][start:stop].copy()


class Nameless(Sound):
    def read(self, name, start=0, stop=None):
        start, stop = self.step_range(start, stop)
        return self.rows[name][start:stop].copy()


class Miscounted(Sound):
    def __len__(self):
        return 2


class Shifted(Sound):
    def bounds(self, episode):
        start, stop = super().bounds(episode)
        return start + 1, stop


def frozen(_, name, start, stop, rows):
    rows.flags.writeable = False
    return rows


def only_the_whole(demonstrations, name, start, stop, rows):
    return rows if (start, stop) == (0, None) else demonstrations.rows[name][: len(rows)].copy()


BROKEN = {
    "no path": (lambda: with_attributes(path="memory"), "path must be a Path, got 'memory'"),
    "no specification": (
        lambda: with_attributes(specification=None),
        "specification must be a Specification, got None",
    ),
    "a list of ends": (lambda: with_attributes(episode_ends=[4, 20]), r"episode_ends must be an array .*got \[4, 20\]"),
    "ends in int32": (
        lambda: with_attributes(episode_ends=np.array([4, 9, 20], dtype=np.int32)),
        r"episode_ends must be an array \(n,\) of int64, got int32 of shape \(3,\)",
    ),
    "ends that do not ascend": (
        lambda: with_attributes(episode_ends=np.array([4, 4, 20])),
        "episode_ends must ascend, got 4 for episode 1 after 4",
    ),
    "seeds of floats": (lambda: with_attributes(episode_seeds=np.ones(3)), "episode_seeds must be .*got float64"),
    "a seed too few": (lambda: with_attributes(episode_seeds=np.array([3, 4])), "one of 3 episodes, got 2"),
    "a negative seed": (lambda: with_attributes(episode_seeds=np.array([3, -2, 0])), "-1 if it is unknown, got -2"),
    "too few rows": (
        lambda: read_by(lambda _, name, start, stop, rows: rows[:19] if name == "action" else rows),
        r"stream 'action': read\(name\) must return 20 steps, \(20, 2\), got \(19, 2\)",
    ),
    "rows that are flat": (
        lambda: read_by(
            lambda _, name, start, stop, rows: rows.reshape(len(rows), rows[0].size) if len(rows) else rows
        ),
        r"stream 'image': read\(name\) must return 20 steps, \(20, 3, 2, 3\), got \(20, 18\)",
    ),
    "another dtype": (
        lambda: read_by(lambda _, name, start, stop, rows: rows.astype(np.float64)),
        "stream 'gripper': .*must return float32 as the specification says, got float64",
    ),
    "images in floats": (
        lambda: read_by(lambda _, name, start, stop, rows: rows.astype(np.float32)),
        "stream 'image': .*must return uint8 as the specification says, got float32",
    ),
    "a list of rows": (
        lambda: read_by(lambda _, name, start, stop, rows: rows.tolist()),
        "must return an array of numpy, got list",
    ),
    "slices of other steps": (lambda: read_by(only_the_whole), "must return what a longer read returns"),
    "an empty slice of another shape": (
        lambda: read_by(lambda _, name, start, stop, rows: rows if len(rows) else rows.reshape(0)),
        r"must return 0 steps, \(0, 2\), got \(0,\)",
    ),
    "views": (Viewed, "stream 'gripper': read must return a copy, got a view"),
    "read-only rows": (lambda: read_by(frozen), "must return an array that can be written to, got a read-only one"),
    "NaN": (lambda: with_value("action", np.nan), r"step 7, dimension action\[1\]: values must be finite, got nan"),
    "beyond a limit": (
        lambda: with_value("gripper", 0.2),
        r"step 7: gripper.y must lie within \[-0.1.*, 0.1.*\], got 0.2",
    ),
    "below a limit": (lambda: with_value("gripper", -0.2), "step 7: gripper.y must lie within .*got -0.2"),
    "steps that do not exist": (Unchecked, r"read\(name, -1, 20\) must raise ValueError, because there are 20 steps"),
    "a stream that does not exist": (Nameless, r"read\('no_gripper'\) must raise ValueError"),
    "another number of episodes": (Miscounted, r"3 episodes of 20 steps as episode_ends say, got len\(\) 2"),
    "other bounds": (Shifted, r"bounds\(0\) must be \(0, 4\) as episode_ends say, got \(1, 4\)"),
}


@pytest.mark.parametrize("piece_bytes", [2**26, 100], ids=["whole", "in pieces"])
def test_sound_demonstrations_pass(monkeypatch, piece_bytes):
    monkeypatch.setattr(check, "PIECE_BYTES", piece_bytes)
    demonstrations = Sound()
    before = {name: rows.copy() for name, rows in demonstrations.rows.items()}
    assert recede.check_demonstrations(demonstrations).splitlines() == [
        "3 episodes, 20 steps",
        "gripper             float32 (2,), within limits",
        "image               uint8 (3, 2, 3), without limits",
        "action              float32 (2,), without limits",
    ]
    for name, rows in demonstrations.rows.items():
        np.testing.assert_array_equal(rows, before[name])


def test_demonstrations_without_episodes_pass():
    empty = with_attributes(episode_ends=np.zeros(0, np.int64), episode_seeds=np.zeros(0, np.int64))
    assert recede.check_demonstrations(empty).startswith("0 episodes, 0 steps")


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_promise_is_named(name):
    make, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        recede.check_demonstrations(make())


def test_checking_a_view_does_not_change_the_rows():
    demonstrations = Viewed()
    with pytest.raises(ValueError, match="got a view"):
        recede.check_demonstrations(demonstrations)
    for name, rows in Sound().rows.items():
        np.testing.assert_array_equal(demonstrations.rows[name], rows)


def test_the_last_piece_is_checked_as_the_first(monkeypatch):
    monkeypatch.setattr(check, "PIECE_BYTES", 100)
    demonstrations = Sound()
    demonstrations.rows["action"][19, 0] = np.inf
    with pytest.raises(ValueError, match=r"step 19, .*action\[0\]: .*got inf"):
        recede.check_demonstrations(demonstrations)
