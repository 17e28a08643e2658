"""Maps between the units of the data and the interval [-1, 1] in which a policy works.

Shapes: Da size of the action; D size of any stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..specification import Specification, Stream, nearest
from .affine import Affine

Limits = tuple[NDArray[np.floating], NDArray[np.floating]]
"""(low, high) of a stream, each with its shape."""

CLIP = 1.5
"""Normalised observations are clipped to this many times the range in the training episodes."""


class Range(nn.Module):
    """The range of one stream, as buffers that are saved with the weights.

    An empty range marks a still dimension. `datasets.normalisation` decides which ranges are too small to count.
    """

    centre: Tensor
    half_range: Tensor

    def __init__(self, stream: Stream, low: NDArray[np.floating], high: NDArray[np.floating]) -> None:
        super().__init__()
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if low.shape != stream.shape or high.shape != stream.shape or not np.all((low <= high) & (high - low < np.inf)):
            raise ValueError(
                f"stream {stream.name!r}: the range must be finite, low <= high, of shape {stream.shape}, "
                f"got {low}, {high}"
            )
        self.register_buffer("centre", torch.tensor((low + high) / 2, dtype=torch.float32))
        self.register_buffer("half_range", torch.tensor((high - low) / 2, dtype=torch.float32))

    @property
    def affine(self) -> Affine:
        """Maps the range to [-1, 1]."""
        return Affine(self.centre, self.half_range)


class Normalizer(nn.Module):
    """Maps every stream but images to [-1, 1], by its range in the training episodes. Part of the policy's weights.

    Images pass unchanged: their encoder normalises them. Normalised observations are clipped to [-CLIP, CLIP], because
    the network has seen nothing beyond.

    ranges: stream name -> (low, high), each of the stream's shape; a still dimension has an empty range. action_std:
    (Da,), the standard deviation of the normalised actions of the training episodes. It is 1 in still dimensions, and
    in an imported policy, for which it is unknown.

    Raises ValueError if a stream has no range, a range is impossible or action_std is not positive.
    """

    action_std: Tensor

    def __init__(
        self,
        specification: Specification,
        ranges: Mapping[str, Limits],
        *,
        action_std: NDArray[np.floating] | None = None,
    ) -> None:
        super().__init__()
        streams = _with_ranges(specification)
        missing = [stream.name for stream in streams if stream.name not in ranges]
        if missing:
            raise ValueError(f"the normalizer needs the range of every stream, got none for {missing}")
        self.images = {stream.name for stream in specification.observations if stream.is_image}
        self.streams = nn.ModuleDict({stream.name: Range(stream, *ranges[stream.name]) for stream in streams})
        shape = specification.action.shape
        std = np.ones(shape) if action_std is None else np.asarray(action_std)
        if std.shape != shape or not np.all((std > 0) & (std < np.inf)):
            raise ValueError(f"action_std must be {shape[0]} positive numbers, got {action_std}: take 1 if unknown")
        self.register_buffer("action_std", torch.tensor(std, dtype=torch.float32))

    @classmethod
    def empty(cls, specification: Specification) -> Normalizer:
        """A normalizer without ranges; loading the weights of a policy sets them."""
        streams = _with_ranges(specification)
        return cls(specification, {stream.name: (np.zeros(stream.shape), np.zeros(stream.shape)) for stream in streams})

    def observation(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalise and clip every stream but images. Raises ValueError if a stream has no range."""
        return {
            name: x if name in self.images else self.affine(name).encode(x.float()).clamp(-CLIP, CLIP)
            for name, x in observation.items()
        }

    def action(self, action: Tensor) -> Tensor:
        """(..., Da) in units -> normalised."""
        return self.affine("action").encode(action.float())

    def unnormalised_action(self, action: Tensor) -> Tensor:
        """(..., Da) normalised -> in units."""
        return self.affine("action").decode(action)

    def affine(self, name: str) -> Affine:
        """The map of one stream's range to [-1, 1]. Raises ValueError if the stream has no range."""
        if name not in self.streams:
            raise ValueError(f"the normalizer has no range of stream {name!r}: {nearest(name, self.streams)}")
        return self.streams[name].affine  # type: ignore[return-value]


def _with_ranges(specification: Specification) -> list[Stream]:
    return [stream for stream in specification.streams if not stream.is_image]
