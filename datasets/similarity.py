"""Episodes that are almost the same, and whether there are several ways to do the task.

Shapes: n episodes; P points of a path; D dimensions, of which Da are those of the action.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.01
"""Two episodes are almost the same if their paths differ by less than this share of the ranges, root mean square."""

COMPONENTS = 8
"""Paths are compared in so many directions first."""

ROWS = 256
"""So many episodes are compared with all others at once."""

LEAST = 20
"""Of fewer episodes no ways are told apart."""

APART, CHANCE = 3.4, 13.0
"""Two ways differ by the first of these plus the second / sqrt(n) standard deviations. One of a thousand samples of an
even distribution falls apart so far by chance, and far fewer of a normal one."""

EXPLAINED = 20
"""One direction of the start is subtracted for so many episodes: more would also explain by chance what it does not."""

LEAP = 0.35
"""A dimension that goes further in a step than this share of its range, in most episodes, is a switch. The moment at
which it is thrown is no way of its own."""

MINORITY = 0.1
"""The rarer of two ways has at least this share of the episodes."""


def near_duplicates(paths: NDArray[np.float16]) -> list[list[int]]:
    """Groups of episodes whose paths (n, P, D) are almost the same, each ascending.

    Cost: n^2 `COMPONENTS` multiplications, 4 s for 10,000 episodes. A projection never makes a distance longer, so none
    is missed.
    """
    flat = paths.reshape(len(paths), -1).astype(np.float32)
    if not flat.shape[1]:
        return []
    limit = ALIKE * np.sqrt(flat.shape[1])
    sample = flat[:: max(len(flat) // 500, 1)]
    _, _, directions = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)
    short = flat @ directions[:COMPONENTS].T
    group = np.arange(len(flat))
    for start in range(0, len(flat), ROWS):
        block = short[start : start + ROWS]
        near = np.square(block[:, None] - short[None]).sum(axis=2) <= np.square(limit)
        for one, other in np.argwhere(near):
            one += start
            if one < other and np.linalg.norm(flat[one] - flat[other]) <= limit:
                group[group == group[other]] = group[one]
    groups = [np.flatnonzero(group == name).tolist() for name in np.unique(group)]
    return [members for members in groups if len(members) > 1]


class Ways(NamedTuple):
    """Two ways to do the task."""

    way: NDArray[np.int64]
    """(n,): 0 for the more frequent way, 1 for the other."""
    distance: float
    """Between their means, in standard deviations within a way."""
    dimension: int
    """The dimension, of D, in which they differ most."""


def ways(paths: NDArray[np.float16], is_action: NDArray[np.bool_], steps: NDArray[np.float64]) -> Ways | None:
    """Two ways in which the actions of paths (n, P, D) go on from similar starts; None if there seems to be one.

    What the start explains, linearly, is subtracted from the path of the action. If the episodes then fall into two
    groups along the direction in which they differ most, there are two ways. is_action: (D,). steps: (n, D), the
    largest step of each episode, as a share of the range.
    """
    is_action = is_action & (np.median(steps, axis=0) <= LEAP)
    if len(paths) < LEAST or not is_action.any():
        return None
    values = paths.astype(np.float64)
    actions = values[:, :, is_action]
    left = _unexplained(values[:, 0], actions.reshape(len(paths), -1))
    _, _, directions = np.linalg.svd(left, full_matrices=False)
    place = left @ directions[0]
    split, distance = _best_split(place)
    is_other = place > split
    if is_other.mean() > 0.5:
        is_other = ~is_other
    if distance < APART + CHANCE / np.sqrt(len(paths)) or is_other.mean() < MINORITY or is_other.sum() < 3:
        return None
    weight = np.square(directions[0].reshape(actions.shape[1:])).sum(axis=0)
    return Ways(is_other.astype(np.int64), distance, int(np.flatnonzero(is_action)[weight.argmax()]))


def _unexplained(starts: NDArray[np.float64], paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Paths (n, ...) without what is linear in the starts (n, D), in the directions in which these vary most."""
    centred, targets = starts - starts.mean(axis=0), paths - paths.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(int((sizes > 1e-3 * max(sizes[0], 1e-9)).sum()), len(starts) // EXPLAINED)
    basis = left[:, :count]
    return targets - basis @ (basis.T @ targets)


def _best_split(values: NDArray[np.float64]) -> tuple[float, float]:
    """The value that splits (n,) into the two tightest groups, and how many standard deviations they are apart."""
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    low, high = np.cumsum(ordered)[:-1] / count, np.cumsum(ordered[::-1])[:-1][::-1] / count[::-1]
    low_2 = np.cumsum(ordered**2)[:-1] / count
    high_2 = np.cumsum(ordered[::-1] ** 2)[:-1][::-1] / count[::-1]
    within = count * (low_2 - low**2) + count[::-1] * (high_2 - high**2)
    best = int(within.argmin())
    spread = np.sqrt(max(within[best] / len(ordered), 1e-12))
    return float(ordered[best] + ordered[best + 1]) / 2, float((high[best] - low[best]) / spread)
