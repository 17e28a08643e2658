"""Context in stores: one row an episode on disk, one row a step for readers, and nothing half-written."""

import numpy as np
import pytest
import recede
from recede.datasets.joined import Joined
from recede.datasets.selection import Selected
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows
from recede.specification import Horizons, Specification, Stream
from stores import assert_episodes

SPECIFICATION = Specification(
    (
        Stream("state", (2,)),
        Stream("goal", (3,), labels=("a", "b", "c"), context=True),
        Stream("picture", (6, 5, 3), "uint8", context=True),
    ),
    Stream("action", (2,)),
    control_dt=0.1,
)


def episode(seed, length):
    random = np.random.default_rng(seed)
    return {
        "state": random.normal(size=(length, 2)).astype("float32"),
        "goal": np.tile(random.normal(size=3).astype("float32"), (length, 1)),
        "picture": np.tile(random.integers(0, 256, (6, 5, 3), dtype=np.uint8), (length, 1, 1, 1)),
        "action": random.normal(size=(length, 2)).astype("float32"),
    }


EPISODES = [episode(seed, length) for seed, length in enumerate((4, 9, 1, 6))]


@pytest.fixture(params=["zstd", "png"])
def store(tmp_path, request):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=request.param)
    for seed, streams in enumerate(EPISODES):
        store.append(streams, seed=seed)
    return store


def test_context_is_stored_once_an_episode_and_read_at_every_step(store):
    assert store._group["context/goal"].shape == (4, 3)
    assert store._group["context/picture"].shape == (4, 6, 5, 3)
    reader = DemonstrationStore.open(store.path)
    assert_episodes(reader, EPISODES)
    recede.check_demonstrations(reader)
    whole = np.concatenate([streams["goal"] for streams in EPISODES])
    for start, stop in [(0, 20), (3, 5), (12, 14), (7, 7), (19, 20)]:
        np.testing.assert_array_equal(reader.read("goal", start, stop), whole[start:stop])


def test_selected_and_joined_episodes_and_windows_keep_their_context(store):
    chosen = Selected(store, [1, 3])
    assert_episodes(chosen, [EPISODES[1], EPISODES[3]])
    both = Joined([chosen, store])
    assert_episodes(both, [EPISODES[1], EPISODES[3], *EPISODES])
    windows = Windows(both, Horizons(observation=2, prediction=4, action=1))
    batch = windows.batch(windows.current.new_tensor([0, len(windows) - 1]))
    for row, index in enumerate((1, 3)):
        for name in ("goal", "picture"):
            np.testing.assert_array_equal(batch.observation[name][row], EPISODES[index][name][:2])


def test_an_undone_or_discarded_episode_leaves_no_context(store):
    store.drop_last()
    assert store._group["context/goal"].shape == (3, 3)
    with store.begin() as writer:
        writer.add(episode(7, 5))
    assert_episodes(DemonstrationStore.open(store.path), EPISODES[:3])
    store.append(episode(8, 2))
    assert_episodes(DemonstrationStore.open(store.path), [*EPISODES[:3], episode(8, 2)])


def test_context_that_changes_within_an_episode_is_refused_before_it_is_written(store):
    changed = episode(9, 5)
    changed["goal"][3] += 1
    with pytest.raises(ValueError, match=r"context 'goal' must be the same .* step 3 differs"):
        store.append(changed)
    first, other = episode(9, 5), episode(10, 5)
    with store.begin() as writer:
        writer.add(first)
        with pytest.raises(ValueError, match=r"context '(goal|picture)' must be the same .* another episode"):
            writer.add(other)
        writer.add(first)
        writer.keep()
    np.testing.assert_array_equal(store.episode(4)["state"], np.tile(first["state"], (2, 1)))


def test_the_content_of_context_depends_on_the_lengths_of_the_episodes(tmp_path):
    digests = set()
    for number, lengths in enumerate([(4, 6), (5, 5)]):
        store = DemonstrationStore.create(tmp_path / str(number), SPECIFICATION)
        for length in lengths:
            store.append(episode(0, length))
        digests.add(store.content("goal"))
    assert len(digests) == 2


def test_a_missing_file_of_context_is_named(store):
    next(file for file in (store.path / "context" / "goal" / "c").rglob("*") if file.is_file()).unlink()
    with pytest.raises(ValueError, match=r"context/goal.* is missing"):
        DemonstrationStore.open(store.path).read("goal")


@pytest.mark.parametrize(
    ("observations", "action"),
    [
        ((Stream("goal", (2,), context=True),), Stream("action", (2,))),
        ((Stream("state", (2,)),), Stream("action", (2,), context=True)),
    ],
)
def test_context_is_never_the_action_and_never_alone(observations, action):
    with pytest.raises(ValueError, match="context must be observations beside others"):
        Specification(observations, action, control_dt=0.1)


def test_a_policy_and_a_task_that_differ_in_what_is_context_are_told_apart():
    plain = Specification((Stream("state", (2,)), Stream("goal", (3,))), Stream("action", (2,)), 0.1)
    goal_is_context = Specification(
        (Stream("state", (2,)), Stream("goal", (3,), context=True)), Stream("action", (2,)), 0.1
    )
    assert plain.differences(goal_is_context) == ["goal: context is False on one side and True on the other"]
