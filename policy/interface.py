"""The nouns of a policy, as types. Everything that trains, measures or deploys a policy knows only these.

Shapes: B batch, K noise draws a window, N denoising steps; To, Tp, Ta observation, prediction and action horizon;
Da size of the action; S tokens of conditioning, each of size Dc.

Times are tensors (B,) in training, where every row has its own, and plain numbers in sampling, where all rows share
one: so a sampler's coefficients are constants, which no accelerator is waited for and which export and capture keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from ..specification import Horizons, Prefix, Specification
from .levels import Levels, NoiseLevel

Observation: TypeAlias = Mapping[str, Tensor]
"""A stream's name -> (B, To, ...), in the units of the specification, the current step last."""

Denoiser: TypeAlias = Callable[[Tensor, NoiseLevel, NoiseLevel], Tensor]
"""(x_t, now, then) -> the x_0 towards which one step from `now` to `then` should go; both (B, Tp, Da), normalised.

For most policies it is the estimate of x_0 at `now`, wherever the step goes. If then is now, it is that estimate.
"""


Weighting: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(signal-to-noise ratio, weight of the prediction type by itself) -> weight of the squared error of x_0."""


class Encoder(Protocol):
    """Turns a normalised observation into conditioning; conditioning_shape is (S, Dc).

    crop: (h, w) of the images that it sees, the centre of larger ones; None where it sees whole images.
    """

    conditioning_shape: tuple[int, int]
    crop: tuple[int, int] | None

    def __call__(self, observation: Observation) -> Tensor:
        """Streams (B, To, ...) -> sequence conditioning (B, S, Dc); a step is a token, the current one last."""
        ...


class Network(Protocol):
    """What is learned: the function of a noisy chunk, its time and the conditioning.

    It comes in three pieces, because what depends on the time alone is computed once for a whole schedule, and what
    depends on the conditioning alone once for a whole chunk: network(x, t, c) = network.denoise(x, network.embed(t),
    network.condition(c)).
    """

    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """(B, Tp, Da), times (B,), conditioning (B, S, Dc) -> (B, Tp, Da)."""
        ...

    def embed(self, t: Tensor) -> Tensor:
        """Times (N,) -> (N, ...)."""
        ...

    def condition(self, conditioning: Tensor) -> Tensor:
        """Conditioning (B, S, Dc) -> (B, ...)."""
        ...

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, Tp, Da), rows of `embed` and of `condition` -> (B, Tp, Da)."""
        ...


class NoiseSchedule(Protocol):
    """How much signal and noise there is at time t: x_t = alpha(t) x_0 + sigma(t) epsilon."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients alpha and sigma, each of the shape of `t`."""
        ...

    @property
    def levels(self) -> Levels:
        """A table of noise levels from clean data to noise, of which samplers visit some."""
        ...

    def time(self, level: Tensor) -> Tensor:
        """The times at which to train, from levels uniform in [0, 1): the inverse of their distribution function."""
        ...


class Solver(Protocol):
    """Turns noise into a sample. It knows neither networks nor guidance."""

    def __call__(self, denoise: Denoiser, noise: Tensor, levels: Levels, /) -> Tensor:
        """x_0 (B, Tp, Da) from noise (N + 1, B, Tp, Da) along N + 1 levels.

        noise[0] is where it starts; noise[1:] is what it adds on the way. Deterministic solvers need only noise[0].
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

    def predict(self, observation: Observation, noise: Tensor, prefix: Prefix | None = None) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification, from noise (draws, B, Tp, Da).

        prefix: what each chunk should go on from, (B, Tp, Da) and (B, Tp).
        """
        ...
