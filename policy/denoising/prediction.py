"""What a network predicts: one line of coefficients per prediction type.

Every prediction type is output = p x_0 + q epsilon, where p and q depend on alpha and sigma. The training target and
the decoding of x_0 both follow from this line, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .levels import NoiseLevel
from .sampling import keeping_epsilon

if TYPE_CHECKING:
    from torch import Tensor

Number: TypeAlias = "Tensor | float"
Coefficients: TypeAlias = Callable[[Number, Number], tuple[Number, Number]]


@dataclass(frozen=True)
class Prediction:
    """output = p x_0 + q epsilon, where (p, q) = coefficients(alpha, sigma)."""

    coefficients: Coefficients

    def target(self, x_0: Tensor, epsilon: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """The training target of the network's output."""
        p, q = self.coefficients(alpha, sigma)
        return p * x_0 + q * epsilon

    def clean(self, output: Tensor, x_t: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """The x_0 that `output` and x_t = alpha x_0 + sigma epsilon determine together."""
        p, q = self.coefficients(alpha, sigma)
        return (q * x_t - sigma * output) / (q * alpha - p * sigma)

    def weight(self, alpha: Number, sigma: Number) -> Number:
        """The squared error of the output for a squared error of 1 in x_0, at the same x_t.

        It is 0 if the output says nothing about x_0 at this noise level.
        """
        p, q = self.coefficients(alpha, sigma)
        return ((q * alpha - p * sigma) / sigma) ** 2


EPSILON = Prediction(lambda alpha, sigma: (0, 1))
"""The noise (Ho et al. 2020)."""

SAMPLE = Prediction(lambda alpha, sigma: (1, 0))
"""The clean chunk itself."""

V = Prediction(lambda alpha, sigma: (-sigma, alpha))
"""alpha epsilon - sigma x_0 (Salimans & Ho 2022, section 4)."""

VELOCITY = Prediction(lambda alpha, sigma: (-1, 1))
"""epsilon - x_0, the velocity of a rectified flow (Liu et al. 2022)."""

PREDICTIONS = {"epsilon": EPSILON, "sample": SAMPLE, "v": V, "velocity": VELOCITY}
"""Name -> prediction type."""


def estimate(
    output: Any,
    x_t: Any,
    *,
    now: NoiseLevel,
    then: NoiseLevel,
    prediction: Prediction,
    clip: float,
    keeps_epsilon: bool,
) -> Any:
    """The clipped estimate of x_0 (B, L, Dz) from a network's output at `now`, for a step to `then`.

    clip: bound of the estimate. keeps_epsilon: see `Sampler`. Takes numpy arrays as well as tensors.
    """
    raw: Any = prediction.clean(output, x_t, now.alpha, now.sigma)
    x_0 = clipped(raw, clip)
    return keeping_epsilon(raw, x_0, now=now, then=then) if keeps_epsilon else x_0


def clipped(x: Any, bound: float) -> Any:
    """Clip the values of x to [-bound, bound] but not its gradient, which guidance needs at the bound too."""
    if isinstance(x, np.ndarray):
        return x.clip(-bound, bound)
    from .straight_through import Clip

    return Clip.apply(x, bound)
