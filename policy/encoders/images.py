"""What all image encoders share: the normalisation of pixels, and the crop.

Shapes: N images; B windows of To steps; C channels, H and W height and width; K keypoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

HALF = (0.5,), (0.5,)
"""Mean and standard deviation that map pixels to [-1, 1]."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet; networks trained on it expect them."""

PRETRAINED_SCALE = 0.1
"""Pretrained weights learn at this fraction of the learning rate (Chi et al. 2023, table 5)."""


class ImageEncoder(nn.Module, ABC):
    """Images of one or more sizes -> features. It normalises the pixels; nothing else does."""

    num_features: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images, uint8 (N, C, H, W) -> (N, num_features)."""

    def resized(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), of any scale, in the size in which the network sees them: here as they are."""
        return images

    def recompute(self, *, is_on: bool) -> None:
        """Set whether the backward pass computes the activations in each block again, instead of keeping them.

        Raises ValueError if the encoder knows no blocks.
        """
        raise ValueError(
            f"gradient_checkpointing=true needs an image encoder that overrides recompute, got {type(self).__name__}: "
            "leave it out, or give accumulate="
        )

    @abstractmethod
    def load_pretrained(self, path: Path) -> None:
        """Load pretrained weights of another library from `path`.

        Raises ValueError if they do not fit, and OSError if they cannot be read.
        """


class Pixels(nn.Module):
    """Pixels in [0, 255], of any dtype -> (pixels / 255 - mean) / std. mean, std: one per channel, or one for all."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        centre, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
        # Not saved: they follow from the configuration.
        self.register_buffer("scale", (1 / (255 * spread)).float(), persistent=False)
        self.register_buffer("shift", (-centre / spread).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return images * self.scale + self.shift


class SpatialSoftmax(nn.Module):
    """The point where each of K learned detectors responds, in [-1, 1] (Finn et al. 2016, section V.C).

    A 1x1 convolution computes a map per detector. The softmax over the cells of a map is a probability, and the point
    is the expected cell. -1 and 1 are the centres of the outermost cells.
    """

    def __init__(self, channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.detect = nn.Conv2d(channels, num_keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2 K): the x of each point, from left to right, then its y, downwards."""
        maps = self.detect(features)
        probability = rearrange(maps, "n k h w -> n k (h w)").softmax(dim=-1).view(maps.shape)
        x = probability.sum(dim=2) @ _cells(maps.shape[3], maps)
        y = probability.sum(dim=3) @ _cells(maps.shape[2], maps)
        return rearrange([x, y], "xy n k -> n (k xy)")


def _cells(count: int, like: Tensor) -> Tensor:
    """The coordinates of a row of `count` cells."""
    return torch.linspace(-1, 1, count, dtype=like.dtype, device=like.device)


def centre_crop(images: Tensor, crop: tuple[int, int] | None) -> Tensor:
    """The central (h, w) of images (..., H, W, C). Images of that size stay as they are; so do all if crop is None.

    If a margin is odd, its extra pixel is cut off at the bottom or on the right.
    """
    if crop is None:
        return images
    top, left = ((size - target) // 2 for size, target in zip(images.shape[-3:-1], crop, strict=True))
    return images[..., top : top + crop[0], left : left + crop[1], :]
