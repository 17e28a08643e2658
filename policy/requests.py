"""What a chunk is predicted from, and how requests become batches. Numpy arrays only; torch is not loaded.

Shapes: B requests in a batch; To observation horizon.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .denoising.guidance import Guidance, Prefix, stacked

History: TypeAlias = dict[str, NDArray[Any]]
"""Stream name -> its last To observations (To, ...), the current one last."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one chunk is predicted from."""

    history: History
    """The last observations."""
    guidance: tuple[Guidance, ...] = ()
    """What guides the chunk; see `Policy.predict`."""

    @property
    def kind(self) -> Hashable:
        """Requests of the same kind can share a batch."""
        return tuple(guide.kind for guide in self.guidance)

    @property
    def prefix(self) -> Prefix | None:
        """The prefix that guides the chunk, or None. Only a prefix can be passed to another process.

        Raises ValueError if anything else guides the chunk.
        """
        if not self.guidance:
            return None
        (prefix, *rest) = self.guidance
        if rest or not isinstance(prefix, Prefix):
            names = [type(guide).__name__ for guide in self.guidance]
            raise ValueError(f"only one Prefix can be passed to another process, got {names}: predict in this process")
        return prefix


def batch(requests: Sequence[Request]) -> tuple[History, tuple[Guidance, ...]]:
    """The observation (B, To, ...) and the guidance of a batch of requests of one kind."""
    first = requests[0]
    observation = {name: np.stack([request.history[name] for request in requests]) for name in first.history}
    rows = zip(*(request.guidance for request in requests), strict=True)
    return observation, tuple(stacked(guides) for guides in rows)
