"""Whether a chunk of actions still moves the robot. Loads no torch, so control loops use it.

Shapes: ... any batch axes; Tp, Da prediction horizon and size of the action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def travel(chunk: NDArray[np.floating], span: ArrayLike, hold: Sequence[str]) -> NDArray[np.float64]:
    """How far chunks (..., Tp, Da) move the robot, (...): the largest share of the span in any dimension.

    span: (Da,), the range of each dimension; a range of 0 does not count. hold: see `Stream.hold`. A dimension that
    keeps its last value without a command moves by the difference of its extremes. One that becomes zero, such as a
    velocity, moves by its largest magnitude.

    >>> travel(np.array([[0.0, 0.1], [0.5, 0.1]]), [2.0, 2.0], ["last", "zero"]).item()
    0.25
    """
    rows, width = np.asarray(chunk, np.float64), np.asarray(span, np.float64)
    is_zero = np.array([one == "zero" for one in hold] or [False])
    moved = np.where(is_zero, np.abs(rows).max(axis=-2), np.ptp(rows, axis=-2))
    return np.divide(moved, width, out=np.zeros_like(moved), where=width > 0).max(axis=-1)
