"""The temporal U-Net of Diffusion Policy (Janner et al. 2022; Chi et al. 2023, appendix A): 1D convolutions with FiLM.

Shapes: B batch, T steps at a level of the U-Net, C channels, E size of the time embedding; S tokens of conditioning of
size Dc, which condition every step alike (global conditioning); M scales and shifts of all FiLM layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import cpu_inference, cpu_training
from .embedding import TimeEmbedding


class Convolution(nn.Conv1d):
    """A convolution that keeps the number of steps, or every `stride` of them: (B, C_in, T) -> (B, C_out, T / stride).

    T is a multiple of the stride.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel_size, stride=stride, padding=kernel_size // 2)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C_in, T)."""
        (stride,) = self.stride
        if self.bias is not None and cpu_inference.serves(input):
            return cpu_inference.convolve(input, self.weight, self.bias, stride=stride)
        if self.training and self.bias is not None and stride == 1 and cpu_training.serves(input):
            return cpu_training.convolve(input, self.weight, self.bias)
        return super().forward(input)


class Upsample(nn.ConvTranspose1d):
    """Twice as many steps: (B, C, T) -> (B, C, 2 T)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Upsample (B, C, T)."""
        if self.bias is not None and output_size is None and cpu_inference.serves(input):
            return cpu_inference.upsample(input, self.weight, self.bias)
        return super().forward(input, output_size)


class NormMish(nn.GroupNorm):
    """Group norm and Mish: (B, C, T) -> (B, C, T)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, T)."""
        if cpu_inference.serves(input):
            return cpu_inference.normalise_mish(input, self.num_groups, self.weight, self.bias, self.eps)
        if self.training and cpu_training.serves(input):
            return cpu_training.normalise_mish(input, self.num_groups, self.weight, self.bias, self.eps)
        return F.mish(super().forward(input))


def convolution(channels_in: int, channels_out: int, kernel_size: int, num_groups: int) -> nn.Sequential:
    """Convolution, group norm and Mish. Keeps the number of steps."""
    return nn.Sequential(Convolution(channels_in, channels_out, kernel_size), NormMish(num_groups, channels_out))


class Product(nn.Module):
    """The elementwise product of two linear layers: a goal or a sentence decides what the other numbers do.

    It is the bilinear gated linear unit (Dauphin et al. 2017, Shazeer 2020).
    """

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size_in, 2 * size_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, size_in) -> (B, size_out)."""
        value, gate = self.linear(x).chunk(2, dim=-1)
        return value * gate


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip connection, with FiLM between them (Perez et al. 2018)."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.num_film = 2 * channels_out
        self.first = convolution(channels_in, channels_out, kernel_size, groups)
        self.second = convolution(channels_out, channels_out, kernel_size, groups)
        self.skip = Convolution(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """(B, C_in, T), scales and shifts (B, 2 C_out) -> (B, C_out, T)."""
        scale, shift = film[:, :, None].chunk(2, dim=1)
        return self.second(torch.addcmul(shift, self.first(x), scale)) + self.skip(x)


class UNet1d(nn.Module):
    """Denoises an action chunk at several temporal resolutions, one per entry of `channels`.

    A chunk may have any number of steps. Each level but the last halves it, so it is padded with zeros at its end to a
    multiple of 2^(levels - 1) steps, and the padding is cut off afterwards.

    FiLM is a linear layer after an elementwise non-linearity, so it is the sum of a half for the time and a half for
    the conditioning. One matrix holds the halves of all blocks, in the order in which the blocks run. Without hidden
    layers, the half for the conditioning is a sum over its numbers: none of them decides what another one does. Hidden
    layers multiply them (`Product`).

    conditioning_shape: (S, Dc). channels: channels of each level, multiples of `groups`, the finest level first.
    kernel_size: odd. groups: number of groups of each group norm. time_size: E. hidden: sizes of the products that the
    conditioning passes before FiLM.

    Raises ValueError if a size is impossible.
    """

    def __init__(
        self,
        *,
        action_size: int,
        conditioning_shape: tuple[int, int],
        channels: Sequence[int],
        kernel_size: int,
        groups: int,
        time_size: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        if not channels or any(width < 1 or width % groups for width in channels):
            raise ValueError(
                f"channels must list at least one level, each a multiple of groups={groups}, got {channels}"
            )
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size must be odd, so that the number of steps stays, got {kernel_size}")

        def block(channels_in: int, channels_out: int) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, kernel_size=kernel_size, groups=groups)

        self.stride = 2 ** (len(channels) - 1)
        widths = [action_size, *channels]
        self.down = nn.ModuleList(nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairwise(widths))
        self.downsample = nn.ModuleList(Convolution(width, width, 3, stride=2) for width in channels[:-1])
        self.middle = nn.ModuleList(block(channels[-1], channels[-1]) for _ in range(2))
        # Each level on the way up also takes the output of the way down at its resolution, hence twice the channels.
        ascending = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(nn.ModuleList([block(2 * a, b), block(b, b)]) for a, b in ascending)
        self.upsample = nn.ModuleList(Upsample(b) for _, b in ascending)
        self.head = nn.Sequential(
            convolution(channels[0], channels[0], kernel_size, groups), Convolution(channels[0], action_size, 1)
        )

        self._film_sizes = [block.num_film for block in self._blocks()]
        num_film = sum(self._film_sizes)
        self.time = nn.Sequential(TimeEmbedding(time_size), nn.Mish(), nn.Linear(time_size, num_film))
        sizes = [math.prod(conditioning_shape), *hidden]
        layers = [Product(a, b) for a, b in pairwise(sizes)] or [nn.Mish()]
        self.conditioning = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], num_film, bias=False))

    def _blocks(self) -> list[ResidualBlock]:
        """The blocks in the order in which they run."""
        return [*chain(*self.down), *self.middle, *chain(*self.up)]  # type: ignore[misc, arg-type]

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Noisy chunk (B, Tp, Da), times (B,), conditioning (B, S, Dc) -> (B, Tp, Da)."""
        return self.denoise(noisy, self.embed(t, t), self.condition(conditioning))

    def embed(self, now: Tensor, then: Tensor) -> Tensor:
        """The half of every scale and shift that depends on the time: (N,) -> (N, M)."""
        return self.time(now)

    def condition(self, conditioning: Tensor) -> Tensor:
        """The half of every scale and shift that depends on the conditioning: (B, S, Dc) -> (B, M)."""
        return cpu_inference.by_rows(self.conditioning, conditioning)

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Noisy chunk (B, Tp, Da), both halves (B, M) -> (B, Tp, Da)."""
        num_steps = noisy.shape[1]
        films = iter((time + condition).split(self._film_sizes, dim=1))
        x = F.pad(rearrange(noisy, "b t d -> b d t"), (0, -num_steps % self.stride))
        passed = []
        for level, (first, second) in enumerate(self.down):  # type: ignore[misc]
            x = self.downsample[level - 1](x) if level else x
            x = second(first(x, next(films)), next(films))
            passed.append(x)
        for block in self.middle:
            x = block(x, next(films))
        # The finest level has no skip connection: the reference implementation has none, and its weights load here.
        for (first, second), upsample in zip(self.up, self.upsample, strict=True):  # type: ignore[misc]
            x = upsample(second(first(torch.cat([x, passed.pop()], dim=1), next(films)), next(films)))
        return rearrange(self.head(x)[:, :, :num_steps], "b d t -> b t d")
