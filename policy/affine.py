"""The map between the units of a stream and [-1, 1], for tensors and for arrays of numpy. Does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .denoising.guidance import library


class Affine(NamedTuple):
    """Maps the range of each dimension to [-1, 1]: x -> (x - centre) / half_range.

    A still dimension, whose half range is 0, is mapped to 0, and back to its centre.
    """

    centre: Any
    """(D,), in units, float32."""

    half_range: Any
    """(D,), in units, float32, at least 0."""

    def encode(self, x: Any) -> Any:
        """(..., D) in units, float32 -> (..., D) normalised."""
        divisor = library(x).where(self.half_range > 0, self.half_range, float("inf"))
        return (x - self.centre) / divisor

    def decode(self, x: Any) -> Any:
        """The inverse of `encode`."""
        return x * self.half_range + self.centre


class Normalised(NamedTuple):
    """The space of normalised actions, as arrays of numpy; see `policy.denoising.interface.Space`."""

    affine: Affine
    std: Any
    """Standard deviation of normalised actions, (Da,)."""

    def at(self, observation: Mapping[str, Any]) -> Normalised:
        """The same for every observation."""
        del observation
        return self

    def encode(self, action: Any) -> Any:
        """(B, Tp, Da) in units -> normalised."""
        return self.affine.encode(action)

    def decode(self, x_0: Any) -> Any:
        """(B, Tp, Da) normalised -> in units."""
        return self.affine.decode(x_0)

    def pull(self, x_0: Any, gradient: Any) -> Any:
        """The gradient in units -> normalised; see `Space.pull`."""
        return gradient * self.affine.half_range
