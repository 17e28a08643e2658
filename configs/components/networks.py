"""Networks. Their sizes of input and output come from the task and the encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ..checks import LARGEST_SIZE, MOST_CHUNK, check_sizes, positive, share
from .lazy import load, values

if TYPE_CHECKING:
    from ...policy.interface import Network


CHANNELS = [64, 128, 256]
"""Channels of a U-Net whose size nobody chose."""


@dataclass(kw_only=True)
class NetworkConfig:
    """What the configurations of recede's networks share."""

    kind: ClassVar[str]

    def build(
        self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int], num_context: int = 0
    ) -> Network:
        """A network for chunks of `num_steps` steps with `action_size` numbers each."""
        return load(self.kind)(action_size=action_size, conditioning_shape=conditioning_shape, **values(self))


@dataclass(kw_only=True)
class UNet1dConfig(NetworkConfig):
    """The temporal U-Net of Diffusion Policy, here a small one. It takes chunks of any length."""

    kind: ClassVar[str] = "policy.networks.unet1d:UNet1d"
    channels: list[int] | None = None
    """Channels of each level, the finest first. Multiples of groups. null is chosen from the data, or [64,128,256]."""
    kernel_size: int = 5
    """Control steps that a convolution spans. Odd."""
    groups: int = 8
    """Groups of each group normalisation."""
    time_size: int = 128
    """Size of the embedding of the noise level."""
    hidden: list[int] = field(default_factory=list)
    """Sizes of the layers that the observations and the context pass before FiLM; each multiplies two linear maps.
[] has none; [256,256] helps a policy whose goal or sentence decides which of its other numbers count."""

    def __post_init__(self) -> None:
        if self.channels is not None:
            check_sizes("channels", self.channels)
        check_sizes("hidden", self.hidden)
        positive(self, "kernel_size", most=MOST_CHUNK)
        positive(self, "groups", "time_size", most=LARGEST_SIZE)

    def build(
        self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int], num_context: int = 0
    ) -> Network:
        """A network for chunks of `num_steps` steps with `action_size` numbers each."""
        options = values(self) | {"channels": self.channels or CHANNELS}
        return load(self.kind)(action_size=action_size, conditioning_shape=conditioning_shape, **options)


@dataclass(kw_only=True)
class TransformerConfig(NetworkConfig):
    """The transformer of Diffusion Policy, here a small one; the largest published has 8 layers of size 256."""

    kind: ClassVar[str] = "policy.networks.transformer:Transformer"
    num_layers: int = 4
    """Number of decoder layers."""
    num_heads: int = 4
    """Attention heads of each layer. They divide size."""
    size: int = 128
    """Size of a token."""
    patch: int = 1
    """Control steps of each token. More than 1 needs causal=false, and costs less time."""
    causal: bool = True
    """An action sees only the actions and observations up to its own step, as published. false: it sees all."""
    dropout: float = 0.0
    """Dropout within the layers. Published policies use 0.01 to 0.3."""
    embedding_dropout: float = 0.0
    """Dropout of the embedded actions and observations."""

    def __post_init__(self) -> None:
        positive(self, "num_layers", "num_heads", most=1000)
        positive(self, "size", most=LARGEST_SIZE)
        positive(self, "patch", most=MOST_CHUNK)
        share(self, "dropout", "embedding_dropout")

    def build(
        self, *, action_size: int, num_steps: int, conditioning_shape: tuple[int, int], num_context: int = 0
    ) -> Network:
        """A network for chunks of up to `num_steps` steps with `action_size` numbers each."""
        shape = {"action_size": action_size, "num_steps": num_steps, "conditioning_shape": conditioning_shape}
        return load(self.kind)(**shape, num_context=num_context, **values(self))


@dataclass(kw_only=True)
class DiTConfig(NetworkConfig):
    """A diffusion transformer with adaptive layer norms and rotary positions. It takes chunks of any length."""

    kind: ClassVar[str] = "policy.networks.dit:DiT"
    num_layers: int = 4
    """Number of layers."""
    num_heads: int = 4
    """Attention heads of each layer. 2 num_heads divides size."""
    size: int = 128
    """Size of a token."""

    def __post_init__(self) -> None:
        positive(self, "num_layers", "num_heads", most=1000)
        positive(self, "size", most=LARGEST_SIZE)
