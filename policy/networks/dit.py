"""A diffusion transformer over the steps of a chunk: adaLN-Zero blocks (Peebles & Xie 2023), rotary positions.

Shapes: B batch, T steps, E size of a token, H heads, F frequencies; S tokens of conditioning of size Dc, which
condition every step alike (global conditioning); M shifts, scales and gates of all blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, check_sizes, join_heads, split_heads
from .embedding import TimeEmbedding


def rotary(num_steps: int, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine and the sine of the angle by which `turn` turns each pair, (T, F) both, from frequencies (F,)."""
    angles = torch.arange(num_steps, device=frequencies.device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def turn(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_i, x_{i + F}) of (..., T, 2 F) by the angles of `rotary` (Su et al. 2021, eq. 34).

    The product of two turned vectors depends on the difference of their steps, not on the steps themselves.
    """
    real, imaginary = x.chunk(2, dim=-1)
    cosine, sine = rotation
    return torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)


class ModulatedBlock(nn.Module):
    """Attention and an MLP. The condition shifts and scales their inputs and gates their outputs."""

    def __init__(self, size: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.size = num_heads, size
        self.query_key_value = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.expand = nn.Linear(size, 4 * size)
        self.contract = nn.Linear(4 * size, size)

    def forward(self, x: Tensor, modulation: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """(B, T, E), shifts, scales and gates (B, 1, 6 E), `rotary` of E / 2H frequencies -> (B, T, E)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        projected = self.query_key_value(modulated(x, shift, scale)).chunk(3, dim=-1)
        query, key, value = (split_heads(part, self.num_heads) for part in projected)
        attended = attend(turn(query, rotation), turn(key, rotation), value)
        x = torch.addcmul(x, gate, self.output(join_heads(attended)))
        hidden = F.gelu(self.expand(modulated(x, mlp_shift, mlp_scale)), approximate="tanh")
        return torch.addcmul(x, mlp_gate, self.contract(hidden))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of (B, T, E) with an affine part (B, 1, E): shift + (1 + scale) x."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class DiT(nn.Module):
    """Denoises an action chunk as a sequence of tokens, one per step; each token sees all others.

    A chunk may have any number of steps. One linear layer after SiLU modulates all blocks: the sum of a half for the
    time and a half for the conditioning. It starts at zero, as does the head: an untrained block passes its input on,
    and the output is 0.

    conditioning_shape: (S, Dc). size: E, an even multiple of num_heads.

    Raises ValueError if a size is impossible.
    """

    frequencies: Tensor

    def __init__(
        self,
        *,
        action_size: int,
        conditioning_shape: tuple[int, int],
        num_layers: int,
        num_heads: int,
        size: int,
    ) -> None:
        super().__init__()
        check_sizes(size, num_heads, num_layers)
        if size % (2 * num_heads):
            raise ValueError(f"size must be an even multiple of num_heads={num_heads}, for its pairs, got {size}")
        self.action = nn.Linear(action_size, size)
        self.blocks = nn.ModuleList(ModulatedBlock(size, num_heads=num_heads) for _ in range(num_layers))
        self.head = nn.Linear(size, action_size)
        num_modulations = (6 * num_layers + 2) * size
        self.time = nn.Sequential(TimeEmbedding(size), nn.SiLU(), nn.Linear(size, num_modulations))
        self.conditioning = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(conditioning_shape), size),
            nn.SiLU(),
            nn.Linear(size, size),
            nn.SiLU(),
            nn.Linear(size, num_modulations, bias=False),
        )
        self._sizes = [6 * size] * num_layers + [2 * size]
        half = size // num_heads // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        for layer in (self.head, self.time[-1], self.conditioning[-1]):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Noisy chunk (B, T, Da), times (B,), conditioning (B, S, Dc) -> (B, T, Da)."""
        return self.denoise(noisy, self.embed(t, t), self.condition(conditioning))

    def embed(self, now: Tensor, then: Tensor) -> Tensor:
        """The half of every shift, scale and gate that depends on the time: (N,) -> (N, M)."""
        return self.time(now)

    def condition(self, conditioning: Tensor) -> Tensor:
        """The half of every shift, scale and gate that depends on the conditioning: (B, S, Dc) -> (B, M)."""
        return self.conditioning(conditioning)

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Noisy chunk (B, T, Da), both halves (B, M) -> (B, T, Da)."""
        *modulations, last = (time + condition)[:, None].split(self._sizes, dim=-1)
        rotation = rotary(noisy.shape[1], self.frequencies)
        x = self.action(noisy)
        for block, modulation in zip(self.blocks, modulations, strict=True):
            x = block(x, modulation, rotation)
        return self.head(modulated(x, *last.chunk(2, dim=-1)))
