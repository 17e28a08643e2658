"""Which axis of an input drives which dimension of a robot, and how far.

Shapes: A axes of the input; Da size of the action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Stream, nearest

NONE = "none"
"""Stands for an axis where no axis drives a dimension."""


def axis_names(action: Stream) -> tuple[str, ...]:
    """The names of the dimensions of an action: its labels, or their numbers."""
    return action.labels or tuple(str(index) for index in range(action.size))


class Axes:
    """Maps values of an input (A,) to the dimensions of an action (Da,).

    names: of the axes of the input. action: the stream of the robot's commands.
    drives: for each dimension, the axis that drives it, as x or -x, or `NONE`; None for the axes of the same names as
        the dimensions if there are such, else for the first ones in order.
    scale: units of the action for a unit of the axis, one number or one for each dimension.

    Raises ValueError for unknown axes, and for another number of them than the action has dimensions.

    >>> Axes(("x", "y"), Stream("action", (2,)), drives=["-y", "x"], scale=10)([1.0, 2.0])
    array([-20.,  10.])
    """

    def __init__(
        self,
        names: Sequence[str],
        action: Stream,
        *,
        drives: Sequence[str] | None = None,
        scale: ArrayLike = 1.0,
    ) -> None:
        self.names, self.action = tuple(names), action
        own = axis_names(action)
        if drives is None:
            drives = own if set(own) <= set(names) else names[: action.size]
        if len(drives) != action.size:
            raise ValueError(
                f"axes must name one axis of the input for each of the {action.size} dimensions of the action "
                f"({', '.join(own)}), or {NONE}, got {list(drives)}: the input has {', '.join(names)}"
            )
        for drive in drives:
            if drive != NONE and drive.removeprefix("-") not in names:
                raise ValueError(f"axes must name axes of the input, got {drive!r}: {nearest(drive, (*names, NONE))}")
        if np.size(scale) not in (1, action.size) or not np.isfinite(scale).all():
            raise ValueError(f"scale must be one number, or {action.size}, got {scale}")
        self.is_driven = np.array([drive != NONE for drive in drives])
        """For each dimension (Da,), whether an axis drives it; the others stay where they are."""
        self.matrix = np.zeros((action.size, len(names)))
        """Units of each dimension for a unit of each axis (Da, A)."""
        for row, drive in enumerate(drives):
            if drive != NONE:
                self.matrix[row, self.names.index(drive.removeprefix("-"))] = -1 if drive.startswith("-") else 1
        self.matrix *= np.broadcast_to(np.asarray(scale, np.float64), (action.size,))[:, None]

    def __call__(self, value: ArrayLike) -> NDArray[np.float64]:
        """The value of each dimension (Da,), 0 where none drives it. Raises ValueError for another number of axes."""
        value = np.asarray(value, np.float64)
        if value.shape != (len(self.names),):
            raise ValueError(f"the input must give its {len(self.names)} axes {self.names}, got shape {value.shape}")
        with np.errstate(invalid="ignore"):
            return np.where(self.is_driven, (self.matrix * np.where(self.matrix == 0, 0.0, value)).sum(1), 0.0)
