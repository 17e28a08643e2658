"""An engine whose every chunk is guided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..denoising.guidance import Guidance
from .interface import Arrays, Engine


class GuidedEngine:
    """An engine with guidance of its own, which comes before that of a request. See `Engine`."""

    def __init__(self, engine: Engine, guidance: Sequence[Guidance]) -> None:
        self.engine, self.guidance = engine, tuple(guidance)
        self.name, self.precision = engine.name, engine.precision
        self.specification, self.horizons = engine.specification, engine.horizons
        if hasattr(engine, "device"):
            self.device: Any = engine.device  # type: ignore[attr-defined]

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction; see `Engine.noise_shape`."""
        return self.engine.noise_shape

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        return self.engine.predict(observation, noise, (*self.guidance, *guidance))
