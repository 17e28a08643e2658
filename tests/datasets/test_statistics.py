"""Statistics of streams, compared with numpy over all rows at once."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.datasets import statistics as module
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.statistics import quantiles, statistics
from recede.specification import Specification, Stream


@dataclass
class Recorded(Demonstrations):
    """Demonstrations of one stream in memory, which record every read."""

    rows: np.ndarray
    episode_ends: np.ndarray

    def __post_init__(self):
        stream = Stream("signal", self.rows.shape[1:], self.rows.dtype.name)
        self.specification = Specification((stream,), Stream("action", (1,)), 0.1)
        self.pieces = []

    def read(self, name, start=0, stop=None):
        assert name == "signal"
        self.pieces.append((start, stop))
        return self.rows[start:stop]


def assert_equal_to_numpy(computed, rows):
    exact = rows.astype(np.longdouble)
    np.testing.assert_array_equal(computed.low, rows.min(axis=0))
    np.testing.assert_array_equal(computed.high, rows.max(axis=0))
    scale = np.abs(exact).max()
    np.testing.assert_allclose(computed.mean, exact.mean(axis=0).astype(float), rtol=1e-12, atol=1e-13 * float(scale))
    spread = float(np.ptp(exact, axis=0).max())
    np.testing.assert_allclose(computed.std, exact.std(axis=0).astype(float), rtol=1e-6, atol=1e-7 * spread + 1e-14)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    dtype=st.sampled_from(["float32", "float64", "uint8", "bool", "int16"]),
    shape=st.sampled_from([(3,), (1,), (2, 2, 3)]),
    most=st.sampled_from([1, 7, 2**22]),
    data=st.data(),
)
def test_statistics_are_those_of_all_rows_at_once(lengths, dtype, shape, most, data):
    ends = np.cumsum(lengths)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows = (rng.normal(3, 40, (ends[-1], *shape)) % 100).astype(dtype if len(shape) == 1 else "uint8")
    episodes = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUMBERS_AT_ONCE", most)
        computed = statistics(Recorded(rows, ends), "signal", episodes)
    chosen = np.concatenate([rows[ends[i] - lengths[i] : ends[i]] for i in sorted(episodes)])
    assert_equal_to_numpy(computed, chosen)
    assert computed.low.shape == computed.std.shape == shape


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    tail=st.floats(1e-3, 0.499),
    most=st.sampled_from([1, 7, 2**22]),
    data=st.data(),
)
def test_quantiles_are_those_of_all_rows_at_once(lengths, tail, most, data):
    ends = np.cumsum(lengths)
    rows = np.random.default_rng(data.draw(st.integers(0, 1000))).normal(3, 40, (ends[-1], 2)).round(-1)
    episodes = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUMBERS_AT_ONCE", most)
        computed = quantiles(Recorded(rows, ends), "signal", episodes, tail=tail)
    chosen = np.concatenate([rows[ends[i] - lengths[i] : ends[i]] for i in sorted(set(episodes))])
    np.testing.assert_allclose(computed, np.quantile(chosen, [tail, 1 - tail], axis=0), rtol=1e-12, atol=1e-9)


def test_a_large_offset_costs_no_digits():
    rows = 1e9 + np.random.default_rng(0).normal(0, 1e-3, (1000, 1))
    computed = statistics(Recorded(rows, np.array([400, 1000])), "signal", [0, 1])
    assert computed.std[0] == pytest.approx(rows.std(), rel=1e-4)
    assert abs(computed.mean[0] - rows.mean()) < 1e-6


def test_pieces_are_bounded_and_join_neighbouring_episodes(monkeypatch):
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 100)
    demonstrations = Recorded(np.zeros((60, 10)), np.array([4, 10, 20, 60]))
    statistics(demonstrations, "signal", [3, 0, 1])
    assert demonstrations.pieces == [(0, 10), (20, 30), (30, 40), (40, 50), (50, 60)]


def test_an_episode_is_counted_once_and_others_are_not_read():
    demonstrations = Recorded(np.arange(30.0)[:, None], np.array([10, 20, 30]))
    computed = statistics(demonstrations, "signal", [1, 1])
    assert (computed.low[0], computed.high[0], computed.mean[0]) == (10, 19, 14.5)
    assert demonstrations.pieces == [(10, 20)]


@pytest.mark.parametrize("ends", [[], [5]])
def test_no_episodes_are_refused(ends):
    demonstrations = Recorded(np.zeros((5, 1)), np.array(ends, dtype=np.int64))
    with pytest.raises(ValueError, match="stream 'signal' need at least one episode"):
        statistics(demonstrations, "signal", [])
    with pytest.raises(ValueError, match="stream 'signal' need at least one episode"):
        quantiles(demonstrations, "signal", [], tail=0.1)
