"""The space in which a policy denoises: maps between actions in units and x_0."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..specification import Horizons
from .normalizer import Normalizer


class NormalisedActions:
    """Actions with their range mapped to [-1, 1]. L is the prediction horizon, Dz the size of the action."""

    def __init__(self, normalizer: Normalizer, horizons: Horizons) -> None:
        self.normalizer, self.horizons = normalizer, horizons

    @property
    def shape(self) -> tuple[int, int]:
        """(Tp, Da)."""
        return self.horizons.prediction, len(self.std)

    @property
    def std(self) -> Tensor:
        """Standard deviation of normalised actions, (Da,); see `Normalizer`."""
        return self.normalizer.action_std

    def at(self, observation: Mapping[str, Tensor]) -> NormalisedActions:
        """The same for every observation."""
        del observation
        return self

    def encode(self, action: Tensor) -> Tensor:
        """(B, Tp, Da) in units -> normalised."""
        return self.normalizer.action(action)

    def decode(self, x_0: Tensor) -> Tensor:
        """(B, Tp, Da) normalised -> in units."""
        return self.normalizer.unnormalised_action(x_0)

    def pull(self, x_0: Tensor, gradient: Tensor) -> Tensor:
        """The gradient in units -> normalised; see `Space.pull`."""
        return gradient * self.normalizer.affine("action").half_range
