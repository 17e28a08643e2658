"""The groups of rows that an evaluation on a CPU predicts at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..policy.engines.interface import Engine
from ..policy.networks.cpu_inference import ROWS

MOST_ROWS = 8 * ROWS
"""The most rows of a group. Twice as many take hardly less time a row."""

_groups: WeakKeyDictionary[Engine, Groups] = WeakKeyDictionary()


class Groups:
    """The groups of rows that the eager engine predicts at a time on a CPU: larger ones take less time a row.

    most: rows of a group. A library of the processor may multiply the matrices of a large group in another way, which
    would give other bits. So the first prediction of a size is also made `ROWS` rows at a time; if any bit differs,
    groups stay smaller.
    """

    def __init__(self, *, most: int) -> None:
        self.most = most
        self._proven = set[tuple[Hashable, int]]()

    def divided(self, rows: Sequence[int]) -> Generator[Sequence[int]]:
        """Groups, in rounds of a group for each thread of torch, all of one size; the last round may have fewer.

        Padded to a multiple of `ROWS`, each has a power of two times `ROWS` rows, and no thread has more of them than
        if all groups had `ROWS` rows.
        """
        threads = torch.get_num_threads()
        while rows:
            size = min(self.most, ROWS * _power_of_two(math.ceil(len(rows) / ROWS) // threads))
            yield from pieces(rows[: threads * size], size)
            rows = rows[threads * size :]

    def predicted(
        self, rows: Sequence[int], chunks_of: Callable[[Sequence[int]], np.ndarray], *, kind: Hashable
    ) -> np.ndarray:
        """Chunks (B, Tp, Da) of the requests `rows`, which are of one kind, with those of the padding."""
        rows = padded(rows, ROWS)
        if (kind, len(rows)) in self._proven:
            return chunks_of(rows)
        chunks = np.concatenate([chunks_of(piece) for piece in pieces(rows, ROWS)])
        if len(rows) == ROWS or np.array_equal(chunks_of(rows), chunks, equal_nan=True):
            self._proven.add((kind, len(rows)))
        else:
            self.most = min(self.most, len(rows) // 2)
        return chunks


def groups_of(engine: Engine) -> Groups:
    """The groups of an engine, which it keeps as long as it lives.

    Images take so much time each that a large group would need more memory and gain nothing.
    """
    if engine not in _groups:
        has_images = any(stream.is_image for stream in engine.specification.observations)
        _groups[engine] = Groups(most=ROWS if has_images else MOST_ROWS)
    return _groups[engine]


def _power_of_two(number: int) -> int:
    """The largest power of two up to a number, at least 1."""
    return 1 << max(number.bit_length() - 1, 0)


def pieces(rows: Sequence[int], size: int) -> Generator[Sequence[int]]:
    """All rows in pieces of a size; the last one may be smaller."""
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def padded(rows: Sequence[int], multiple: int) -> list[int]:
    """The rows, and the first one again until they are a multiple."""
    return [*rows, *[rows[0]] * (-len(rows) % multiple)]
