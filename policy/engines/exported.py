"""The engine of exported graphs: a session runs the two graphs, and a loop in numpy runs around them, without torch.

The graph "encode" processes an observation once a chunk. What the network makes of the times is a table, computed at
export. The graph "denoise" is the network at one step. The loop is the policy's own sampler and guidance. So the number
of steps, the limits and the warm starts stay arguments, which they could not be in one graph of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import Horizons, Specification, Stream
from ..affine import Normalised
from ..denoising.guidance import Guidance, Sampling, check_guidance, mapped, sample
from ..denoising.levels import NoiseLevel
from ..denoising.prediction import Prediction, estimate
from ..denoising.sampling import Sampler
from ..inputs import check_noise, check_observation, num_rows
from ..representation import NEEDS_TORCH, Representation, RepresentedActions
from .interface import Arrays, Session, check_without_gradient


class ExportedEngine:
    """A policy whose network is run by `session`. See `Engine`.

    space: the normalised actions, as they are learned. representation: how they are learned. sampler, prediction, clip:
    the policy's. embedded: what the network makes of every step in `sampler.steps`, (number of steps, ...). has_noise:
    whether a prediction starts from noise.
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        session: Session,
        space: Normalised,
        representation: Representation,
        sampler: Sampler,
        prediction: Prediction,
        clip: float,
        has_noise: bool,
        embedded: NDArray[np.float32],
    ) -> None:
        self.name, self.precision = session.name, session.precision
        self.specification, self.horizons = specification, horizons
        self._session, self._sampler, self._clip = session, sampler, clip
        self._is_plain = representation.is_plain
        self._space: Any = space if self._is_plain else RepresentedActions(space, representation)
        self._read = partial(estimate, prediction=prediction, clip=clip, keeps_epsilon=sampler.keeps_epsilon)
        self._num_draws = 1 + sampler.num_draws if has_noise else 0
        steps = [(now.time, then.time) for group in sampler.steps for now, then in group]
        self._embedded = {step: row[None] for step, row in zip(steps, embedded, strict=True)}

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction: the initial noise, and the noise that the sampler adds."""
        return self._num_draws, self.horizons.prediction, len(self._space.std)

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        check_without_gradient(guidance, self.name)
        noise = np.asarray(noise, dtype=np.float32)
        check_noise(noise, self.noise_shape, num_rows(observation))
        check_guidance(guidance, (noise.shape[1], self.horizons.prediction, *self.specification.action.shape))
        if not self._is_plain and any(guide.needs_mean for guide in guidance):
            raise ValueError(NEEDS_TORCH)
        guides = [mapped(guide, lambda values: np.asarray(values, dtype=np.float32)) for guide in guidance]
        arrays = {name: np.asarray(values) for name, values in observation.items()}
        condition = partial(self._condition, self._checked(arrays))
        blind = partial(condition, is_unknown=True)
        space = self._space.at(arrays)
        sampling = Sampling(condition(), self._denoiser, space, self._clip, blind, arrays)  # type: ignore[arg-type]
        return space.decode(sample(sampling, noise, sampler=self._sampler, guidance=guides))

    def _checked(self, arrays: Arrays) -> list[NDArray[Any]]:
        """The streams as the graphs take them."""
        check_observation(arrays, self.specification, self.horizons)
        return [_graph_input(arrays[stream.name], stream) for stream in self.specification.observations]

    def _condition(self, streams: Sequence[NDArray[Any]], *, is_unknown: bool = False) -> NDArray[Any]:
        """The embedded conditioning, with the context or without it."""
        flags = [np.full(len(streams[0]), is_unknown, np.float32)] if self.specification.context else []
        return self._session.run("encode", [*streams, *flags])

    def _denoiser(self, condition: NDArray[Any]) -> Any:
        def denoise(x_t: NDArray[Any], now: NoiseLevel, then: NoiseLevel) -> NDArray[Any]:
            noisy = np.ascontiguousarray(x_t, dtype=np.float32)
            output = self._session.run("denoise", [noisy, self._embedded[now.time, then.time], condition])
            return self._read(output, x_t, now=now, then=then)

        return denoise


def _graph_input(values: NDArray[Any], stream: Stream) -> NDArray[Any]:
    """Images stay uint8 and vectors become fp32, as the graphs take them."""
    return np.ascontiguousarray(values, dtype=np.uint8 if stream.is_image else np.float32)
