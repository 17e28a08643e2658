"""A sampler of your own: a plain function of a denoiser, noise and noise levels.

python examples/custom_sampler.py [FOLDER]
"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import recede
import torch
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.denoising.interface import Denoiser
from recede.policy.denoising.levels import Levels
from recede.policy.denoising.sampling import Sampler, step

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())


def two_step(denoise: Denoiser, noise: Any, levels: Levels, /) -> Any:
    """Adams and Bashforth: step towards the estimate of x_0, and half as far again as it has moved since the last one.

    Operators only: it takes numpy arrays as well as tensors, so exported policies can sample with it, too.
    """
    x, last = noise[0], None
    for now, then in pairwise(levels):
        x_0 = denoise(x, now, then)
        ahead = x_0 if last is None or then.sigma == 0 else 1.5 * x_0 - 0.5 * last
        x, last = step(x, ahead, now=now, then=then), x_0
    return x


recede.collect(recede.load_task("reach"), folder / "reach.zarr", episodes=20, first_seed=0, images="zstd")
config = recede.TrainConfig(
    dataset=str(folder / "reach.zarr"),
    out=str(folder / "run"),
    policy=DiffusionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16)),
    steps=100,
    warmup=10,
    learning_rate=4e-3,
)
recede.train(config)

# How near are five steps of either sampler to a hundred steps of DDIM, which follow the same flow?
policy, _ = recede.load_policy(config.out, sampler={"num_steps": 100})
few, _ = recede.load_policy(config.out, sampler={"num_steps": 5})
observation = recede.prepare(config).validation.batch(torch.arange(16)).observation
noise = torch.randn(1, 16, *policy.noise_shape[1:], generator=torch.Generator().manual_seed(0))
exact = policy.predict(observation, noise)
for name, sampler in {"ddim": few.sampler, "two_step": Sampler(two_step, few.sampler.levels)}.items():
    few.sampler = sampler
    error = (few.predict(observation, noise) - exact).square().mean().sqrt()
    print(f"{name:9} in 5 steps is {1000 * error:.2f} mm from ddim in 100")
