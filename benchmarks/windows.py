"""Training windows per second, ours and those of a DataLoader that builds one sample at a time.

    python benchmarks/windows.py [json=FILE]

The data have the sizes of the human Push-T demonstrations: 206 episodes, 25,650 steps of 20 observed numbers and 2 of
action.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, best_rate, output, report
from recede.datasets.windows import Windows
from recede.specification import Horizons, Specification, Stream
from torch.utils.data import DataLoader, Dataset

BATCH_SIZE = 256
HORIZONS = Horizons(observation=2, prediction=16, action=8)
SPECIFICATION = Specification((Stream("state", (20,)),), Stream("action", (2,)), control_dt=0.1)


class InMemory:
    """Random demonstrations."""

    specification = SPECIFICATION

    def __init__(self, num_episodes: int = 206, num_steps: int = 25_650) -> None:
        rng = np.random.default_rng(0)
        inner = rng.choice(np.arange(1, num_steps // 10), num_episodes - 1, replace=False) * 10
        self.episode_ends = np.append(np.sort(inner), num_steps).astype(np.int64)
        self.episode_seeds = np.full(num_episodes, -1, dtype=np.int64)
        self._rows = {
            stream.name: rng.normal(size=(num_steps, *stream.shape)).astype(stream.dtype)
            for stream in SPECIFICATION.streams
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of a stream."""
        return self._rows[name][start:stop]


class Samples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One window at a time, as is usual: slice the episode, pad its ends by repetition."""

    def __init__(self, demonstrations: InMemory) -> None:
        self.state = torch.from_numpy(demonstrations.read("state"))
        self.action = torch.from_numpy(demonstrations.read("action"))
        ends = demonstrations.episode_ends.tolist()
        self.windows = [
            (current, first, end)
            for first, end in zip([0, *ends], ends, strict=False)
            for current in range(first, end - HORIZONS.action + 1)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        current, first, end = self.windows[index]
        start = current - HORIZONS.observation + 1
        stop = start + HORIZONS.prediction
        before, after = max(first - start, 0), max(stop - end, 0)
        state, action = (stream[max(start, first) : min(stop, end)] for stream in (self.state, self.action))
        if before or after:
            state, action = (
                torch.cat([rows[:1].expand(before, -1), rows, rows[-1:].expand(after, -1)]) for rows in (state, action)
            )
        return state[: HORIZONS.observation], action


def ours(windows: Windows) -> int:
    """An epoch of shuffled batches."""
    order = torch.randperm(len(windows))
    for indices in order.split(BATCH_SIZE):
        windows.batch(indices)
    return len(windows)


def theirs(loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """The same epoch from a loader."""
    return sum(len(action) for _, action in loader)


def main() -> None:
    """Measure both and print the table."""
    path = output(sys.argv[1:])
    demonstrations = InMemory()
    windows, samples = Windows(demonstrations, HORIZONS), Samples(demonstrations)
    assert len(windows) == len(samples)

    def loader(num_workers: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(
            samples,
            batch_size=BATCH_SIZE,
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    rate = best_rate(lambda: ours(windows), seconds=3)
    rates = {num_workers: _rate_of(loader(num_workers)) for num_workers in (0, 2)}
    rows: list[Row] = [{"name": "windows, gathered by batch", "value": rate, "unit": "windows/s"}]
    for num_workers, found in rates.items():
        rows.append({"name": f"windows, DataLoader with {num_workers} workers", "value": found, "unit": "windows/s"})
    rows.append({"name": "gathered / best DataLoader", "value": rate / max(rates.values()), "unit": "x"})
    report(rows, path)


def _rate_of(loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> float:
    return best_rate(lambda: theirs(loader), seconds=3)


if __name__ == "__main__":
    main()
