"""Statistics of streams as LeRobot keeps them, in one pass and in memory that does not grow with the steps.

Everything is exact, except the quantiles of vectors of more than `SAMPLE_BYTES`: these are of evenly spaced steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)
"""The statistics of a feature."""

SAMPLE_BYTES = 2**24
"""Steps whose values fill less are all kept for the quantiles; of more, every second, fourth, ... step."""


class VectorStatistics:
    """Statistics of each of D dimensions."""

    def __init__(self, size: int) -> None:
        self._count, self._stride, self._most = 0, 1, max(SAMPLE_BYTES // (8 * size), 2)
        self._low, self._high = np.full(size, math.inf), np.full(size, -math.inf)
        self._mean, self._squares = np.zeros(size), np.zeros(size)
        self._kept, self._num_kept = list[NDArray[np.float64]](), 0

    def add(self, rows: NDArray[Any]) -> None:
        """Count rows (L, D), L > 0, which follow those before. Means are joined as in Chan, Golub and LeVeque 1979."""
        values, before = rows.astype(np.float64), self._count
        self._count += len(values)
        self._low, self._high = np.minimum(self._low, values.min(0)), np.maximum(self._high, values.max(0))
        shift = values.mean(0) - self._mean
        self._squares += ((values - values.mean(0)) ** 2).sum(0) + shift**2 * (before * len(values) / self._count)
        self._mean = self._mean + shift * (len(values) / self._count)
        self._kept.append(values[-before % self._stride :: self._stride].copy())  # a view would keep all rows
        self._num_kept += len(self._kept[-1])
        while self._num_kept > self._most:
            self._kept, self._stride = [np.concatenate(self._kept)[::2].copy()], self._stride * 2
            self._num_kept = len(self._kept[0])

    def result(self) -> dict[str, list[Any]]:
        """Statistic -> its value for each dimension."""
        quantiles = np.quantile(np.concatenate(self._kept), list(QUANTILES.values()), axis=0)
        std = np.sqrt(self._squares / self._count)
        values = (self._low, self._high, self._mean, std, np.array([self._count]), *quantiles)
        return {name: value.tolist() for name, value in zip(STATISTICS, values, strict=True)}


class ImageStatistics:
    """Statistics of each channel, over all pixels of all images, as numbers in [0, 1]."""

    def __init__(self, channels: int) -> None:
        self._frames = 0
        self._histogram = np.zeros((channels, 256), np.int64)

    def add(self, rows: NDArray[Any]) -> None:
        """Count images (L, H, W, C) of uint8."""
        self._frames += len(rows)
        for image in rows:
            for channel, histogram in enumerate(self._histogram):
                histogram += np.bincount(image[..., channel].reshape(-1), minlength=256)

    def result(self) -> dict[str, list[Any]]:
        """Statistic -> its value for each channel, (C, 1, 1); the count is that of images."""
        values, pixels = np.arange(256) / 255, self._histogram.sum(1)
        mean = self._histogram @ values / pixels
        squares = (self._histogram * (values - mean[:, None]) ** 2).sum(1)
        ends = np.cumsum(self._histogram, 1)
        low, high = ((ends > 0).argmax(1) / 255, (ends == pixels[:, None]).argmax(1) / 255)
        quantiles = [np.array([_quantile(row, q) for row in ends]) for q in QUANTILES.values()]
        results = {"min": low, "max": high, "mean": mean, "std": np.sqrt(squares / pixels)}
        results |= dict(zip(QUANTILES, quantiles, strict=True))
        results["count"] = np.array([self._frames])
        return {
            name: (results[name] if name == "count" else results[name][:, None, None]).tolist() for name in STATISTICS
        }


def _quantile(ends: NDArray[np.int64], q: float) -> float:
    """The quantile of values 0 .. 255 with cumulated counts (256,), between two neighbours as in `np.quantile`."""
    place = q * (int(ends[-1]) - 1)
    low, high = (int(np.searchsorted(ends, number, side="right")) for number in (math.floor(place), math.ceil(place)))
    return (low + (high - low) * (place - math.floor(place))) / 255
