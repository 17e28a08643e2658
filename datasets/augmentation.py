"""Random augmentation of a batch, drawn for each sample and computed on the device of the batch.

All images of a sample and camera are changed alike, so motion is preserved; samples and cameras are changed
independently. The order is rotation, crop, colour: the crop removes part of the border that a rotation fills in. An
embedded sentence gets noise: without it, training says nothing about directions in which its own sentences do not
differ, and other words may lead anywhere there.

Cost: proportional to the pixels of the batch. The crop copies them; colours take about ten times as long as the crop
and a rotation twenty times (`benchmarks/windows.py`).

Shapes: B samples of To images; H, W, C height, width and channels; h, w height and width of the crop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..specification import WORDS

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""

ALL = slice(None)
"""All rows of a batch."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The augmentation of every image stream of a batch, and of its embedded sentences.

    Raises ValueError for an angle outside [0, 180], for a share outside [0, 1], and for noise outside [0, 10].
    """

    crop: tuple[int, int] | None
    """Size (h, w) of a crop at a uniformly random position, or None."""
    rotation: float
    """Largest rotation about the centre, in degrees, in either direction."""
    brightness: float
    """Brightness is multiplied by a factor between 1 - brightness and 1 + brightness."""
    contrast: float
    """Contrast is multiplied by a factor between 1 - contrast and 1 + contrast."""
    saturation: float
    """Saturation is multiplied by a factor between 1 - saturation and 1 + saturation."""
    words: float
    """Standard deviation of the noise on each number of an embedded sentence."""

    def __post_init__(self) -> None:
        if not 0 <= self.words <= 10:
            raise ValueError(f"words must be a standard deviation between 0 and 10, got {self.words}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be between 0 and 180 degrees, got {self.rotation}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share between 0 and 1, got {getattr(self, name)}")

    def __call__(
        self,
        observation: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        rows: slice = ALL,
        size: int | None = None,
    ) -> dict[str, Tensor]:
        """Augment images (B, To, H, W, C) and sentences (B, To, E) of an observation; others are returned unchanged.

        Streams of uint8 with five dimensions are images. The generator must be on the device of the streams.

        rows, size: if the samples are only some rows of a batch of `size` samples, which rows. They are then changed as
        the whole batch would change them.
        """
        changed = {
            name: self._augment(x, generator, rows, size)
            for name, x in observation.items()
            if x.dtype == torch.uint8 and x.ndim == 5
        }
        if self.words and WORDS in observation:
            x = observation[WORDS]  # the same sentence in all steps, so the same noise
            noise = torch.randn(size or len(x), 1, x.shape[2], generator=generator, device=x.device)
            changed[WORDS] = x + self.words * noise[rows]
        return {**observation, **changed}

    def _augment(self, images: Tensor, generator: torch.Generator, rows: slice, size: int | None) -> Tensor:
        if self.rotation:
            images = rotate(images, math.radians(self.rotation) * (2 * _uniform(images, generator, rows, size) - 1))
        if self.crop is not None:
            images = random_crop(images, self.crop, generator, rows=rows, size=size)
        if self.brightness or self.contrast or self.saturation:
            shares = (self.brightness, self.contrast, self.saturation)
            factors = [1 + share * (2 * _uniform(images, generator, rows, size) - 1) for share in shares]
            images = recolour(images, *factors)
        return images


def _uniform(images: Tensor, generator: torch.Generator, rows: slice, size: int | None) -> Tensor:
    """A random number in [0, 1) for each sample, (B,)."""
    return torch.rand(size or len(images), generator=generator, device=images.device)[rows]


def random_crop(
    images: Tensor, shape: tuple[int, int], generator: torch.Generator, *, rows: slice = ALL, size: int | None = None
) -> Tensor:
    """Crops (B, To, h, w, C) of images (B, To, H, W, C), at a position drawn uniformly for each sample.

    Images that already have that shape are returned unchanged. rows, size: as for an `Augmentation`. Raises ValueError
    if the crop is larger than the images.
    """
    margins = [full - cropped for full, cropped in zip(images.shape[2:4], shape, strict=True)]
    if min(margins) < 0:
        raise ValueError(
            f"a crop must fit into its images, got {shape} for images of {tuple(images.shape[2:4])} pixels"
        )
    if not any(margins):
        return images
    top, left = (
        torch.randint(margin + 1, (size or len(images),), generator=generator, device=images.device)[rows]
        for margin in margins
    )
    return crop(images, shape, top, left)


def crop(images: Tensor, size: tuple[int, int], top: Tensor, left: Tensor) -> Tensor:
    """Crops (B, To, h, w, C) with first row `top` (B,) and first column `left` (B,).

    Copies whole rows of the crops. For 64 samples of 2 images that takes a hundredth of the time of indexing pixels,
    and a third of the time of slicing each sample.
    """
    images = images.contiguous()
    _, num_images, height, width, channels = images.shape
    starts = torch.arange(len(images) * num_images, device=images.device).view(-1, num_images, 1) * height
    rows = starts + top[:, None, None] + torch.arange(size[0], device=images.device)
    pixels = images.numel() // channels
    # Row i of this view holds the `w` pixels from pixel i on; the rows overlap, and nothing is copied.
    runs = images.as_strided((pixels - size[1] + 1, size[1] * channels), (channels, 1))
    crops = runs.index_select(0, (rows * width + left[:, None, None]).flatten())
    return crops.view(*images.shape[:2], *size, channels)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate images (B, To, H, W, C) counter-clockwise about their centre by angles (B,), in radians.

    The interpolation is bilinear; pixels from outside the image take the value of the nearest edge pixel.
    """
    num_images, height, width = images.shape[1:4]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Maps a pixel to its source, in coordinates in which either side of the image spans [-1, 1].
    turn = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], dim=-1).view(-1, 2, 3)
    turn = repeat(turn, "b i j -> (b t) i j", t=num_images)
    x = rearrange(images, "b t h w c -> (b t) c h w").float()
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _to_uint8(rearrange(x, "(b t) c h w -> b t h w c", t=num_images))


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiply brightness, contrast and saturation of images (B, To, H, W, C) by factors (B,), in this order.

    Contrast scales differences from the sample's mean brightness, saturation those from the brightness of each pixel.
    Saturation applies to images of 3 channels only. The three are one affine map of the colours, followed by rounding
    and clipping.
    """
    channels = images.shape[-1]
    shares = _shares(channels, images.device)
    colours = rearrange(images, "b t h w c -> b c (t h w)").float()  # several times as fast as with the channels last
    mean = brightness * (colours.mean(dim=2) @ shares)
    colour = (saturation if channels == 3 else torch.ones_like(saturation))[:, None, None]
    blend = colour * torch.eye(channels, device=images.device) + (1 - colour) * shares
    offset = ((1 - contrast) * mean)[:, None, None]
    colours = torch.baddbmm(offset, (brightness * contrast)[:, None, None] * blend, colours)
    num_images, height = images.shape[1:3]
    return rearrange(_to_uint8(colours), "b c (t h w) -> b t h w c", t=num_images, h=height)


@cache
def _shares(channels: int, device: torch.device) -> Tensor:
    """The share of each channel in brightness, uploaded once for a device."""
    return torch.tensor(LUMA if channels == 3 else (1 / channels,) * channels, device=device)


def _to_uint8(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, 255).to(torch.uint8)
