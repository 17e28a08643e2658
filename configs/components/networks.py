"""Networks: plain values whose `build` makes a `Network`. Dimensions come from the data and the task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..checks import positive

if TYPE_CHECKING:
    from ...policy.interface import Network


@dataclass(kw_only=True)
class UNet1dConfig:
    """The temporal U-Net; one entry of `channels` for each level, the finest first."""

    channels: list[int] = field(default_factory=lambda: [64, 128, 256])
    kernel_size: int = 5
    groups: int = 8
    time_size: int = 128

    def __post_init__(self) -> None:
        positive(self, "kernel_size", "groups", "time_size")

    def build(self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int]) -> Network:
        """A network for chunks of `action_size` numbers a step; it takes any number of steps."""
        from ...policy.networks.unet1d import UNet1d

        return UNet1d(
            action_size=action_size,
            conditioning_shape=conditioning_shape,
            channels=self.channels,
            kernel_size=self.kernel_size,
            groups=self.groups,
            time_size=self.time_size,
        )


@dataclass(kw_only=True)
class TransformerConfig:
    """The transformer of Diffusion Policy, whose largest has 8 layers of size 256 and a dropout of 0.01 to 0.3."""

    num_layers: int = 4
    num_heads: int = 4
    size: int = 128
    dropout: float = 0.0
    embedding_dropout: float = 0.0

    def build(self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int]) -> Network:
        """A network for chunks of up to `num_steps` steps, `action_size` numbers each."""
        from ...policy.networks.transformer import Transformer

        return Transformer(
            action_size=action_size,
            conditioning_shape=conditioning_shape,
            num_steps=num_steps,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            size=self.size,
            dropout=self.dropout,
            embedding_dropout=self.embedding_dropout,
        )


@dataclass(kw_only=True)
class DiTConfig:
    """A diffusion transformer with adaptive layer norms and rotary positions."""

    num_layers: int = 4
    num_heads: int = 4
    size: int = 128

    def build(self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int]) -> Network:
        """A network for chunks of `action_size` numbers a step; it takes any number of steps."""
        from ...policy.networks.dit import DiT

        return DiT(
            action_size=action_size,
            conditioning_shape=conditioning_shape,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            size=self.size,
        )
