"""What a chunk is predicted from, and how requests become batches. Arrays of numpy alone: torch is not loaded.

Shapes: B requests of a batch; To observation horizon.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .denoising.guidance import Guidance, Prefix, stacked

History: TypeAlias = dict[str, NDArray[Any]]
"""A stream's name -> the last To observations of it (To, ...), the current one last."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to predict one chunk from: the observations, and what guides the chunk."""

    history: History
    guidance: tuple[Guidance, ...] = ()

    @property
    def kind(self) -> Hashable:
        """Requests of one kind go together in a batch."""
        return tuple(guide.kind for guide in self.guidance)

    @property
    def prefix(self) -> Prefix | None:
        """The prefix that guides the chunk, if one does, for what passes nothing else on to another process.

        Raises ValueError if something else guides it.
        """
        if not self.guidance:
            return None
        (prefix, *others) = self.guidance
        if others or not isinstance(prefix, Prefix):
            names = [type(guide).__name__ for guide in self.guidance]
            raise ValueError(f"only one Prefix can be passed to another process, got {names}: predict in this one")
        return prefix


def batch(requests: Sequence[Request]) -> tuple[History, tuple[Guidance, ...]]:
    """The observation (B, To, ...) and the guidance of requests of one kind."""
    first = requests[0]
    observation = {name: np.stack([request.history[name] for request in requests]) for name in first.history}
    rows = zip(*(request.guidance for request in requests), strict=True)
    return observation, tuple(stacked(guides) for guides in rows)
