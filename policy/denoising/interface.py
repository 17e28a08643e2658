"""The types of denoising.

Shapes: B batch, N denoising steps; Tp prediction horizon; Da size of the action.

Times are tensors (B,) in training, where every row has its own, and plain numbers in sampling, where all rows share
one: so a sampler's coefficients are constants, which no accelerator is waited for and which export and capture keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

from .levels import Levels, NoiseLevel

Denoiser: TypeAlias = Callable[[Tensor, NoiseLevel, NoiseLevel], Tensor]
"""(x_t, now, then) -> the x_0 towards which one step from `now` to `then` should go; both (B, Tp, Da), normalised.

For most policies it is the estimate of x_0 at `now`, wherever the step goes. If then is now, it is that estimate.
"""


Weighting: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(signal-to-noise ratio, weight of the prediction type by itself) -> weight of the squared error of x_0."""


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


class Space(Protocol):
    """Between actions in units and the x_0 that is denoised: L rows of size Dz."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L, Dz)."""
        ...

    @property
    def std(self) -> Tensor:
        """(Dz,), the standard deviation of x_0 over the training episodes."""
        ...

    def encode(self, action: Tensor) -> Tensor:
        """(B, Tp, Da) in units -> x_0 (B, L, Dz)."""
        ...

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (B, L, Dz) -> (B, Tp, Da) in units."""
        ...
