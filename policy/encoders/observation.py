"""The observation encoder: the vectors and images of each observed step become one token of conditioning.

Each stream of the context becomes a token of its own, before those of the steps.

Shapes: B windows of To steps; D size of a vector stream; H, W, C of an image; Nc context streams; Dc size of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...specification import ABSENT, Horizons, Specification, Stream
from .images import ImageEncoder, centre_crop

MakeCamera: TypeAlias = Callable[[int, tuple[int, int]], ImageEncoder]
"""(channels, (H, W) of the smallest image that it will encode) -> an image encoder."""


@dataclass(frozen=True)
class Cameras:
    """How the images of an observation are encoded."""

    make: MakeCamera
    """Makes the encoder of one camera, or of all cameras if they share it."""
    crop: tuple[int, int] | None
    """(h, w): the centre of an image, which is all that is encoded; an image of this size is encoded as it is."""
    is_shared: bool
    """Whether all cameras share one encoder."""


CONTEXT_SIZE = 64
"""Least size of a token if there is context: a goal or a sentence may need more numbers than a step."""


class ObservationEncoder(nn.Module):
    """Concatenates the streams of each observed step: the vectors, then the features of the cameras.

    Each stream of the context is projected to a token; images pass an encoder first. The tokens of the steps are then
    filled with zeros up to `CONTEXT_SIZE`. If a vector is 1 in the place of a label and 0 elsewhere, its projection is
    a learned embedding of the label.

    Where `ABSENT` says that a stream is absent, 0 stands for its vector or its features, and for context the token that
    is learned for unknown context. `ABSENT` itself is one of the vectors, so the policy can tell.

    hidden: sizes of the layers of an MLP over all vectors together, the last of them the size of its output; without
    layers, the vectors stay as they are. cameras: how images are encoded; without them, the encoder takes no images.

    Raises ValueError if a stream does not fit the encoder.
    """

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        hidden: Sequence[int],
        cameras: Cameras | None = None,
    ) -> None:
        super().__init__()
        self.crop = cameras.crop if cameras else None
        # Images of the context come last, as their encoders do.
        streams = sorted(specification.observations, key=lambda stream: stream.context)
        images = [stream for stream in streams if stream.is_image]
        vectors = [stream for stream in streams if not stream.is_image]
        _check(images, vectors, cameras)
        self.images = [stream.name for stream in images]
        self.vectors = [stream.name for stream in vectors if not stream.context]
        self.may_be_absent = [stream.name for stream in specification.may_be_absent]
        sizes = [sum(stream.size for stream in vectors if not stream.context), *(hidden if self.vectors else ())]
        self.mlp = _mlp(sizes)
        encoders = _encoders(images, cameras) if cameras else []
        self.cameras = nn.ModuleList(encoders)  # one for each image, or one for all images
        num_features = encoders[0].num_features if encoders else 0
        size = sizes[-1] + num_features * sum(not stream.context for stream in images)
        self.num_context = len(specification.context)
        if self.num_context:
            size = max(size, CONTEXT_SIZE)
            inputs = {stream.name: num_features if stream.is_image else stream.size for stream in specification.context}
            self.context = nn.ModuleDict({name: nn.Linear(count, size) for name, count in inputs.items()})
            self.unknown = nn.Parameter(torch.zeros(self.num_context, size))
        self.conditioning_shape = self.num_context + horizons.observation, size

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Normalised vectors (B, To, D) and images, uint8 (B, To, H, W, C) -> (B, Nc + To, Dc)."""
        features = {
            name: self._present(name, observation, self._features(index, observation[name]))
            for index, name in enumerate(self.images)
        }
        pieces: list[Tensor] = []
        if self.vectors:
            vectors = [self._present(name, observation, observation[name]) for name in self.vectors]
            pieces.append(self.mlp(torch.cat(vectors, dim=-1)))
        if not self.num_context:
            return torch.cat([*pieces, *features.values()], dim=-1)
        steps = torch.cat([*pieces, *(x for name, x in features.items() if name not in self.context)], dim=-1)
        context = [
            self._known(name, observation, project(features.get(name, observation[name])[:, -1]), unknown)
            for (name, project), unknown in zip(self.context.items(), self.unknown, strict=True)
        ]
        padded = F.pad(steps, (0, self.conditioning_shape[1] - steps.shape[-1]))
        return torch.cat([torch.stack(context, dim=1), padded], dim=1)

    def without_context(self, conditioning: Tensor, is_unknown: Tensor) -> Tensor:
        """The conditioning (B, Nc + To, Dc) with the learned tokens for unknown context in some rows (B,)."""
        context, steps = conditioning.split([self.num_context, conditioning.shape[1] - self.num_context], dim=1)
        return torch.cat([torch.where(is_unknown[:, None, None], self.unknown, context), steps], dim=1)

    def _absent(self, name: str, observation: Mapping[str, Tensor]) -> Tensor:
        """Where a stream that may be absent is absent, (B, To, 1): 1 there, and 0 elsewhere."""
        place = self.may_be_absent.index(name)
        return observation[ABSENT][..., place : place + 1]

    def _present(self, name: str, observation: Mapping[str, Tensor], values: Tensor) -> Tensor:
        """Numbers of a stream (B, To, n), 0 where it is absent."""
        return values * (1 - self._absent(name, observation)) if name in self.may_be_absent else values

    def _known(self, name: str, observation: Mapping[str, Tensor], token: Tensor, unknown: Tensor) -> Tensor:
        """The token (B, Dc) of a context stream, that of unknown context (Dc,) where it is absent."""
        if name not in self.may_be_absent:
            return token
        absent = self._absent(name, observation)[:, -1]
        return token * (1 - absent) + unknown * absent

    def _features(self, index: int, images: Tensor) -> Tensor:
        """The features of the images with this index: (B, To, H, W, C) -> (B, To, number of features)."""
        images = centre_crop(images, self.crop)
        features = self._camera(index)(rearrange(images, "b t h w c -> (b t) c h w"))
        return features.unflatten(0, images.shape[:2])

    def _camera(self, index: int) -> ImageEncoder:
        return cast(ImageEncoder, self.cameras[index % len(self.cameras)])

    def visible(self, name: str, image: Tensor) -> Tensor:
        """What the network of a camera gets of an image, uint8 (H, W, C) -> (h, w, C), in 0 .. 255."""
        cropped = rearrange(centre_crop(image, self.crop).float(), "h w c -> 1 c h w")
        return rearrange(self._camera(self.images.index(name)).resized(cropped), "1 c h w -> h w c")

    def recompute(self, *, is_on: bool) -> None:
        """Set whether the cameras compute their activations again in the backward pass; see `ImageEncoder.recompute`.

        Raises ValueError if there are no cameras.
        """
        if not self.cameras:
            raise ValueError("gradient_checkpointing=true needs images, got vectors alone: leave it out")
        for camera in self.cameras:
            cast(ImageEncoder, camera).recompute(is_on=is_on)

    def load_pretrained(self, path: Path) -> None:
        """Load the weights at `path` into the encoder of every camera; see `ImageEncoder.load_pretrained`."""
        for camera in self.cameras:
            cast(ImageEncoder, camera).load_pretrained(path)


def _encoders(images: Sequence[Stream], cameras: Cameras) -> list[ImageEncoder]:
    """One encoder for each image, or one for all images."""
    sizes = [cameras.crop or (stream.shape[0], stream.shape[1]) for stream in images]
    if cameras.is_shared and images:
        smallest = min(height for height, _ in sizes), min(width for _, width in sizes)
        return [cameras.make(images[0].shape[2], smallest)]
    return [cameras.make(stream.shape[2], size) for stream, size in zip(images, sizes, strict=True)]


def _mlp(sizes: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Mish()]
    return nn.Sequential(*layers[:-1])


def _check(images: Sequence[Stream], vectors: Sequence[Stream], cameras: Cameras | None) -> None:
    """Raise ValueError if a stream does not fit the encoder."""
    if images and cameras is None:
        names = [stream.name for stream in images]
        raise ValueError(
            f"the low-dimensional encoder takes vector streams only, got {names}: choose policy/encoder=resnet"
        )
    crop = cameras.crop if cameras else None
    for stream in vectors:
        if len(stream.shape) != 1:
            raise ValueError(
                f"stream {stream.name!r} must be a vector (D,) or a uint8 image (H, W, C) to be encoded, "
                f"got {stream.dtype} {stream.shape}"
            )
    for stream in images:
        if crop and (crop[0] > stream.shape[0] or crop[1] > stream.shape[1]):
            raise ValueError(
                f"the crop must fit into stream {stream.name!r}, whose images are {stream.shape[0]} x "
                f"{stream.shape[1]} pixels, got {crop[0]} x {crop[1]} (height x width): give a smaller one, such as "
                f"policy.encoder.crop=[{7 * stream.shape[0] // 8},{7 * stream.shape[1] // 8}]"
            )
    channels = {stream.shape[2] for stream in images}
    if cameras and cameras.is_shared and len(channels) > 1:
        raise ValueError(
            f"cameras that share an encoder must have the same number of channels, got "
            f"{ {stream.name: stream.shape[2] for stream in images} }: give each camera its own with shared=false"
        )
