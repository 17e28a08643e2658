"""The windows of each batch, as a function of (seed, step) alone.

Shapes: W windows of all datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


def mix_seeds(*numbers: int) -> int:
    """Hash several numbers into a well-spread 63-bit seed.

    A CPU generator of torch uses only the lower 32 bits. Among n seeds, two therefore coincide with a probability of
    about n^2 / 2^33: 0.4 % for the two seeds of each of 3,000 steps.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Mix(NamedTuple):
    """How often the windows of several datasets are drawn."""

    windows: list[torch.Tensor]
    """For each dataset, the indices of its windows."""
    draws: list[int]
    """For each dataset, how many of the W draws of an epoch are from it."""


def mixed(datasets: Sequence[str], dataset_of: NDArray[np.int64], weights: Sequence[float]) -> Mix:
    """The mix in which a share weights[i] / sum(weights) of the draws is from dataset i, rounded to a draw an epoch.

    dataset_of: for each window, the index of its dataset (W,).

    Raises ValueError if a dataset has no window, or would have no draw.
    """
    windows = [torch.from_numpy(np.flatnonzero(dataset_of == index)) for index in range(len(datasets))]
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    ends = np.rint(np.cumsum(shares) * len(dataset_of)).astype(int)
    draws = np.diff(ends, prepend=0).tolist()
    for name, indices, count, share in zip(datasets, windows, draws, shares, strict=True):
        if not len(indices):
            raise ValueError(f"{name} has no window to learn from, so it can have no weight: leave it out")
        if not count:
            raise ValueError(
                f"{name} has a share of {share:.3g} by its weight, less than one of {len(dataset_of)} windows: give it "
                "a larger weight, or leave it out"
            )
    return Mix(windows, draws)


class Order:
    """The windows of each step: a new permutation every epoch, a function of (seed, step) alone.

    An epoch draws W windows: each once; or with a `mix`, as many of each dataset as it says. The windows of a dataset
    are then drawn in passes over all of them, each in a new order, and a pass goes on in the next epoch.

    Windows that do not fill the last batch of an epoch are skipped in that epoch. The permutation is drawn on the CPU,
    so it is the same for every device; it goes to `device` once an epoch, so that a step does not wait for its indices.
    """

    def __init__(
        self,
        num_windows: int,
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        *,
        mix: Mix | None = None,
    ) -> None:
        self.batch_size, self.seed, self.device = min(batch_size, num_windows), seed, device
        self.num_windows, self.num_batches, self.mix = num_windows, num_windows // self.batch_size, mix
        self._epoch, self._permutation = -1, torch.empty(0)

    def indices(self, step: int) -> torch.Tensor:
        """Indices of the windows in the batch of a step."""
        epoch, batch = divmod(step, self.num_batches)
        if epoch != self._epoch:
            permutation = self._permuted(self.num_windows, 0, epoch)
            if self.mix is not None:
                permutation = self._drawn(self.mix, epoch)[permutation]
            self._epoch, self._permutation = epoch, permutation.to(self.device)
        return self._permutation[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _permuted(self, size: int, *purpose: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, *purpose))
        return torch.randperm(size, generator=generator)

    def _drawn(self, mix: Mix, epoch: int) -> torch.Tensor:
        """The windows of an epoch (W,), dataset after dataset."""
        drawn = list[torch.Tensor]()
        for index, (windows, count) in enumerate(zip(mix.windows, mix.draws, strict=True)):
            size, first = len(windows), epoch * count
            passes = range(first // size, (first + count - 1) // size + 1)
            orders = torch.cat([self._permuted(size, 3, index, number) for number in passes])
            begin = first - passes[0] * size
            drawn.append(windows[orders[begin : begin + count]])
        return torch.cat(drawn)
