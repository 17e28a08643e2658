"""The nouns of a policy, as types. Everything that trains, measures or deploys a policy knows only these.

Shapes: B batch, K noise draws a window, N denoising steps; To, Tp, Ta observation, prediction and action horizon;
Da size of the action; Dc size of the conditioning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from ..specification import Horizons, Specification

Observation: TypeAlias = Mapping[str, Tensor]
"""A stream's name -> (B, To, ...), in the units of the specification, the current step last."""

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, Tp, Da), t (B,)) -> estimate of x_0 (B, Tp, Da), both normalised."""


class NoiseSchedule(Protocol):
    """How much signal and noise there is at time t: x_t = alpha(t) x_0 + sigma(t) epsilon."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients alpha and sigma, each of the shape of `t`."""
        ...

    def time(self, level: Tensor) -> Tensor:
        """The times at which to train, from levels uniform in [0, 1): the inverse of their distribution function."""
        ...

    def spacing(self, num_steps: int) -> Tensor:
        """Times (num_steps + 1,) from noise to data; at the last one alpha is 1 and sigma is 0."""
        ...


class Sampler(Protocol):
    """Turns noise into a sample. It knows neither networks nor guidance."""

    def __call__(self, denoise: Denoiser, noise: Tensor, schedule: NoiseSchedule, times: Tensor, /) -> Tensor:
        """x_0 (B, Tp, Da) from noise (N + 1, B, Tp, Da) along times (N + 1,).

        noise[0] is where it starts; noise[1:] is what it adds on the way. Deterministic samplers need only noise[0].
        """
        ...


@runtime_checkable
class Policy(Protocol):
    """Observation in, action chunk out; all randomness is an argument."""

    specification: Specification
    horizons: Horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """What one prediction draws: (number of draws, Tp, Da), standard normal."""
        ...

    def loss(self, observation: Observation, action: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Per step, (K, B, Tp): the caller masks and reduces. The observation is encoded once for all K draws.

        action (B, Tp, Da) in the units of the specification; noise (K, B, Tp, Da) standard normal;
        level (K, B) uniform in [0, 1), which the noise schedule maps to its times.
        """
        ...

    def predict(self, observation: Observation, noise: Tensor) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification, from noise (draws, B, Tp, Da)."""
        ...
