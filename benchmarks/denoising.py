"""The time saved by embedding the conditioning and the times once per chunk.

    python benchmarks/denoising.py [json=FILE]

Predicts one chunk with DDIM-10 for one robot, with the U-Net of Diffusion Policy (65.8 million parameters) and with a
small one: with the whole forward pass at every denoising step, and with `DiffusionPolicy.denoiser`.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import torch
from recede.benchmarks.measure import Row, interleaved_medians, output, report
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.denoising.levels import NoiseLevel
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream
from torch import Tensor

SIZES = {"small U-Net": [64, 128, 256], "U-Net of the paper": [256, 512, 1024]}
"""Name -> channels."""
SECONDS = 8.0
"""How long both ways take turns with one network."""

SPECIFICATION = Specification((Stream("state", (20,)),), Stream("action", (2,)), control_dt=0.1)
HORIZONS = Horizons(observation=2, prediction=16, action=8)


def make(channels: list[int]) -> DiffusionPolicy:
    """An untrained policy."""
    ranges = {stream.name: (-np.ones(stream.shape), np.ones(stream.shape)) for stream in SPECIFICATION.streams}
    config = DiffusionConfig(network=UNet1dConfig(channels=channels, time_size=256))
    policy = config.build(SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, ranges))
    return policy.eval().requires_grad_(False)


def plain(policy: DiffusionPolicy, conditioning: Tensor, noise: Tensor) -> None:
    """Run the whole network at every step."""

    def denoise(x: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
        return policy.network(x, torch.full((len(x),), int(now.time)), conditioning).clamp(-1, 1)

    policy.sampler.solve(denoise, noise, policy.sampler.levels)


def split(policy: DiffusionPolicy, conditioning: Tensor, noise: Tensor) -> None:
    """Embed the times and the conditioning first."""
    policy.sampler.solve(policy.denoiser(conditioning), noise, policy.sampler.levels)


def main() -> None:
    """Measure both ways in turn and print the table."""
    path, rows = output(sys.argv[1:]), list[Row]()
    for name, channels in SIZES.items():
        policy = make(channels)
        inputs = policy, torch.randn(1, 2, 20), torch.randn(policy.noise_shape)[:, None]
        whole, halves = interleaved_medians([partial(way, *inputs) for way in (plain, split)], seconds=SECONDS)
        rows.append({"name": f"{name}, whole network at each step", "value": 1e3 * whole, "unit": "ms"})
        rows.append({"name": f"{name}, time and conditioning once", "value": 1e3 * halves, "unit": "ms"})
        rows.append({"name": f"{name}, whole / once", "value": whole / halves, "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
