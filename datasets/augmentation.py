"""Random changes to the images of a batch, drawn for each sample and computed on the device that holds them.

The frames of a sample are changed alike, so that motion stays motion; samples and cameras are changed independently.
The order is rotation, crop, colour: a crop cuts off part of what the rotation had to invent.

Cost: grows with the pixels of the batch; the crop copies them, colours take some ten times as long and a rotation
twenty (`benchmarks/windows.py`).

Shapes: B samples of To frames; H, W, C height, width and channels; h, w those of the crop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to every image stream of a batch.

    crop: (h, w) cut out at a place drawn uniformly, or None. rotation: about the centre by up to this angle in degrees,
    either way. brightness, contrast, saturation: each is multiplied by a factor within 1 - x and 1 + x.

    Raises ValueError for an angle outside [0, 180] and for a factor that could be negative.
    """

    crop: tuple[int, int] | None = None
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be between 0 and 180 degrees, got {self.rotation}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, a share of what it is, got {getattr(self, name)}")

    def __call__(self, observation: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The observation with its images (B, To, H, W, C) changed; all else stays as it is.

        What is an image is told by dtype and shape. The generator is of the device of the images.
        """
        return {
            name: self._of(x, generator) if x.dtype == torch.uint8 and x.ndim == 5 else x
            for name, x in observation.items()
        }

    def _of(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.rotation:
            images = rotate(images, math.radians(self.rotation) * (2 * _uniform(images, generator) - 1))
        if self.crop is not None:
            images = random_crop(images, self.crop, generator)
        if self.brightness or self.contrast or self.saturation:
            factors = [
                1 + most * (2 * _uniform(images, generator) - 1)
                for most in (self.brightness, self.contrast, self.saturation)
            ]
            images = recolour(images, *factors)
        return images


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    """A number in [0, 1) for each sample."""
    return torch.rand(len(images), generator=generator, device=images.device)


def random_crop(images: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A crop (B, To, h, w, C) of images (B, To, H, W, C) for each sample; all offsets are as likely, the last too.

    Images of that size already are returned as they are. Raises ValueError where the crop does not fit.
    """
    margins = [whole - part for whole, part in zip(images.shape[2:4], size, strict=True)]
    if min(margins) < 0:
        raise ValueError(f"a crop must fit into its images, got {size} for images of {tuple(images.shape[2:4])} pixels")
    if not any(margins):
        return images
    drawn = (torch.randint(most + 1, (len(images),), generator=generator, device=images.device) for most in margins)
    top, left = drawn
    return crop(images, size, top, left)


def crop(images: Tensor, size: tuple[int, int], top: Tensor, left: Tensor) -> Tensor:
    """The crops (B, To, h, w, C) whose first row is `top` (B,) and whose first column is `left` (B,).

    Whole rows of a crop are copied: a hundredth of the time of indexing pixel by pixel, and a third of slicing sample
    by sample, for 64 samples of 2 images.
    """
    images = images.contiguous()
    _, num_frames, height, width, channels = images.shape
    frames = torch.arange(len(images) * num_frames, device=images.device).view(-1, num_frames, 1) * height
    rows = frames + top[:, None, None] + torch.arange(size[0], device=images.device)
    pixels = images.numel() // channels
    # Row i of this view is the `w` pixels from pixel i on; rows overlap, and none of them is a copy.
    runs = images.as_strided((pixels - size[1] + 1, size[1] * channels), (channels, 1))
    found = runs.index_select(0, (rows * width + left[:, None, None]).flatten())
    return found.view(*images.shape[:2], *size, channels)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Images (B, To, H, W, C) turned counter-clockwise about their centre by angles (B,), in radians.

    Bilinear; what comes from beyond an edge is the nearest pixel of the edge.
    """
    num_frames, height, width = images.shape[1:4]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # From a pixel to where it came from, in coordinates in which either side of the image spans [-1, 1].
    turn = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], dim=-1).view(-1, 2, 3)
    turn = repeat(turn, "b i j -> (b t) i j", t=num_frames)
    x = rearrange(images, "b t h w c -> (b t) c h w").float()
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _to_uint8(rearrange(x, "(b t) c h w -> b t h w c", t=num_frames))


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Images (B, To, H, W, C) whose brightness, contrast and saturation are multiplied by factors (B,), in this order.

    Contrast is about the mean brightness of the sample's frames, saturation about the brightness of each pixel; images
    of other than 3 channels have none. The three are one affine map of the colours, rounded and limited at its end.
    """
    channels = images.shape[-1]
    shares = torch.tensor(LUMA if channels == 3 else (1 / channels,) * channels, device=images.device)
    colours = rearrange(images, "b t h w c -> b c (t h w)").float()  # planes: several times as fast as pixels
    mean = brightness * (colours.mean(dim=2) @ shares)
    kept = (saturation if channels == 3 else torch.ones_like(saturation))[:, None, None]
    blend = kept * torch.eye(channels, device=images.device) + (1 - kept) * shares
    offset = ((1 - contrast) * mean)[:, None, None]
    found = torch.baddbmm(offset, (brightness * contrast)[:, None, None] * blend, colours)
    num_frames, height = images.shape[1:3]
    return rearrange(_to_uint8(found), "b c (t h w) -> b t h w c", t=num_frames, h=height)


def _to_uint8(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, 255).to(torch.uint8)
