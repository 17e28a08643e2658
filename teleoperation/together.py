"""Several inputs as one, such as two arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..robots.interface import Reading
from .interface import Order, Status, Teleoperator


class Together:
    """The values of several inputs one after the other. It is held while all of them are.

    Raises ValueError if the inputs are not of one kind, or if two axes have the same name.
    """

    def __init__(self, *inputs: Teleoperator) -> None:
        self.inputs, self.kind = inputs, inputs[0].kind
        self.axes = tuple(name for one in inputs for name in one.axes)
        if {one.kind for one in inputs} != {self.kind}:
            raise ValueError(f"inputs must be of one kind to be one, got {', '.join(one.kind for one in inputs)}")
        if len({*self.axes}) < len(self.axes):
            raise ValueError(f"the axes of inputs must have different names, got {', '.join(self.axes)}")

    def start(self) -> None:
        """Connect all of them, or none. Raises the error of the first one that fails."""
        try:
            for one in self.inputs:
                one.start()
        except BaseException:
            self.close()
            raise

    def read(self, now: float) -> Reading | None:
        """The values of all, and the time of the oldest of them; None unless all are held."""
        readings = [reading for one in self.inputs if (reading := one.read(now)) is not None]
        if len(readings) < len(self.inputs):
            return None
        return Reading(np.concatenate([one.value for one in readings]), min(one.time for one in readings))

    def orders(self, status: Status) -> Sequence[Order]:
        """The orders of all."""
        return [order for one in self.inputs for order in one.orders(status)]

    def close(self) -> None:
        """Release all of them, whatever one of them raises."""
        errors = list[Exception]()
        for one in self.inputs:
            try:
                one.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
