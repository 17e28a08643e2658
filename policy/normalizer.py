"""Between the units of the data set and the interval [-1, 1] in which a policy works.

Shapes: Da size of the action; D of any stream.
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

CLIP = 1.5
"""How many times the range that was seen a normalised observation may reach."""


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
    """The ranges of every stream but images, seen in the training episodes; part of the policy and of its weights.

    Images pass unchanged: their range is known, and the encoder that they go to wants them in its own way.

    ranges: a stream's name -> (low, high), each of the stream's shape; a still dimension has an empty range. A
    normalised observation is clipped to [-CLIP, CLIP]: to `CLIP` times the range that was seen, beyond which the
    network could only guess.

    action_std: (Da,), the standard deviation of the normalised actions of the training episodes. It is 1 where it is
    not known, in an imported policy, and where the action does not change.

    Raises ValueError for a stream without a range, an impossible range, and an action_std that is not positive.
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
        """One whose ranges are to be loaded with the weights of a policy."""
        streams = _with_ranges(specification)
        return cls(specification, {stream.name: (np.zeros(stream.shape), np.zeros(stream.shape)) for stream in streams})

    def observation(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalise and clip every stream but images. Raises ValueError for a stream without statistics."""
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
            raise ValueError(f"the normalizer has no statistics of stream {name!r}: {nearest(name, self.streams)}")
        return self.streams[name].affine  # type: ignore[return-value]


def _with_ranges(specification: Specification) -> list[Stream]:
    return [stream for stream in specification.streams if not stream.is_image]
