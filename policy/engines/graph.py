"""Engines of exported graphs: two graphs run by a session, and a loop in numpy around them. No torch is needed here.

The graph "encode" makes of an observation what depends on it alone, once a chunk; what depends on the times alone was
computed at export and is a table; the graph "denoise" is the network at one step. The loop is the policy's own sampler
and guidance, so that steps, limits and warm starts are arguments as they are in PyTorch, which they could not be in a
graph of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import Horizons, Specification, Stream
from ..denoising.guidance import Guidance, Sampling, check_guidance, mapped, sample
from ..denoising.levels import NoiseLevel
from ..denoising.prediction import Prediction, estimate
from ..denoising.sampling import Sampler
from ..inputs import check_noise, check_observation, num_rows
from .interface import Arrays, Session, check_without_gradient


@dataclass(frozen=True)
class ActionRange:
    """`policy.space.NormalisedActions` in numpy: between units and [-1, 1]. Both (Da,), float32."""

    centre: NDArray[np.float32]
    half_range: NDArray[np.float32]

    def encode(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """(..., Da) in units -> normalised."""
        divisor = np.where(self.half_range > 0, self.half_range, np.float32(np.inf))
        return np.divide(np.asarray(action, dtype=np.float32) - self.centre, divisor, dtype=np.float32)

    def decode(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `encode`."""
        return action * self.half_range + self.centre


class GraphEngine:
    """A policy whose network is run by `session`. See `Engine`.

    space, sampler, prediction and clip are the policy's parts. embedded: what the network makes of every step that
    `sampler.steps` lists, (number of steps, ...). has_noise: whether a prediction starts from noise.
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        session: Session,
        space: ActionRange,
        sampler: Sampler,
        prediction: Prediction,
        clip: float,
        has_noise: bool,
        embedded: NDArray[np.float32],
    ) -> None:
        self.name, self.precision = session.name, session.precision
        self.specification, self.horizons = specification, horizons
        self._session, self._space, self._sampler, self._clip = session, space, sampler, clip
        self._read = partial(estimate, prediction=prediction, clip=clip, keeps_epsilon=sampler.keeps_epsilon)
        self._num_draws = 1 + sampler.num_draws if has_noise else 0
        steps = [(now.time, then.time) for group in sampler.steps for now, then in group]
        self._embedded = {step: row[None] for step, row in zip(steps, embedded, strict=True)}

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, Tp, Da) of one prediction: where it starts, and what the sampler adds."""
        return self._num_draws, self.horizons.prediction, self.specification.action.size

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        check_without_gradient(guidance, self.name)
        noise = np.asarray(noise, dtype=np.float32)
        check_noise(noise, self.noise_shape, num_rows(observation))
        check_guidance(guidance, noise)
        guides = [mapped(guide, lambda values: np.asarray(values, dtype=np.float32)) for guide in guidance]
        sampling = Sampling(self._condition(observation), self._denoiser, self._space, self._clip)  # type: ignore[arg-type]
        return self._space.decode(sample(sampling, noise, sampler=self._sampler, guidance=guides))

    def _condition(self, observation: Arrays) -> NDArray[Any]:
        given = {name: np.asarray(values) for name, values in observation.items()}
        check_observation(given, self.specification, self.horizons)
        streams = self.specification.observations
        return self._session.run("encode", [_as_input(given[stream.name], stream) for stream in streams])

    def _denoiser(self, condition: NDArray[Any]) -> Any:
        def denoise(x_t: NDArray[Any], now: NoiseLevel, then: NoiseLevel) -> NDArray[Any]:
            noisy = np.ascontiguousarray(x_t, dtype=np.float32)
            output = self._session.run("denoise", [noisy, self._embedded[now.time, then.time], condition])
            return self._read(output, x_t, now=now, then=then)

        return denoise


def _as_input(values: NDArray[Any], stream: Stream) -> NDArray[Any]:
    """Images as they are, vectors in fp32, as graphs take them."""
    return np.ascontiguousarray(values, dtype=np.uint8 if stream.is_image else np.float32)
