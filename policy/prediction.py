"""What a network predicts: one line of coefficients for each choice.

Every prediction type is output = p x_0 + q epsilon with coefficients p and q of alpha and sigma. The training target
and the decoding of x_0 are both derived from that line, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Number: TypeAlias = "Tensor | float"
Coefficients: TypeAlias = Callable[[Number, Number], tuple[Number, Number]]


@dataclass(frozen=True)
class Prediction:
    """output = p x_0 + q epsilon, where (p, q) = coefficients(alpha, sigma)."""

    coefficients: Coefficients

    def target(self, x_0: Tensor, epsilon: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """What the network should answer."""
        p, q = self.coefficients(alpha, sigma)
        return p * x_0 + q * epsilon

    def clean(self, output: Tensor, x_t: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """The x_0 that `output` and x_t = alpha x_0 + sigma epsilon imply together."""
        p, q = self.coefficients(alpha, sigma)
        return (q * x_t - sigma * output) / (q * alpha - p * sigma)

    def weight(self, alpha: Number, sigma: Number) -> Number:
        """The squared error of the output for a squared error of 1 in x_0, given the same x_t.

        0 if the output says nothing about x_0 at that noise level.
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
