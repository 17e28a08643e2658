"""What the optimal coupling of noise and chunks costs in an update, and how much nearer it brings them.

    python benchmarks/coupling.py [json=FILE]

One assignment for a batch of random chunks of 16 steps with 2 and with 7 dimensions.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from recede.benchmarks.measure import Row, interleaved_medians, output, report
from recede.policy.denoising.coupling import optimal

SIZES = 64, 128, 256, 512
"""Numbers of windows in a batch."""
SECONDS = 3.0
"""How long each batch is coupled again and again."""


def main() -> None:
    """Measure every batch and print the table."""
    path, rows = output(sys.argv[1:]), list[Row]()
    generator = torch.Generator().manual_seed(0)
    for dimensions in (2, 7):
        for size in SIZES:
            x_0 = torch.rand(size, 16, dimensions, generator=generator) * 2 - 1
            noise = torch.randn(1, size, 16, dimensions, generator=generator)
            (seconds,) = interleaved_medians([partial(optimal, noise, x_0)], seconds=SECONDS)
            nearer = ((optimal(noise, x_0) - x_0).square().sum() / (noise - x_0).square().sum()).item()
            name = f"{size} chunks of 16 x {dimensions}"
            rows.append({"name": name, "value": 1e3 * seconds, "unit": "ms"})
            rows.append({"name": f"{name}, squared distance", "value": nearer, "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
