"""Demonstration stores whose writers are killed, write at the same time, or run out of disk space."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import zarr
from recede.datasets.image_codec import as_stored
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream

# An episode is a function of its number, so every process can check every episode.
EPISODES = """
import numpy as np

def episode(number):
    rng = np.random.default_rng(number)
    length = int(rng.integers(1, 60))
    return {
        "state": rng.normal(size=(length, 5)).astype("float32"),
        "image": rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8),
        "action": rng.normal(size=(length, 2)).astype("float32"),
    }
"""

# Starting Python takes longer than an append: one process imports everything, and forks a writer for each line
# "first last" that it reads. It prints a line for the writer's start, for each finished append, and for its end.
NURSERY = (
    EPISODES
    + """
import os, sys
from recede.datasets.store import DemonstrationStore

def write(first, last):
    store = DemonstrationStore.open(sys.argv[1])
    for number in range(first, last):
        os.write(1, f"appended {store.append(episode(number), seed=number)}\\n".encode())

for line in sys.stdin:
    writer = os.fork()
    if not writer:
        try:
            write(*map(int, line.split()))
        finally:
            os._exit(0)
    os.write(1, f"started {writer}\\n".encode())
    os.waitpid(writer, 0)
    os.write(1, b"ended\\n")
"""
)

episode = {}
exec(EPISODES, episode)
episode = episode["episode"]

SPECIFICATION = Specification(
    (Stream("state", (5,)), Stream("image", (64, 64, 3), "uint8")), Stream("action", (2,)), control_dt=0.1
)


@contextmanager
def nursery(path):
    command = [sys.executable, "-c", NURSERY, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        yield process
        process.stdin.close()
        assert process.wait(60) == 0


def assert_episodes(store, first=0):
    """All episodes from `first` on equal those of their seeds, as the store compresses them."""
    for index in range(first, len(store)):
        expected = episode(int(store.episode_seeds[index]))
        expected["image"] = as_stored(expected["image"], SPECIFICATION.observations[1], store.images)
        for name, values in store.episode(index).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=f"episode {index}, {name}")


def kill_writers(path, num_kills, images="zstd"):
    """Kill writers in turn and check the store after each; return how many left uncommitted rows."""
    moments = random.Random(0)
    DemonstrationStore.create(path, SPECIFICATION, images=images)
    committed = interrupted = 0
    with nursery(path) as process:
        for _ in range(num_kills):
            process.stdin.write(f"{committed} {committed + 1000}\n")
            writer = int(process.stdout.readline().removeprefix("started "))
            time.sleep(moments.uniform(0.03, 0.3))
            os.kill(writer, signal.SIGKILL)
            finished = committed
            while (line := process.stdout.readline()) != "ended\n":
                finished = int(line.removeprefix("appended ")) + 1
            store = DemonstrationStore.open(path)
            assert finished <= len(store) <= finished + 1
            assert store.episode_seeds.tolist() == list(range(len(store)))
            assert_episodes(store, first=max(committed - 1, 0))
            committed = len(store)
            rows = {stream.name: store._num_rows(stream) for stream in SPECIFICATION.streams}
            group = zarr.open_group(path, mode="r")
            interrupted += any(group[f"data/{name}"].shape[0] > count for name, count in rows.items())
    assert_episodes(DemonstrationStore.open(path))
    store = DemonstrationStore.open(path)
    store.append(episode(committed), seed=committed)
    assert_episodes(DemonstrationStore.open(path), first=committed)
    assert len(DemonstrationStore.open(path)) == committed + 1
    return interrupted


@pytest.mark.parametrize("images", ["zstd", "h264"])
def test_a_killed_writer_leaves_every_finished_episode(tmp_path, images):
    # else no writer was killed during an append
    assert kill_writers(tmp_path / "demos", 8 if images == "zstd" else 4, images) >= 1


@pytest.mark.slow
def test_many_killed_writers_leave_every_finished_episode(tmp_path):
    assert kill_writers(tmp_path / "demos", 30) >= 6


def test_writers_take_turns(tmp_path):
    DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    with nursery(tmp_path / "demos") as one, nursery(tmp_path / "demos") as other:
        one.stdin.write("0 6\n")
        other.stdin.write("1000 1006\n")
        for process in (one, other):
            while process.stdout.readline() != "ended\n":
                pass
    store = DemonstrationStore.open(tmp_path / "demos")
    seeds = store.episode_seeds
    assert seeds[seeds < 1000].tolist() == list(range(6))
    assert seeds[seeds >= 1000].tolist() == list(range(1000, 1006))
    assert_episodes(store)


def test_a_writer_that_never_finishes_is_named(tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr("recede.datasets.store.LOCK_TIMEOUT", 0.1)
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    with (
        FileLock(tmp_path / "demos/meta/episode_ends/.lock"),
        pytest.raises(TimeoutError, match="demos: another writer has not finished"),
    ):
        store.append(episode(0))
    assert store.append(episode(0)) == 0


LIMITED = (
    EPISODES
    + """
import json, pathlib, resource, sys
import zarr
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

path, specification = pathlib.Path(sys.argv[1]), Specification.from_json(json.loads(sys.argv[2]))
limit(700)
try:
    DemonstrationStore.create(path, specification)
except OSError as error:
    print("create:", error, list(path.parent.iterdir()))
limit(resource.RLIM_INFINITY)
store = DemonstrationStore.create(path, specification)
store.append(episode(0), seed=0)
number = 1
for size in [0, 300, 500, 700, 900, 1100, 1300, 1500, 2000, 5000, 100_000, 500_000]:
    limit(size)
    try:
        store.append(episode(number), seed=number)
    except OSError as error:
        print("append:", error.errno, error)
    else:
        number += 1
    limit(resource.RLIM_INFINITY)
    assert len(DemonstrationStore.open(path)) == number == len(store)
    if size == 5000:
        store.append(episode(number), seed=number)
        number += 1
print("recorded", number)

# A label that makes the root's zarr.json, which is the commit, the only file above the limit.
wordy = Specification((Stream("state", (1,), labels=("x" * 3000,)),), Stream("action", (1,)), 0.1)
short = {"state": np.ones((3, 1), "float32"), "action": np.ones((3, 1), "float32")}
store = DemonstrationStore.create(path.with_name("wordy"), wordy)
store.append(short)
limit(2500)
try:
    store.append(short)
except OSError as error:
    print("commit:", error)
limit(resource.RLIM_INFINITY)
assert len(store) == 1
assert zarr.open_group(path.with_name("wordy"), mode="r")["meta/episode_seeds"].shape == (2,)
assert store.append(short) == 1 and store.num_steps == 6
"""
)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system cannot limit the size of files")
def test_a_full_disk_costs_no_episode(tmp_path):
    path = tmp_path / "demos"
    command = [sys.executable, "-c", LIMITED, str(path), json.dumps(SPECIFICATION.to_json())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    create, *appends, recorded, commit = result.stdout.splitlines()
    assert create.startswith("create:")
    assert create.endswith("[]")  # nothing was left beside the store
    assert len(appends) >= 10
    assert commit.startswith("commit: ")
    for line in appends:
        assert f"{path}: the episode was not recorded" in line
        assert "(File too large)" in line
        assert "append it again" in line
    store = DemonstrationStore.open(path)
    assert recorded == f"recorded {len(store)}"
    assert_episodes(store)
    store.append(episode(len(store)), seed=len(store))
    assert_episodes(DemonstrationStore.open(path))
    assert not list(tmp_path.rglob("*.partial*"))
