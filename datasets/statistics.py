"""What the streams of demonstrations look like in numbers, read in pieces so that nothing need fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations

NUMBERS_AT_ONCE = 2**22
"""Upper bound of the numbers in a piece, where a single step has not more: 32 MB of them in float64."""


@dataclass(frozen=True)
class Statistics:
    """Per dimension of one stream, each of the stream's shape: extremes, mean and standard deviation."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def statistics(demonstrations: Demonstrations, name: str, episodes: Sequence[int]) -> Statistics:
    """Statistics of one stream over all steps of `episodes`. Raises ValueError where there is no episode."""
    pieces = (rows.astype(np.float64) for rows in _pieces(demonstrations, name, episodes))
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"statistics of stream {name!r} need at least one episode, got none")
    shift = low = high = first[0]  # sums about a value of the data lose no digits to a large mean
    total = squares = np.zeros_like(shift)
    count = 0
    for rows in chain([first], pieces):
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        total, squares = total + (rows - shift).sum(axis=0), squares + ((rows - shift) ** 2).sum(axis=0)
        count += len(rows)
    mean = total / count
    return Statistics(low, high, mean + shift, np.sqrt(np.maximum(squares / count - mean**2, 0)))


def quantiles(
    demonstrations: Demonstrations, name: str, episodes: Sequence[int], *, tail: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The quantiles `tail` and 1 - `tail` of each dimension over all steps of `episodes`, exactly as numpy's.

    Between two values they are interpolated. Memory: the share `tail` of the values, twice. Raises ValueError if there
    is no episode.
    """
    count = int(_chosen(demonstrations, episodes).sum())
    if not count:
        raise ValueError(f"quantiles of stream {name!r} need at least one episode, got none")
    index, share = divmod(tail * (count - 1), 1)
    pieces = (rows.astype(np.float64) for rows in _pieces(demonstrations, name, episodes))
    first = next(pieces)
    lowest, highest = first[:0], first[:0]
    for rows in chain([first], pieces):
        lowest = np.sort(np.concatenate([lowest, rows]), axis=0)[: int(index) + 2]
        highest = np.sort(np.concatenate([highest, rows]), axis=0)[-int(index) - 2 :]
    low, high = lowest[[int(index), -1]], highest[[-int(index) - 1, 0]]
    return low[0] + share * (low[1] - low[0]), high[0] + share * (high[1] - high[0])


def _chosen(demonstrations: Demonstrations, episodes: Sequence[int]) -> NDArray[np.bool_]:
    """Which of all steps (N,) are of the episodes."""
    chosen = np.zeros(demonstrations.num_steps, dtype=bool)
    for episode in episodes:
        chosen[slice(*demonstrations.bounds(episode))] = True
    return chosen


def _pieces(demonstrations: Demonstrations, name: str, episodes: Sequence[int]) -> Iterator[NDArray[np.generic]]:
    """Rows of the episodes; neighbouring episodes are read together, at most NUMBERS_AT_ONCE at a time."""
    sizes = {stream.name: stream.size for stream in demonstrations.specification.streams}
    most = max(NUMBERS_AT_ONCE // sizes[name], 1)
    chosen = _chosen(demonstrations, episodes)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        for begin in range(start, stop, most):
            yield demonstrations.read(name, begin, min(begin + most, stop))
