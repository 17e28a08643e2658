"""The temporal U-Net of Diffusion Policy (Janner et al. 2022; Chi et al. 2023, appendix A): 1D convolutions with FiLM.

Shapes: B batch, T steps at some level of the U-Net, C channels, E size of the time embedding, Dc size of the
conditioning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    """Sinusoids of t (Vaswani et al. 2017) through a small MLP: (B,) -> (B, E)."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2 or size < 4:
            raise ValueError(f"the size of the time embedding must be an even number of at least 4, got {size}")
        half = size // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size))

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (B,)."""
        angles = t.to(self.frequencies)[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class FiLM(nn.Module):
    """Scale and shift of every channel, from time and conditioning (Perez et al. 2018).

    Because the non-linearity before the linear layer acts on each entry alone, the layer is the sum of a half for the
    time and a half for the conditioning.
    """

    def __init__(self, time_size: int, conditioning_size: int, channels: int) -> None:
        super().__init__()
        self.time = nn.Linear(time_size, 2 * channels)
        self.conditioning = nn.Linear(conditioning_size, 2 * channels, bias=False)

    def forward(self, x: Tensor, time: Tensor, conditioning: Tensor) -> Tensor:
        """Modulate x (B, C, T)."""
        scale, shift = (self.time(time) + self.conditioning(conditioning))[:, :, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, scale)


def convolution(channels_in: int, channels_out: int, kernel_size: int, num_groups: int) -> nn.Sequential:
    """Convolution, group norm, Mish; the number of steps stays."""
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
        nn.GroupNorm(num_groups, channels_out),
        nn.Mish(),
    )


class ResidualBlock(nn.Module):
    """Two convolutions with FiLM between them, around a skip connection."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        time_size: int,
        conditioning_size: int,
        kernel_size: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels_out, kernel_size, groups)
        self.film = FiLM(time_size, conditioning_size, channels_out)
        self.second = convolution(channels_out, channels_out, kernel_size, groups)
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, conditioning: Tensor) -> Tensor:
        """(B, C_in, T) -> (B, C_out, T)."""
        return self.second(self.film(self.first(x), time, conditioning)) + self.skip(x)


class UNet1d(nn.Module):
    """Denoise an action chunk at several temporal resolutions, one for each entry of `channels`.

    Any number of steps is accepted: a chunk is padded with zeros at its end to a multiple of 2^(levels - 1) steps,
    where each level but the last halves it, and the padding is cut off again.

    channels: of each level, multiples of `groups`. kernel_size: odd. time_size: E.
    """

    def __init__(
        self,
        *,
        action_size: int,
        conditioning_size: int,
        channels: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 5,
        groups: int = 8,
        time_size: int = 256,
    ) -> None:
        super().__init__()
        if not channels or any(width < 1 or width % groups for width in channels):
            raise ValueError(
                f"channels must be multiples of groups={groups}, at least one level of them, got {channels}"
            )
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size must be odd, so that the number of steps stays, got {kernel_size}")

        def block(channels_in: int, channels_out: int) -> ResidualBlock:
            return ResidualBlock(
                channels_in,
                channels_out,
                time_size=time_size,
                conditioning_size=conditioning_size,
                kernel_size=kernel_size,
                groups=groups,
            )

        self.stride = 2 ** (len(channels) - 1)
        self.time = nn.Sequential(TimeEmbedding(time_size), nn.Mish())
        self.conditioning = nn.Mish()
        widths = [action_size, *channels]
        self.down = nn.ModuleList(nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairwise(widths))
        self.downsample = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for width in channels[:-1])
        self.middle = nn.ModuleList(block(channels[-1], channels[-1]) for _ in range(2))
        # Each level on the way up sees what the way down has left at the same resolution, hence twice the channels.
        ascending = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(nn.ModuleList([block(2 * a, b), block(b, b)]) for a, b in ascending)
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(b, b, 4, stride=2, padding=1) for _, b in ascending)
        self.head = nn.Sequential(
            convolution(channels[0], channels[0], kernel_size, groups), nn.Conv1d(channels[0], action_size, 1)
        )

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """(B, Tp, Da), times (B,), conditioning (B, Dc) -> (B, Tp, Da)."""
        num_steps = noisy.shape[1]
        film = self.time(t), self.conditioning(conditioning)
        x = F.pad(rearrange(noisy, "b t d -> b d t"), (0, -num_steps % self.stride))
        passed = []
        for level, (first, second) in enumerate(self.down):  # type: ignore[misc]
            x = self.downsample[level - 1](x) if level else x
            x = second(first(x, *film), *film)
            passed.append(x)
        for block in self.middle:
            x = block(x, *film)
        # The finest level is not passed: the reference implementation leaves it out, and its weights load here.
        for (first, second), upsample in zip(self.up, self.upsample, strict=True):  # type: ignore[misc]
            x = upsample(second(first(torch.cat([x, passed.pop()], dim=1), *film), *film))
        return rearrange(self.head(x)[:, :, :num_steps], "b d t -> b t d")
