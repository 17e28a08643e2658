"""The observation encoder: vectors and images of every observed step as one vector of conditioning.

Shapes: B windows of To steps; D numbers of a vector stream; H, W, C of an image; Dc of the conditioning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ...specification import Horizons, Specification, Stream
from .images import ImageEncoder, centre_crop

MakeCamera: TypeAlias = Callable[[int, tuple[int, int]], ImageEncoder]
"""(channels, (H, W) of the smallest image it will see) -> an encoder of images."""


class ObservationEncoder(nn.Module):
    """Every stream in each observed step, side by side: the vectors, then the features of the cameras.

    hidden: sizes of the layers of an MLP over all vectors together, the last that of its output; none leaves them as
    they are. make_camera: makes the encoder of each camera, or of all of them where `is_shared`; None takes no images.
    crop: (h, w) that is seen of an image, its centre; images that are cropped already are taken as they are.
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        hidden: Sequence[int] = (),
        make_camera: MakeCamera | None = None,
        crop: tuple[int, int] | None = None,
        is_shared: bool = False,
    ) -> None:
        super().__init__()
        self.crop = crop
        images = [stream for stream in specification.observations if stream.is_image]
        vectors = [stream for stream in specification.observations if not stream.is_image]
        _check(images, vectors, crop=crop, is_shared=is_shared, takes_images=make_camera is not None)
        self.vectors, self.images = [stream.name for stream in vectors], [stream.name for stream in images]
        sizes = [sum(stream.size for stream in vectors), *(hidden if vectors else ())]
        self.mlp = _mlp(sizes)
        seen = [(stream.shape[2], crop or (stream.shape[0], stream.shape[1])) for stream in images]
        if is_shared and seen:
            seen = [(seen[0][0], (min(size[0] for _, size in seen), min(size[1] for _, size in seen)))]
        cameras = [make_camera(*each) for each in seen] if make_camera is not None else []
        self.cameras = nn.ModuleList(cameras)  # one for each image, or a single one for all of them
        num_features = cameras[0].num_features * len(images) if cameras else 0
        self.conditioning_shape = horizons.observation, sizes[-1] + num_features

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Normalised vectors (B, To, D) and images, uint8 (B, To, H, W, C) -> (B, To, Dc)."""
        pieces: list[Tensor] = []
        if self.vectors:
            pieces.append(self.mlp(torch.cat([observation[name] for name in self.vectors], dim=-1)))
        for index, name in enumerate(self.images):
            seen = centre_crop(observation[name], self.crop)
            features = self.cameras[index % len(self.cameras)](rearrange(seen, "b t h w c -> (b t) c h w"))
            pieces.append(features.unflatten(0, seen.shape[:2]))
        return torch.cat(pieces, dim=-1)

    def load_pretrained(self, path: Path) -> None:
        """Give every camera's encoder the weights at `path`; see `ImageEncoder.load_pretrained`."""
        for camera in self.cameras:
            cast(ImageEncoder, camera).load_pretrained(path)


def _mlp(sizes: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Mish()]
    return nn.Sequential(*layers[:-1])


def _check(
    images: Sequence[Stream],
    vectors: Sequence[Stream],
    *,
    crop: tuple[int, int] | None,
    is_shared: bool,
    takes_images: bool,
) -> None:
    """Raise ValueError where the streams are not what the encoder can take."""
    names = [stream.name for stream in images]
    if images and not takes_images:
        raise ValueError(
            f"the low-dimensional encoder takes vector streams only, got {names}: choose policy/encoder=resnet"
        )
    for stream in vectors:
        if len(stream.shape) != 1:
            raise ValueError(
                f"stream {stream.name!r} must be a vector (D,) or an image of uint8 (H, W, C) to be encoded, "
                f"got {stream.dtype} {stream.shape}"
            )
    for stream in images:
        if crop and (crop[0] > stream.shape[0] or crop[1] > stream.shape[1]):
            raise ValueError(
                f"the crop must fit into stream {stream.name!r}, whose images are {stream.shape[0]} x "
                f"{stream.shape[1]} pixels, got {crop[0]} x {crop[1]} (height x width)"
            )
    channels = {stream.shape[2] for stream in images}
    if is_shared and len(channels) > 1:
        raise ValueError(
            f"cameras that share an encoder must have the same number of channels, got "
            f"{ {stream.name: stream.shape[2] for stream in images} }: give each its own with shared=false"
        )
