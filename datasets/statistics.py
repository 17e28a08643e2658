"""Statistics of the streams of demonstrations, read in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations, check_finite
from .observing import holding

NUMBERS_AT_ONCE = 2**22
"""Data are read in pieces of at most this many numbers (32 MB in float64), or of a single step if it is larger."""


Rows = Callable[[], Iterator[NDArray[np.generic]]]
"""Yields the rows of a stream (rows, *shape) in pieces that fit in memory, from the first one at every call."""


@dataclass(frozen=True)
class Statistics:
    """Extremes, mean and standard deviation of each dimension of a stream, in the stream's shape."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def rows_of(demonstrations: Demonstrations, name: str, episodes: Sequence[int]) -> Rows:
    """All steps of a stream in those of `episodes` in which it is not absent; in all of them if it is in all."""
    return partial(_pieces, demonstrations, name, holding(demonstrations, name, episodes) or episodes)


def statistics(demonstrations: Demonstrations, name: str, episodes: Sequence[int]) -> Statistics:
    """Statistics of a stream over all steps of `episodes`. Raises ValueError if `episodes` is empty."""
    return summary(rows_of(demonstrations, name, episodes), name)


def summary(rows: Rows, name: str) -> Statistics:
    """Statistics of the rows of a stream. Raises ValueError if there are none."""
    pieces = (piece.astype(np.float64) for piece in rows())
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"statistics of stream {name!r} need at least one episode, got none")
    shift = low = high = first[0]  # sums of differences from a value lose no digits to a large mean
    total = squares = np.zeros_like(shift)
    count = 0
    for piece in chain([first], pieces):
        low, high = np.minimum(low, piece.min(axis=0)), np.maximum(high, piece.max(axis=0))
        total, squares = total + (piece - shift).sum(axis=0), squares + ((piece - shift) ** 2).sum(axis=0)
        count += len(piece)
    mean = total / count
    return Statistics(low, high, mean + shift, np.sqrt(np.maximum(squares / count - mean**2, 0)))


def require_finite(demonstrations: Demonstrations, place: str) -> None:
    """Raise ValueError if a vector holds NaN or infinity. place: of the demonstrations, for the message."""
    for stream in demonstrations.specification.streams:
        first, is_float = 0, np.dtype(stream.dtype).kind == "f"
        for rows in _pieces(demonstrations, stream.name, range(len(demonstrations) if is_float else 0)):
            check_finite(rows, stream, place, first)
            first += len(rows)


def quantiles(
    demonstrations: Demonstrations, name: str, episodes: Sequence[int], *, tail: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The quantiles `tail` and 1 - `tail` of a stream over all steps of `episodes`; see `tails`."""
    return tails(rows_of(demonstrations, name, episodes), name, tail=tail)


def tails(rows: Rows, name: str, *, tail: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The quantiles `tail` and 1 - `tail` of each dimension over all rows, equal to numpy's.

    Quantiles between two values are interpolated. Memory: the share `tail` of the values, twice. Raises ValueError if
    there are no rows.
    """
    count = sum(len(piece) for piece in rows())
    if not count:
        raise ValueError(f"quantiles of stream {name!r} need at least one episode, got none")
    index, share = divmod(tail * (count - 1), 1)
    pieces = (piece.astype(np.float64) for piece in rows())
    first = next(pieces)
    lowest, highest = first[:0], first[:0]
    for piece in chain([first], pieces):
        lowest = np.sort(np.concatenate([lowest, piece]), axis=0)[: int(index) + 2]
        highest = np.sort(np.concatenate([highest, piece]), axis=0)[-int(index) - 2 :]
    low, high = lowest[[int(index), -1]], highest[[-int(index) - 1, 0]]
    return low[0] + share * (low[1] - low[0]), high[0] + share * (high[1] - high[0])


def _selection(demonstrations: Demonstrations, episodes: Sequence[int]) -> NDArray[np.bool_]:
    """Mask (N,) of the steps that belong to `episodes`."""
    is_selected = np.zeros(demonstrations.num_steps, dtype=bool)
    for episode in episodes:
        is_selected[slice(*demonstrations.bounds(episode))] = True
    return is_selected


def _pieces(demonstrations: Demonstrations, name: str, episodes: Sequence[int]) -> Iterator[NDArray[np.generic]]:
    """Rows of `episodes` in pieces of at most NUMBERS_AT_ONCE; neighbouring episodes are read together."""
    most = max(NUMBERS_AT_ONCE // demonstrations.stream(name).size, 1)
    is_selected = _selection(demonstrations, episodes)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_selected, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        for begin in range(start, stop, most):
            yield demonstrations.read(name, begin, min(begin + most, stop))
