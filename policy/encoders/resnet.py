"""Residual networks for images (He et al. 2016), with GroupNorm (Wu & He 2018) and a spatial softmax.

Parameters have torchvision's names, so its weight files fit; torchvision is not needed.

Shapes: N images; C channels, H and W height and width; h, w height and width of the last map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..weights import read_state_dict
from .images import HALF, IMAGENET, PRETRAINED_SCALE, ImageEncoder, Pixels, SpatialSoftmax

Norm: TypeAlias = Literal["group", "frozen"]
"""GroupNorm, or a BatchNorm that no longer learns."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Depth -> number of residual blocks of each stage. The blocks of depth 50 are bottlenecks."""

GROUP_SIZE = 16
"""Number of channels per group of GroupNorm, as in Diffusion Policy."""


class FrozenNorm(nn.Module):
    """A BatchNorm that no longer learns: an affine map of each channel, from its statistics and weights.

    It computes, bit for bit, what `nn.BatchNorm2d` computes in evaluation mode, and never depends on the batch.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)


def _norm(channels: int, *, kind: Norm) -> nn.Module:
    return FrozenNorm(channels) if kind == "frozen" else nn.GroupNorm(channels // GROUP_SIZE, channels)


def _conv(inputs: int, outputs: int, kernel_size: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=False)


class Block(nn.Module):
    """Two convolutions, or three in a bottleneck, beside a skip connection. A 3x3 convolution has the stride."""

    def __init__(self, inputs: int, channels: int, *, stride: int, is_bottleneck: bool, kind: Norm) -> None:
        super().__init__()
        norm = partial(_norm, kind=kind)
        outputs = 4 * channels if is_bottleneck else channels
        if is_bottleneck:
            self.conv1, self.bn1 = _conv(inputs, channels, 1), norm(channels)
            self.conv2, self.bn2 = _conv(channels, channels, 3, stride=stride), norm(channels)
            self.conv3, self.bn3 = _conv(channels, outputs, 1), norm(outputs)
        else:
            self.conv1, self.bn1 = _conv(inputs, channels, 3, stride=stride), norm(channels)
            self.conv2, self.bn2 = _conv(channels, channels, 3), norm(channels)
        self.is_bottleneck = is_bottleneck
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride=stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.is_bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A residual network up to its last feature map: (N, C, H, W) -> (N, `num_channels`, h, w).

    is_recomputed: whether the backward pass computes each block again (Chen et al. 2016), so that of all activations
    only the inputs of the blocks are kept.

    depth: 18, 34 or 50. width: channels of the first stage, 64 in the published networks. stages: 1 to 4. The first
    stage has a quarter of the image's height and width; each further stage halves both and doubles the channels.
    """

    learning_rate_scale: float
    """Fraction of the learning rate; absent if it is 1."""

    def __init__(self, channels: int, *, depth: int, width: int, stages: int, norm: Norm) -> None:
        super().__init__()
        self.stages, self.is_frozen_norm, self.is_recomputed = stages, norm == "frozen", False
        self.conv1, self.bn1 = _conv(channels, width, 7, stride=2), _norm(width, kind=norm)
        inputs = width
        for stage, num_blocks in enumerate(BLOCKS[depth][:stages]):
            blocks: list[nn.Module] = []
            for index in range(num_blocks):
                stride = 2 if stage and not index else 1
                size = width * 2**stage
                blocks.append(Block(inputs, size, stride=stride, is_bottleneck=depth >= 50, kind=norm))
                inputs = 4 * size if depth >= 50 else size
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_channels = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> the last map (N, `num_channels`, h, w)."""
        is_kept = not (self.is_recomputed and torch.is_grad_enabled())
        x = self._stem(x) if is_kept else checkpoint(self._stem, x, use_reentrant=False)
        for stage in range(self.stages):
            for block in self.get_submodule(f"layer{stage + 1}").children():
                x = block(x) if is_kept else checkpoint(block, x, use_reentrant=False)
        return x

    def _stem(self, x: Tensor) -> Tensor:
        """What comes before the blocks: (N, C, H, W) -> (N, width, H / 4, W / 4)."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)

    def load_torchvision(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Load `weights` in torchvision's layout, which were read from `path`.

        The classifier and the stages that this network lacks are left out. A frozen norm takes all of a BatchNorm. A
        GroupNorm takes only its weight and bias, because it has no statistics: its features differ from the original
        and need training. Raises ValueError if names or shapes differ.
        """
        unused = ("fc.", *(f"layer{stage}." for stage in range(self.stages + 1, 5)))
        endings = ("num_batches_tracked", *(() if self.is_frozen_norm else ("running_mean", "running_var")))
        loaded = {
            name: value for name, value in weights.items() if not (name.startswith(unused) or name.endswith(endings))
        }
        own = self.state_dict()
        differing = sorted(own.keys() ^ loaded.keys())
        differing += sorted(name for name in own.keys() & loaded.keys() if own[name].shape != loaded[name].shape)
        if differing:
            raise ValueError(
                f"{path} must hold the weights of the configured ResNet, as torchvision names them, but "
                f"{len(differing)} names or shapes differ, such as {', '.join(differing[:3])}: give its depth and width"
            )
        self.load_state_dict(loaded)


class ResNetEncoder(ImageEncoder):
    """Images of any size -> the points where detectors on a ResNet's last map respond -> features.

    size: (H, W) of the smallest image. depth, width, stages: see `ResNet`. norm: "group", or "frozen" to compute
    exactly what pretrained weights were trained to compute. is_pretrained: whether weights will be loaded; then pixels
    are normalised as in ImageNet and the ResNet learns at a tenth of the rate. Otherwise pixels are mapped to [-1, 1].
    is_frozen: the ResNet does not learn. has_relu: whether features below 0 become 0. pixels: mean and standard
    deviation of each channel of pixels in [0, 1], used instead to normalise them.

    Raises ValueError if the images do not fit the ResNet, or `pixels` does not fit the images.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        depth: int,
        width: int,
        stages: int,
        norm: Norm,
        num_keypoints: int,
        num_features: int,
        is_pretrained: bool,
        is_frozen: bool,
        has_relu: bool,
        pixels: tuple[Sequence[float], Sequence[float]] | None,
    ) -> None:
        super().__init__()
        if min(size) <= 2 ** (stages + 1):
            raise ValueError(
                f"images must be higher and wider than {2 ** (stages + 1)} pixels for the {stages} stages of the "
                f"ResNet, which would leave a single cell, got {size}: use fewer stages or a larger crop"
            )
        if is_pretrained and channels != 3:
            raise ValueError(f"images for pretrained weights must have 3 channels, got {channels}: leave out weights")
        if pixels is not None and {len(values) for values in pixels} not in ({1}, {channels}):
            raise ValueError(f"mean and std must be of the {channels} channels of the images, got {pixels}")
        self.num_features, self.has_relu = num_features, has_relu
        self.pixels = Pixels(*(pixels or (IMAGENET if is_pretrained else HALF)))
        self.trunk = ResNet(channels, depth=depth, width=width, stages=stages, norm=norm).requires_grad_(not is_frozen)
        if is_pretrained:
            self.trunk.learning_rate_scale = PRETRAINED_SCALE
        self.keypoints = SpatialSoftmax(self.trunk.num_channels, num_keypoints)
        self.project = nn.Linear(2 * num_keypoints, num_features)

    def forward(self, images: Tensor) -> Tensor:
        """Images, uint8 (N, C, H, W) -> (N, num_features)."""
        features = self.project(self.keypoints(self.trunk(self.pixels(images))))
        return features.relu() if self.has_relu else features

    def recompute(self, *, is_on: bool) -> None:
        """Set whether the backward pass computes the blocks of the ResNet again."""
        self.trunk.is_recomputed = is_on

    def load_pretrained(self, path: Path) -> None:
        """Load the weights of torchvision's ResNet from a safetensors or torch file; see `ResNet.load_torchvision`."""
        remedy = "give the state dict of a torchvision ResNet, as safetensors or from torch.save"
        self.trunk.load_torchvision(read_state_dict(path, remedy=remedy), path)
