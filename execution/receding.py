"""Execute a part of a chunk, stop, and plan again."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .interface import Execution


class RecedingHorizon(Execution):
    """Execute the first `every` actions, stop, and plan again (Chi et al. 2023, section II.C).

    The robot holds its last action until the new chunk arrives, and then executes the chunk from its first action on.
    """

    @property
    def looks_next(self) -> bool:
        """See `Execution.looks_next`. A subclass that plans at other times looks at every step."""
        is_other = type(self)._is_due is not RecedingHorizon._is_due
        return is_other or len(self.planned) <= self.horizons.observation

    def _is_due(self) -> bool:
        return not len(self.planned)

    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        return actions[: self.every].copy()
