"""The types of denoising.

Shapes: B batch, N denoising steps; Tp prediction horizon, Da size of the action; L rows of size Dz of x_0.

In training, times are tensors (B,): each row has its own. In sampling, all rows share one time, a plain number. A
sampler's coefficients are therefore constants: no accelerator waits for them, and exported graphs can hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from torch import Tensor

from .levels import Levels, NoiseLevel

Denoiser: TypeAlias = Callable[[Tensor, NoiseLevel, NoiseLevel], Tensor]
"""(x_t, now, then) -> the x_0 towards which the step from `now` to `then` goes; x_t and x_0 are (B, L, Dz).

For most policies this is the estimate of x_0 at `now`, wherever the step goes. If `then` is `now`, it always is.
"""


Weighting: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(signal-to-noise ratio, weight that the prediction type implies) -> weight of the squared error of x_0."""


class NoiseSchedule(Protocol):
    """The amounts of signal and noise at time t: x_t = alpha(t) x_0 + sigma(t) epsilon."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients alpha and sigma, both with the shape of `t`."""
        ...

    @property
    def levels(self) -> Levels:
        """All noise levels, from clean data to noise. A sampler visits some of them."""
        ...

    def time(self, level: Tensor) -> Tensor:
        """Training times from uniform numbers in [0, 1): the inverse of the distribution function of the times."""
        ...


class Solver(Protocol):
    """Turns noise into a sample. A solver knows neither networks nor guidance."""

    def __call__(self, denoise: Denoiser, noise: Tensor, levels: Levels, /) -> Tensor:
        """x_0 (B, L, Dz) from noise (1 + draws, B, L, Dz) along N + 1 levels.

        The solver starts from noise[0]. A stochastic solver adds noise[1:] on the way, as many draws in every step.
        """
        ...


class Space(Protocol):
    """Maps between actions in units and the x_0 that is denoised: L rows of size Dz.

    What actions are in the space may depend on the observation, as relative actions do.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(L, Dz)."""
        ...

    @property
    def std(self) -> Tensor:
        """Standard deviation of x_0 over the training episodes, (Dz,)."""
        ...

    def at(self, observation: Mapping[str, Tensor]) -> Space:
        """The space of chunks with this observation, (B, To, ...) in units; the others need it first."""
        ...

    def encode(self, action: Tensor) -> Tensor:
        """(B, Tp, Da) in units -> x_0 (B, L, Dz)."""
        ...

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (B, L, Dz) -> (B, Tp, Da) in units."""
        ...

    def pull(self, x_0: Tensor, gradient: Tensor) -> Tensor:
        """The gradient (B, L, Dz) at x_0 of a function of actions, from its gradient (B, Tp, Da) at these actions."""
        ...
