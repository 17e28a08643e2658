"""Guidance of your own: make every chunk keep a rule that the demonstrations do not know.

python examples/custom_guidance.py [FOLDER]
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recede
import torch
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.denoising.guidance import Guidance, Sampling
from recede.policy.denoising.interface import Denoiser

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())


@dataclass(frozen=True)
class Above(Guidance):
    """Keep the gripper above a height, m. It acts on each estimate, so the rest of the chunk adapts to it."""

    height: float

    def denoiser(self, denoise: Denoiser, sampling: Sampling) -> Denoiser:
        """A denoiser made of a denoiser: samplers, executions and engines need not know."""

        def above(x_t: Any, now: Any, then: Any) -> Any:
            return self._lifted(denoise(x_t, now, then), sampling)

        return above

    def _lifted(self, x_0: Any, sampling: Sampling) -> Any:
        actions = sampling.space.decode(x_0)  # (B, Tp, Da), in units
        actions[..., 2] = actions[..., 2].clip(self.height)  # x, y, z, yaw, opening
        return sampling.space.encode(actions)


recede.collect(recede.load_task("reach"), folder / "reach.zarr", episodes=20, first_seed=0, images="zstd")
config = recede.TrainConfig(
    dataset=str(folder / "reach.zarr"),
    out=str(folder / "run"),
    policy=DiffusionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16)),
    steps=100,
    warmup=10,
    learning_rate=4e-3,
)
policy, _ = recede.load_policy(recede.train(config))
observation = recede.prepare(config).validation.batch(torch.arange(16)).observation
draws, *size = policy.noise_shape
noise = torch.randn(draws, 16, *size, generator=torch.Generator().manual_seed(0))
free, guided = (policy.predict(observation, noise, guidance)[..., 2] for guidance in ((), [Above(0.15)]))
print(f"lowest height of 16 chunks: {free.min():.3f} m, and {guided.min():.3f} m with guidance")
