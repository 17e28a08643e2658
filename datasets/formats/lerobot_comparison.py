"""Compare a data set of LeRobot with the demonstrations that it was written from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...progress import watched
from ..converted import Converted
from ..copying import pieces
from ..demonstrations import Demonstrations
from ..mapping import DatasetMapping
from .lerobot import SIDECAR, LeRobot


@dataclass(frozen=True)
class Agreement:
    """How near a camera's video comes to its images (dB, infinite if every pixel is equal)."""

    stream: str
    psnr: float
    """Peak signal-to-noise ratio over all frames."""
    worst: float
    """That of the worst frame."""
    episode: int
    step: int
    """The worst frame."""


def compare(demonstrations: Demonstrations, path: Path) -> list[Agreement]:
    """Read a data set back, and compare it with the demonstrations that it was written from.

    Returns the agreement of each camera that is a video. Raises ValueError for the first value that differs elsewhere.
    """
    dataset = LeRobot(path)
    if dataset.noted_mapping is None:
        raise ValueError(f"{path} was not written by recede convert, it has no {SIDECAR}: convert it to a store")
    converted = Converted(dataset, DatasetMapping.from_json(dataset.noted_mapping, f"{path / SIDECAR}"))
    specification = replace(converted.specification, control_dt=demonstrations.specification.control_dt)
    if differences := demonstrations.specification.differences(specification):
        raise ValueError(f"{path} has other streams than {demonstrations.path}: {'; '.join(differences)}")
    for name, is_equal in {
        "lengths": np.array_equal(converted.episode_ends, demonstrations.episode_ends),
        "seeds": np.array_equal(dataset.episode_seeds, demonstrations.episode_seeds),
        "facts": list(dataset.episode_facts) == list(demonstrations.episode_facts),
    }.items():
        if not is_equal:
            raise ValueError(f"{path}: the {name} of the episodes are not those of {demonstrations.path}: export anew")
    videos = {
        name: _Errors(name) for name, mapped in converted.mapping.streams.items() if dataset.is_video(mapped.keys[0])
    }
    for index in watched(range(len(demonstrations)), "compare", unit="episodes"):
        first = demonstrations.bounds(index)[0]
        step = first
        for piece in pieces(demonstrations, index):
            for name, rows in piece.items():
                got = converted.read(name, step, step + len(rows))
                if name in videos:
                    videos[name].add(rows, got, index, step - first)
                elif not np.array_equal(got, rows):
                    raise ValueError(
                        f"{path}: stream {name!r} of episode {index} does not come back as it was written: check the "
                        "disk, and export anew"
                    )
            step += len(piece["action"])
    return [errors.result() for errors in videos.values()]


class _Errors:
    """The squared errors of a camera."""

    def __init__(self, stream: str) -> None:
        self._stream, self._sum, self._frames = stream, 0.0, 0
        self._worst, self._place = -1.0, (0, 0)

    def add(self, images: NDArray[np.uint8], got: NDArray[np.uint8], episode: int, first: int) -> None:
        for row, (image, other) in enumerate(zip(images, got, strict=True)):
            error = float(np.square(image.astype(np.float32) - other).mean())
            self._sum, self._frames = self._sum + error, self._frames + 1
            if error > self._worst:
                self._worst, self._place = error, (episode, first + row)

    def result(self) -> Agreement:
        return Agreement(self._stream, _psnr(self._sum / max(self._frames, 1)), _psnr(self._worst), *self._place)


def _psnr(error: float) -> float:
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf
