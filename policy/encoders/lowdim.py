"""Low-dimensional observations as conditioning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...specification import Horizons, Specification


class LowdimEncoder(nn.Module):
    """Every observed step of every vector stream: (B, To, D) each, side by side as (B, Dc); Dc is To times all D."""

    def __init__(self, specification: Specification, horizons: Horizons) -> None:
        super().__init__()
        images = [stream.name for stream in specification.observations if len(stream.shape) != 1]
        if images:
            raise ValueError(f"the low-dimensional encoder takes vector streams only, got {images}")
        self.names = [stream.name for stream in specification.observations]
        self.conditioning_size = horizons.observation * sum(stream.size for stream in specification.observations)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Normalised streams (B, To, D) -> global conditioning (B, Dc)."""
        return torch.cat([observation[name] for name in self.names], dim=-1).flatten(1)
