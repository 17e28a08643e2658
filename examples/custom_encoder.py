"""An observation encoder of your own, trained and measured like Recede's.

python examples/custom_encoder.py [FOLDER]
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import recede
import torch
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from torch import Tensor, nn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())


class Waves(nn.Module):
    """Sines and cosines of each number of the current step: networks tell near values apart more easily by them."""

    crop = None  # it sees no images
    num_context = 0  # a goal would be one more vector

    def __init__(self, specification: recede.Specification, num_waves: int) -> None:
        super().__init__()
        self.names = [stream.name for stream in specification.observations]
        self.frequencies = nn.Buffer(torch.pi * 2.0 ** torch.arange(num_waves))
        size = sum(stream.size for stream in specification.observations)
        self.conditioning_shape = 1, size * (1 + 2 * num_waves)  # (S, Dc): one token

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Normalised streams (B, To, ...), all in [-1, 1] -> conditioning (B, S, Dc)."""
        now = torch.cat([observation[name][:, -1] for name in self.names], dim=-1)
        angles = (now[..., None] * self.frequencies).flatten(1)
        return torch.cat([now, angles.sin(), angles.cos()], dim=-1)[:, None]


@dataclass(kw_only=True)
class WavesConfig:
    """Its fields become keys of the command line, and a checkpoint notes them: it is opened by them again."""

    num_waves: int = 2

    def build(self, specification: recede.Specification, horizons: recede.Horizons) -> Waves:
        return Waves(specification, self.num_waves)

    def start(self, encoder: Waves) -> None:
        """Pretrained weights would be loaded here."""


recede.add_choice("policy/encoder", "waves", WavesConfig)  # from now on `policy/encoder=waves` is a choice
recede.collect(recede.load_task("reach"), folder / "reach.zarr", episodes=20, first_seed=0, images="zstd")
policy = DiffusionConfig(encoder=WavesConfig(num_waves=3), network=UNet1dConfig(channels=[16, 32], time_size=16))
config = recede.TrainConfig(
    dataset=str(folder / "reach.zarr"), out=str(folder / "run"), policy=policy, steps=100, warmup=10
)
trained, _ = recede.load_policy(recede.train(config))
print(type(trained.encoder).__name__, recede.evaluate(trained, recede.load_task("reach"), episodes=5))
