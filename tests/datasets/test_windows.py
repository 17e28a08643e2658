"""Training windows: by hand for a small episode, and compared with a slow reference for any demonstrations."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.datasets.check import check_demonstrations
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.mirror import Mirrored
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows, split_episodes
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("state", (3,)), Stream("contact", (1,), "bool"), Stream("image", (2, 2, 3), "uint8")),
    Stream("action", (2,)),
    control_dt=0.1,
)


@dataclass
class InMemory(Demonstrations):
    """Demonstrations of given lengths; the first number of each state and action is the index of its step."""

    lengths: list[int]
    specification: Specification = SPECIFICATION
    path: Path = Path("memory")
    rows: dict = field(init=False)

    def __post_init__(self):
        self.episode_ends = np.cumsum(self.lengths, dtype=np.int64)
        self.episode_seeds = np.full(len(self.lengths), -1)
        rng = np.random.default_rng(sum(self.lengths))
        count = sum(self.lengths)
        self.rows = {
            "state": rng.normal(size=(count, 3)).astype("float32"),
            "contact": rng.random((count, 1)) < 0.5,
            "image": rng.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8),
            "action": rng.normal(size=(count, 2)).astype("float32"),
        }
        for name in ("state", "action"):
            self.rows[name][:, 0] = np.arange(count)

    def read(self, name, start=0, stop=None):
        start, stop = self.step_range(start, stop)
        return self.rows[self.stream(name).name][start:stop].copy()


def everything(windows):
    return windows.batch(torch.arange(len(windows)))


def steps_of(batch):
    """The observed steps of each window, and the steps of its actions."""
    return batch.observation["state"][..., 0].int().tolist(), batch.action[..., 0].int().tolist()


# Horizons (To, Tp, Ta) -> each window of an episode of 5 steps: (observed steps, steps of the actions, padded ones).
BY_HAND = {
    (2, 4, 2): [
        ([0, 0], [0, 0, 1, 2], [1, 0, 0, 0]),
        ([0, 1], [0, 1, 2, 3], [0, 0, 0, 0]),
        ([1, 2], [1, 2, 3, 4], [0, 0, 0, 0]),
        ([2, 3], [2, 3, 4, 4], [0, 0, 0, 1]),
    ],
    (1, 1, 1): [([step], [step], [0]) for step in range(5)],
    (1, 4, 3): [
        ([0], [0, 1, 2, 3], [0, 0, 0, 0]),
        ([1], [1, 2, 3, 4], [0, 0, 0, 0]),
        ([2], [2, 3, 4, 4], [0, 0, 0, 1]),
    ],
    (3, 3, 1): [
        ([0, 0, 0], [0, 0, 0], [1, 1, 0]),
        ([0, 0, 1], [0, 0, 1], [1, 0, 0]),
        ([0, 1, 2], [0, 1, 2], [0, 0, 0]),
        ([1, 2, 3], [1, 2, 3], [0, 0, 0]),
        ([2, 3, 4], [2, 3, 4], [0, 0, 0]),
    ],
    (2, 8, 5): [([0, 0], [0, 0, 1, 2, 3, 4, 4, 4], [1, 0, 0, 0, 0, 0, 1, 1])],
    (2, 8, 6): [],
}


@pytest.mark.parametrize(("horizons", "expected"), BY_HAND.items())
def test_all_windows_of_an_episode_of_five_steps(horizons, expected):
    batch = everything(Windows(InMemory([5]), Horizons(*horizons)))
    observed, actions = steps_of(batch)
    rows = list(zip(observed, actions, batch.is_padding.int().tolist(), strict=True))
    assert rows == expected


@pytest.mark.parametrize(("horizons", "expected"), BY_HAND.items())
def test_the_windows_of_an_episode_do_not_depend_on_its_place(horizons, expected):
    windows = Windows(InMemory([9, 5, 7]), Horizons(*horizons)).of([1])
    observed, actions = steps_of(everything(windows))
    shifted = [([9 + step for step in observed], [9 + step for step in executed]) for observed, executed, _ in expected]
    assert list(zip(observed, actions, strict=True)) == shifted


def test_velocities_are_zero_beyond_the_ends_of_an_episode():
    """Dimension 0 is a position, and dimension 1 a velocity, which must not be repeated."""
    specification = Specification((Stream("state", (1,)),), Stream("action", (2,), hold=("last", "zero")), 0.1)
    demonstrations = InMemory([9, 5, 7], specification)
    demonstrations.rows["state"] = demonstrations.rows["state"][:, :1]
    demonstrations.rows["action"] = np.stack([np.arange(21), np.arange(21) + 100], axis=1).astype("float32")
    windows = Windows(demonstrations, Horizons(2, 4, 2)).of([1])
    batch = everything(windows)
    assert batch.action[..., 0].int().tolist() == [[9, 9, 10, 11], [9, 10, 11, 12], [10, 11, 12, 13], [11, 12, 13, 13]]
    assert batch.action[..., 1].int().tolist() == [
        [0, 109, 110, 111],
        [109, 110, 111, 112],
        [110, 111, 112, 113],
        [111, 112, 113, 0],
    ]
    assert batch.observation["state"][0, :, 0].tolist() == [9, 9]  # the execution repeats observations too
    assert torch.equal(windows.streams["action"], torch.from_numpy(demonstrations.rows["action"]))


def reference(demonstrations, horizons, episodes):
    """All windows, computed step by step."""
    for episode in episodes:
        last = int(demonstrations.episode_ends[episode]) - 1
        first = last + 1 - demonstrations.lengths[episode]
        for current in range(first, last - horizons.action + 2):
            start = current - horizons.observation + 1
            unclamped = range(start, start + horizons.prediction)
            steps = [min(max(step, first), last) for step in unclamped]
            observation = {
                name: np.stack([demonstrations.rows[name][step] for step in steps[: horizons.observation]])
                for name in ("state", "contact", "image")
            }
            action = np.stack([demonstrations.rows["action"][step] for step in steps])
            yield observation, action, [step < first or step > last for step in unclamped]


@st.composite
def any_horizons(draw):
    observation, action = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    return Horizons(observation, observation - 1 + action + draw(st.integers(0, 6)), action)


@settings(deadline=None, max_examples=80)
@given(horizons=any_horizons(), lengths=st.lists(st.integers(1, 15), max_size=6), data=st.data())
def test_windows_equal_a_slow_reference(horizons, lengths, data):
    demonstrations = InMemory(lengths)
    episodes = data.draw(st.permutations(range(len(lengths))))[: data.draw(st.integers(0, len(lengths)))]
    windows = Windows(demonstrations, horizons).of(episodes)
    expected = list(reference(demonstrations, horizons, episodes))
    assert len(windows) == len(expected) == sum(max(lengths[i] - horizons.action + 1, 0) for i in episodes)
    order = data.draw(st.lists(st.integers(0, len(windows) - 1), max_size=20)) if len(windows) else []
    batch = windows.batch(torch.tensor(order, dtype=torch.int64))
    assert batch.action.shape == (len(order), horizons.prediction, 2)
    assert batch.observation["image"].shape == (len(order), horizons.observation, 2, 2, 3)
    for row, index in enumerate(order):
        observation, action, is_padding = expected[index]
        for name, values in observation.items():
            np.testing.assert_array_equal(batch.observation[name][row], values)
        np.testing.assert_array_equal(batch.action[row], action)
        assert batch.is_padding[row].tolist() == is_padding
    assert not batch.is_padding[:, horizons.executed].any()


def test_streams_keep_their_names_and_dtypes():
    batch = everything(Windows(InMemory([6]), Horizons(2, 4, 2)))
    assert {name: values.dtype for name, values in batch.observation.items()} == {
        "state": torch.float32,
        "contact": torch.bool,
        "image": torch.uint8,
    }
    assert batch.action.dtype == torch.float32
    assert batch.is_padding.dtype == torch.bool


def test_a_selection_of_episodes_shares_the_streams():
    windows = Windows(InMemory([5, 6, 7]), Horizons(2, 4, 2))
    some = windows.of([0, 2])
    assert all(some.streams[name].data_ptr() == values.data_ptr() for name, values in windows.streams.items())
    assert (len(windows), len(some), len(windows.of([]))) == (4 + 5 + 6, 4 + 6, 0)
    assert len(some.of([1])) == 5  # of all episodes, not of those selected before


def test_there_are_no_windows_without_episodes_or_in_short_ones():
    for lengths in ([], [1], [3, 2, 1]):
        windows = Windows(InMemory(lengths), Horizons(2, 8, 4))
        assert len(windows) == 0
        assert everything(windows).action.shape == (0, 8, 2)


def test_a_change_to_a_batch_does_not_reach_the_demonstrations():
    windows = Windows(InMemory([8]), Horizons(2, 4, 2))
    everything(windows).action.zero_()
    assert everything(windows).action[..., 0].max() == 7


def test_windows_of_a_store_on_disk(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    assert len(Windows(store, Horizons(2, 4, 2))) == 0
    demonstrations = InMemory([5, 3])
    for start, stop in ((0, 5), (5, 8)):
        store.append({name: rows[start:stop] for name, rows in demonstrations.rows.items()})
    batch, expected = (everything(Windows(source, Horizons(2, 4, 2))) for source in (store, demonstrations))
    assert torch.equal(batch.action, expected.action)
    assert all(torch.equal(batch.observation[name], values) for name, values in expected.observation.items())


@settings(deadline=None)
@given(num_episodes=st.integers(0, 60), held_out=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**32))
def test_a_split_partitions_the_episodes(num_episodes, held_out, seed):
    training, validation = split_episodes(num_episodes, held_out=held_out, seed=seed)
    assert sorted(training + validation) == list(range(num_episodes))
    assert training == sorted(training)
    assert validation == sorted(validation)
    assert training or not num_episodes
    if num_episodes > 1 and held_out:
        assert len(validation) == min(max(round(num_episodes * held_out), 1), num_episodes - 1)
    else:
        assert not validation
    assert split_episodes(num_episodes, held_out=held_out, seed=seed) == (training, validation)


def test_the_seed_decides_which_episodes_are_held_out():
    assert len({tuple(split_episodes(50, held_out=0.1, seed=seed)[1]) for seed in range(20)}) > 15
    counts = np.bincount(
        np.concatenate([split_episodes(10, held_out=0.3, seed=seed)[1] for seed in range(400)]), minlength=10
    )
    assert (abs(counts - 120) < 45).all()  # each as often as the others, within 4.9 standard deviations


@pytest.mark.parametrize("held_out", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_is_refused(held_out):
    with pytest.raises(ValueError, match=rf"held out must be in \[0, 1\), got {held_out}"):
        split_episodes(10, held_out=held_out, seed=0)


# --- what a mirror shows


def flipped(rows):
    return -rows


def same(rows):
    return rows


def test_a_mirror_doubles_the_episodes_in_their_order():
    plain = InMemory([5, 9, 3])
    mirrored = Mirrored(
        plain, {"state": flipped, "contact": same, "image": lambda rows: rows[:, :, ::-1], "action": flipped}
    )
    assert mirrored.episode_ends.tolist() == [5, 14, 17, 22, 31, 34]
    assert mirrored.episode_seeds.tolist() == [-1] * 6
    check_demonstrations(mirrored)
    for name in plain.rows:
        rows = mirrored.read(name)
        assert rows.dtype == plain.rows[name].dtype
        for start in range(35):
            for stop in range(start, 35):
                np.testing.assert_array_equal(mirrored.read(name, start, stop), rows[start:stop])
    np.testing.assert_array_equal(mirrored.read("state")[:17], plain.rows["state"])
    np.testing.assert_array_equal(mirrored.read("state")[17:], -plain.rows["state"])
    np.testing.assert_array_equal(mirrored.read("image")[17:], plain.rows["image"][:, :, ::-1])


def test_a_mirror_needs_an_entry_for_every_stream():
    plain = InMemory([5])
    with pytest.raises(ValueError, match=r"every stream.*'contact', 'image'"):
        Mirrored(plain, {"state": flipped, "action": flipped})


@given(any_horizons(), st.data())
@settings(max_examples=20, deadline=None)
def test_windows_whose_executed_steps_are_all_chosen(horizons, data):
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    is_chosen = np.array(data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))))
    windows = Windows(InMemory(lengths), horizons)
    chosen = windows.where(is_chosen)
    currents = [step for step in windows.current.tolist() if is_chosen[step : step + horizons.action].all()]
    assert chosen.current.tolist() == currents
    assert len(windows.where(np.ones(sum(lengths), bool))) == len(windows)
