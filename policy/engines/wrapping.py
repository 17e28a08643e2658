"""Engines around another engine: with guidance of their own, or with streams that always have the same values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import nearest
from ..denoising.guidance import Guidance
from ..inputs import absent_values, num_rows
from .interface import Arrays, Engine, check_without_gradient


class WrappingEngine:
    """An engine that acts as another one does. A subclass changes what it predicts from. See `Engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.specification = engine, engine.specification
        self.name, self.precision, self.horizons = engine.name, engine.precision, engine.horizons
        if hasattr(engine, "device"):
            self.device: Any = engine.device  # type: ignore[attr-defined]

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction; see `Engine.noise_shape`."""
        return self.engine.noise_shape

    def whole(self, observation: Arrays) -> Arrays:
        """What the innermost engine observes."""
        return self.engine.whole(observation) if isinstance(self.engine, WrappingEngine) else observation


class GuidedEngine(WrappingEngine):
    """An engine with guidance of its own, which comes before that of a request.

    Raises ValueError if the guidance does not suit the chunks, or needs gradients and the engine has none.
    """

    def __init__(self, engine: Engine, guidance: Sequence[Guidance]) -> None:
        super().__init__(engine)
        if engine.name != "eager":
            check_without_gradient(guidance, engine.name)
        for guide in guidance:
            guide.check((1, engine.horizons.prediction, *engine.specification.action.shape))
        self.guidance = tuple(guidance)

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        return self.engine.predict(observation, noise, (*self.guidance, *guidance))


class FixedEngine(WrappingEngine):
    """An engine some of whose streams always have the same values. It observes the others.

    values: stream name -> the value of a step.
    """

    def __init__(self, engine: Engine, values: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(engine)
        self._values = values
        self.specification = engine.specification.without(values)

    def whole(self, observation: Arrays) -> Arrays:
        """What the innermost engine observes: the engine's own values in place of those of the observation."""
        return super().whole(self._with_own(observation))

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`. Streams of which the engine has values are ignored."""
        return self.engine.predict(self._with_own(observation), noise, guidance)

    def _with_own(self, observation: Arrays) -> Arrays:
        steps = num_rows(observation), self.horizons.observation
        own = {name: np.tile(value, (*steps, *(1 for _ in value.shape))) for name, value in self._values.items()}
        return {**observation, **own}


class InstructedEngine(FixedEngine):
    """An engine whose context, or a part of it, is always the same, such as the one goal of a robot.

    context: stream name -> its value.

    Raises ValueError for a stream that is no context, or a value of another shape.
    """

    def __init__(self, engine: Engine, context: Mapping[str, Any]) -> None:
        streams = {stream.name: stream for stream in engine.specification.context}
        values = dict[str, NDArray[Any]]()
        for name, value in context.items():
            if name not in streams:
                raise ValueError(f"context.{name} must be context of the policy: {nearest(name, streams)}")
            values[name] = streams[name].cast(value)
            if values[name].shape != streams[name].shape:
                raise ValueError(f"context.{name} must have the shape {streams[name].shape}, got {values[name].shape}")
        super().__init__(engine, values)


def without_absent(engine: Engine, offered: Collection[str]) -> Engine:
    """The engine for those who offer observations of these names: what may be absent, and they lack, is absent."""
    values = absent_values(engine.specification, offered)
    return FixedEngine(engine, values) if values else engine
