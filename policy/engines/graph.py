"""Engines of exported graphs: two graphs run by a session, and a loop in numpy around them. No torch is needed here.

The graph "encode" makes of an observation what depends on it alone, once a chunk; what depends on the times alone was
computed at export and is a table; the graph "denoise" is the network at one step. The loop is the policy's own sampler
and guidance, so that steps, limits and warm starts are arguments as they are in PyTorch, which they could not be in a
graph of all steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import Horizons, Prefix, Specification, Stream
from ..guidance import blended, sample
from ..inputs import check_noise, check_observation, check_prefix, num_rows
from ..levels import Levels, NoiseLevel
from ..prediction import Prediction
from ..sampling import Sampler, keeping_epsilon
from .interface import Arrays, Session, check_is_inexact


@dataclass(frozen=True)
class ActionRange:
    """Between the units of the action and [-1, 1]; `policy.normalizer.Affine` in numpy. Both (Da,), float32."""

    centre: NDArray[np.float32]
    half_range: NDArray[np.float32]

    def normalise(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """(..., Da) in units -> normalised."""
        divisor = np.where(self.half_range > 0, self.half_range, np.float32(np.inf))
        return np.divide(np.asarray(action, dtype=np.float32) - self.centre, divisor, dtype=np.float32)

    def unnormalise(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `normalise`."""
        return action * self.half_range + self.centre


class GraphEngine(ABC):
    """What the engines of a diffusion and of a regression policy share. See `Engine`.

    embedded: what the network makes of each time, (number of times, ...).
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        session: Session,
        action: ActionRange,
        levels: Levels,
        embedded: NDArray[np.float32],
    ) -> None:
        self.name, self.precision = session.name, session.precision
        self.specification, self.horizons = specification, horizons
        self._session, self._action = session, action
        self._embedded = {level.time: row[None] for level, row in zip(levels, embedded, strict=False)}

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, int, int]:
        """What one prediction draws; see `Engine.noise_shape`."""

    @abstractmethod
    def denoise(self, noisy: NDArray[Any], t: float, condition: NDArray[Any]) -> NDArray[Any]:
        """One denoising step; see `Engine.denoise`."""

    @abstractmethod
    def _chunk(self, condition: NDArray[Any], noise: NDArray[Any], prefix: Prefix | None) -> NDArray[Any]:
        """The chunk in units."""

    def encode(self, observation: Arrays) -> NDArray[Any]:
        """What depends on the observation alone; see `Engine.encode`."""
        given = {name: np.asarray(values) for name, values in observation.items()}
        check_observation(given, self.specification, self.horizons)
        streams = self.specification.observations
        return self._session.run("encode", [_as_input(given[stream.name], stream) for stream in streams])

    def predict(self, observation: Arrays, noise: NDArray[Any], prefix: Prefix | None = None) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        check_is_inexact(prefix, self.name)
        noise = np.asarray(noise, dtype=np.float32)
        check_noise(noise, self.noise_shape, num_rows(observation))
        if prefix is not None:
            check_prefix(prefix, noise)
        return self._chunk(self.encode(observation), noise, prefix)

    def _network(self, noisy: NDArray[Any], t: float, condition: NDArray[Any]) -> NDArray[Any]:
        noisy = np.ascontiguousarray(noisy, dtype=np.float32)
        return self._session.run("denoise", [noisy, self._embedded[t], condition])


class DiffusionEngine(GraphEngine):
    """The engine of a diffusion policy; sampler, prediction and clip are its parts."""

    def __init__(self, *parts: Any, sampler: Sampler, prediction: Prediction, clip: float, **given: Any) -> None:
        super().__init__(*parts, **given)
        self._sampler, self._prediction, self._clip = sampler, prediction, clip
        self._levels: Mapping[float, NoiseLevel] = {level.time: level for level in sampler.levels}

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, Tp, Da) of one prediction: where it starts, and what the sampler adds."""
        return 1 + self._sampler.num_draws, self.horizons.prediction, self.specification.action.size

    def denoise(self, noisy: NDArray[Any], t: float, condition: NDArray[Any]) -> NDArray[Any]:
        """One denoising step; see `Engine.denoise`."""
        return self._estimate(noisy, self._levels[t], self._levels[t], condition=condition)

    def _estimate(self, x_t: Any, now: NoiseLevel, then: NoiseLevel, *, condition: NDArray[Any]) -> Any:
        output: Any = self._network(x_t, now.time, condition)
        raw: Any = self._prediction.clean(output, x_t, now.alpha, now.sigma)
        x_0 = raw.clip(-self._clip, self._clip)
        return keeping_epsilon(raw, x_0, now=now, then=then) if self._sampler.keeps_epsilon else x_0

    def _chunk(self, condition: NDArray[Any], noise: NDArray[Any], prefix: Prefix | None) -> NDArray[Any]:
        parts: Any = {"sampler": self._sampler, "clip": self._clip}
        if prefix is not None:
            parts |= {"prefix": _in_fp32(prefix), "planned": self._action.normalise(prefix.actions)}
        chunk: Any = sample(partial(self._estimate, condition=condition), noise, **parts)  # type: ignore[arg-type]
        return self._action.unnormalise(chunk)


class RegressionEngine(GraphEngine):
    """The engine of a regression policy, which makes its estimate at once, from an empty chunk at time 0."""

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """No draws: the prediction is deterministic."""
        return 0, self.horizons.prediction, self.specification.action.size

    def denoise(self, noisy: NDArray[Any], t: float, condition: NDArray[Any]) -> NDArray[Any]:
        """The chunk that the network answers with; see `Engine.denoise`."""
        return self._network(noisy, t, condition)

    def _chunk(self, condition: NDArray[Any], noise: NDArray[Any], prefix: Prefix | None) -> NDArray[Any]:
        empty = np.zeros((len(condition), *self.noise_shape[1:]), dtype=np.float32)
        chunk = self._action.unnormalise(self.denoise(empty, 0, condition))
        return chunk if prefix is None else blended(chunk, _in_fp32(prefix))


def _as_input(values: NDArray[Any], stream: Stream) -> NDArray[Any]:
    """Images as they are, vectors in fp32, as graphs take them."""
    return np.ascontiguousarray(values, dtype=np.uint8 if stream.is_image else np.float32)


def _in_fp32(prefix: Prefix) -> Prefix:
    """The prefix as the policy computes with it."""
    actions, weights = (np.asarray(each, dtype=np.float32) for each in (prefix.actions, prefix.weights))
    return Prefix(actions, weights, start=prefix.start, limit=prefix.limit)
