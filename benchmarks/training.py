"""Milliseconds of a training step of the U-Net: ours, the same with torch's own layers, and the reference network's.

    python benchmarks/training.py [json=FILE]

The step is that of the default recipe: 256 chunks of 16 actions, 2 observed steps of a vector, channels 64, 128 and
256, a noise level and a noise for each chunk, the squared error of x_0, and AdamW. The plain loop has the network as it
was published, with a linear layer for time and conditioning in every block. All take turns in one run, with
`OMP_NUM_THREADS` threads, or as many as there are cores. The costs of data, of the averaged weights and of logging come
on top, alike for all. Hold torch to AVX2 by ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from recede.benchmarks.measure import Row, interleaved_medians, output, report
from recede.policy.networks import cpu_training
from recede.policy.networks.unet1d import UNet1d
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_SIZE, NUM_STEPS, ACTION_SIZE, CONDITIONING = 256, 16, 4, (2, 10)
CHANNELS, GROUPS, TIME_SIZE = (64, 128, 256), 8, 128
KERNEL_SIZES = (5, 3)
PRODUCT = (4096, 320, 64)
"""Rows, inputs and outputs of a matrix product with the sizes of a convolution at the finest level."""
SECONDS = 30.0
"""How long the networks of one kernel size take turns."""


class PlainBlock(nn.Module):
    """A residual block of the reference implementation."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(
                nn.Conv1d(channels, channels_out, kernel_size, padding=kernel_size // 2),
                nn.GroupNorm(GROUPS, channels_out),
                nn.Mish(),
            )
            for channels in (channels_in, channels_out)
        )
        size = TIME_SIZE + CONDITIONING[0] * CONDITIONING[1]
        self.film = nn.Sequential(nn.Mish(), nn.Linear(size, 2 * channels_out))
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """(B, C_in, T), time and conditioning (B, E + S Dc) -> (B, C_out, T)."""
        scale, shift = self.film(conditioning)[:, :, None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


class PlainUNet(nn.Module):
    """The U-Net of Chi et al. (2023) as it was published, with three levels."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        block = partial(PlainBlock, kernel_size=kernel_size)
        self.embedding = nn.Sequential(
            nn.Linear(TIME_SIZE, 4 * TIME_SIZE), nn.Mish(), nn.Linear(4 * TIME_SIZE, TIME_SIZE)
        )
        self.down = nn.ModuleList(
            nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairwise((ACTION_SIZE, *CHANNELS))
        )
        self.downsample = nn.ModuleList(nn.Conv1d(width, width, 3, 2, 1) for width in CHANNELS[:-1])
        self.middle = nn.ModuleList(block(CHANNELS[-1], CHANNELS[-1]) for _ in range(2))
        ascending = list(pairwise(reversed(CHANNELS)))
        self.up = nn.ModuleList(nn.ModuleList([block(2 * a, b), block(b, b)]) for a, b in ascending)
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(b, b, 4, 2, 1) for _, b in ascending)
        self.head = nn.Sequential(
            nn.Conv1d(CHANNELS[0], CHANNELS[0], kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(GROUPS, CHANNELS[0]),
            nn.Mish(),
            nn.Conv1d(CHANNELS[0], ACTION_SIZE, 1),
        )

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Noisy chunk (B, Tp, Da), times (B,), conditioning (B, S, Dc) -> (B, Tp, Da)."""
        angles = t[:, None] * torch.exp(torch.arange(TIME_SIZE // 2) * (-9.21 / (TIME_SIZE // 2 - 1)))
        embedded = self.embedding(torch.cat([angles.sin(), angles.cos()], dim=1))
        conditioning = torch.cat([embedded, conditioning.flatten(1)], dim=1)
        x, passed = noisy.transpose(1, 2), []
        for level, (first, second) in enumerate(self.down):  # type: ignore[misc]
            x = self.downsample[level - 1](x) if level else x
            x = second(first(x, conditioning), conditioning)
            passed.append(x)
        for middle in self.middle:
            x = middle(x, conditioning)
        for (first, second), upsample in zip(self.up, self.upsample, strict=True):  # type: ignore[misc]
            x = torch.cat([x, passed.pop()], dim=1)
            x = upsample(second(first(x, conditioning), conditioning))
        return self.head(x).transpose(1, 2)


def training_step(network: nn.Module) -> Callable[[], None]:
    """A training step of a network on random chunks, with an optimiser of its own."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    chunk = torch.rand(BATCH_SIZE, NUM_STEPS, ACTION_SIZE) * 2 - 1
    conditioning = torch.rand(BATCH_SIZE, *CONDITIONING)

    def step() -> None:
        noise, t = torch.randn_like(chunk), torch.rand(BATCH_SIZE)
        share = t[:, None, None]
        loss = F.mse_loss(network((1 - share) * chunk + share * noise, 1000 * t, conditioning), chunk)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def with_layers_of_torch(step: Callable[[], None]) -> Callable[[], None]:
    """The same step without the layers for training on a CPU."""

    def torchs() -> None:
        serves, cpu_training.serves = cpu_training.serves, lambda x: False
        try:
            step()
        finally:
            cpu_training.serves = serves

    return torchs


def product_rate() -> float:
    """GFLOP a second of a matrix product of the sizes of a convolution: what the processor can reach."""
    rows, inputs, outputs = PRODUCT
    left, right = torch.rand(rows, inputs), torch.rand(inputs, outputs)
    best = min(_seconds(lambda: left @ right) for _ in range(50))
    return 2e-9 * rows * inputs * outputs / best


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure both kernel sizes and print the table."""
    path, rows = output(sys.argv[1:]), list[Row]()
    print(f"threads: {torch.get_num_threads()}, instructions: {torch.backends.cpu.get_cpu_capability()}")
    rows.append({"name": "a matrix product", "value": product_rate(), "unit": "GFLOP/s"})
    for kernel_size in KERNEL_SIZES:
        torch.manual_seed(0)
        sizes = {"action_size": ACTION_SIZE, "conditioning_shape": CONDITIONING, "channels": CHANNELS}
        ours = UNet1d(**sizes, kernel_size=kernel_size, groups=GROUPS, time_size=TIME_SIZE, hidden=())  # type: ignore[arg-type]
        works = {
            "plain loop": training_step(PlainUNet(kernel_size)),
            "layers of torch": with_layers_of_torch(training_step(ours)),
            "ours": training_step(ours),
        }
        taken = dict(zip(works, interleaved_medians(list(works.values()), seconds=SECONDS), strict=True))
        name = f"kernels of {kernel_size}"
        for who, seconds in taken.items():
            rows.append({"name": f"{name}, {who}", "value": 1e3 * seconds, "unit": "ms"})
        for who in ("plain loop", "layers of torch"):
            rows.append({"name": f"{name}, {who} / ours", "value": taken[who] / taken["ours"], "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
