"""Embeddings of the time. Shapes: B batch, E size of the embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Sinusoids(nn.Module):
    """Sines and cosines of t at frequencies from 1 down to 1e-4 (Vaswani et al. 2017): (B,) -> (B, E)."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2 or size < 4:
            raise ValueError(f"the size of the time embedding must be an even number of at least 4, got {size}")
        half = size // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (B,)."""
        angles = t.to(self.frequencies)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of t through a small MLP: (B,) -> (B, E)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.sinusoids = Sinusoids(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size))

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (B,)."""
        return self.mlp(self.sinusoids(t))
