"""Training windows per second: recede's windows, and a DataLoader that builds one sample at a time.

    python benchmarks/windows.py [json=FILE]

The data has the size of the human Push-T demonstrations: 206 episodes with 25,650 steps of 20 observed numbers and 2
action numbers. For images it has 5,130 steps of 96 x 96 pixels; each window holds two frames, in one random crop of
84 x 84. The DataLoader's workers have shared memory and take the crop of each sample as a slice.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, best_rate, output, report
from recede.configs.augmentation import AugmentationConfig
from recede.datasets.augmentation import Augmentation
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.windows import Windows
from recede.specification import Horizons, Specification, Stream
from torch.utils.data import DataLoader, Dataset

SECONDS = 3.0
"""How long epochs of one kind are repeated."""
SIZES = {"low-dimensional": (206, 25_650), "image": (41, 5_130)}
"""Name -> episodes and steps."""
HORIZONS = Horizons(observation=2, prediction=16, action=8)
STATE = Specification((Stream("state", (20,)),), Stream("action", (2,)), control_dt=0.1)
IMAGE = Specification((Stream("image", (96, 96, 3), "uint8"),), Stream("action", (2,)), control_dt=0.1)
CROP = AugmentationConfig().build((84, 84))
COLOURS = AugmentationConfig(brightness=0.2, contrast=0.2, saturation=0.2).build((84, 84))
ROTATION = AugmentationConfig(rotation=5.0).build((84, 84))


class InMemory(Demonstrations):
    """Random demonstrations."""

    path = Path()

    def __init__(self, specification: Specification, num_episodes: int, num_steps: int) -> None:
        self.specification = specification
        rng = np.random.default_rng(0)
        inner = rng.choice(np.arange(1, num_steps // 10), num_episodes - 1, replace=False) * 10
        self.episode_ends = np.append(np.sort(inner), num_steps).astype(np.int64)
        self.episode_seeds = np.full(num_episodes, -1, dtype=np.int64)
        self._rows = {
            stream.name: (100 * rng.random(size=(num_steps, *stream.shape), dtype="float32")).astype(stream.dtype)
            for stream in specification.streams
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """The rows of a stream from `start` to `stop`."""
        return self._rows[name][start:stop]


class Samples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One window at a time, as usual: slice the episode and repeat the actions at its ends."""

    def __init__(self, demonstrations: InMemory) -> None:
        self.observed = torch.from_numpy(demonstrations.read(demonstrations.specification.observations[0].name))
        self.is_image = self.observed.dtype == torch.uint8
        self.action = torch.from_numpy(demonstrations.read("action"))
        self.windows = [
            (current, first, end)
            for first, end in map(demonstrations.bounds, range(len(demonstrations)))
            for current in range(first, end - HORIZONS.action + 1)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        current, first, end = self.windows[index]
        start = current - HORIZONS.observation + 1
        stop = start + HORIZONS.prediction
        before, after = max(first - start, 0), max(stop - end, 0)
        action = self.action[max(start, first) : min(stop, end)]
        if before or after:
            action = torch.cat([action[:1].expand(before, -1), action, action[-1:].expand(after, -1)])
        observed = self.observed[[max(step, first) for step in range(start, current + 1)]]
        if self.is_image:
            top, left = torch.randint(96 - 84 + 1, (2,)).tolist()
            observed = observed[:, top : top + 84, left : left + 84]
        return observed, action


def gather(windows: Windows, batch_size: int, augmentation: Augmentation = CROP) -> int:
    """Gather an epoch of shuffled batches and augment their images."""
    generator = torch.Generator()
    for indices in torch.randperm(len(windows)).split(batch_size):
        augmentation(windows.batch(indices).observation, generator)
    return len(windows)


def load(loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Load the same epoch from a DataLoader."""
    return sum(len(action) for _, action in loader)


def compare(name: str, demonstrations: InMemory, batch_size: int) -> list[Row]:
    """The rates of recede's windows and of the DataLoader without and with workers, and their ratio."""
    windows, samples = Windows(demonstrations, HORIZONS), Samples(demonstrations)
    assert len(windows) == len(samples)

    def loader(num_workers: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(
            samples,
            batch_size=batch_size,
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    rate = best_rate(lambda: gather(windows, batch_size), seconds=SECONDS)
    rates = {num_workers: _rate_of(loader(num_workers)) for num_workers in (0, 2)}
    rows: list[Row] = [{"name": f"{name} windows, gathered by batch", "value": rate, "unit": "windows/s"}]
    for workers, loader_rate in rates.items():
        row_name = f"{name} windows, DataLoader with {workers} workers"
        rows.append({"name": row_name, "value": loader_rate, "unit": "windows/s"})
    rows.append({"name": f"{name}: gathered / best DataLoader", "value": rate / max(rates.values()), "unit": "x"})
    if samples.is_image:
        for change, augmentation in (("colours", COLOURS), ("rotation", ROTATION)):
            augmented_rate = best_rate(partial(gather, windows, batch_size, augmentation), seconds=SECONDS)
            row_name = f"{name} windows, gathered, with {change}"
            rows.append({"name": row_name, "value": augmented_rate, "unit": "windows/s"})
    return rows


def _rate_of(loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> float:
    return best_rate(lambda: load(loader), seconds=SECONDS)


def main() -> None:
    """Measure both and print the table."""
    path = output(sys.argv[1:])
    rows = compare("low-dimensional", InMemory(STATE, *SIZES["low-dimensional"]), batch_size=256)
    report(rows + compare("image", InMemory(IMAGE, *SIZES["image"]), batch_size=64), path)


if __name__ == "__main__":
    main()
