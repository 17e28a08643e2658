"""Training windows per second: recede's, in memory and mapped from a file, and a DataLoader of one sample at a time.

    python benchmarks/windows.py [json=FILE]

The data has the size of the human Push-T demonstrations: 206 episodes with 25,650 steps of 20 observed numbers and 2
action numbers. For images it has 5,130 steps of 96 x 96 pixels; each window holds two frames, in one random crop of
84 x 84. The DataLoader's workers have shared memory and take the crop of each sample as a slice. Mapped files are in
the cache of the system, as they are after the first epoch if there is room.

Then each grows: four times the windows, two and four streams, images of half and twice the side. Last, a store of a
moving scene with the noise of a camera, in each compression: its size, the images a second that a first epoch decodes
in turn, and the windows a second that are read from it at random, without a cache.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, best_rate, output, report
from recede.configs.augmentation import AugmentationConfig
from recede.datasets.augmentation import Augmentation
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.windows import Loaded, Windows
from recede.specification import Horizons, Specification, Stream
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from recede.datasets.store import DemonstrationStore

SECONDS = 3.0
"""How long epochs of one kind are repeated."""
SIZES = {"low-dimensional": (206, 25_650), "image": (41, 5_130)}
"""Name -> episodes and steps."""
HORIZONS = Horizons(observation=2, prediction=16, action=8)
STATE = Specification((Stream("state", (20,)),), Stream("action", (2,)), control_dt=0.1)
IMAGE = Specification((Stream("image", (96, 96, 3), "uint8"),), Stream("action", (2,)), control_dt=0.1)
GROWING_SECONDS = 1.0
"""Likewise, for each size of data that grows."""
FILMED = (4, 128)
"""Episodes, and steps of each, of the compressed stores."""
READS = 64
"""Windows that are read from a compressed store at random."""
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


class Samples(Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """One window at a time, as usual: slice the episode and repeat the actions at its ends."""

    def __init__(self, demonstrations: InMemory) -> None:
        names = [stream.name for stream in demonstrations.specification.observations]
        self.observed = {name: torch.from_numpy(demonstrations.read(name)) for name in names}
        self.action = torch.from_numpy(demonstrations.read("action"))
        self.windows = [
            (current, first, end)
            for first, end in map(demonstrations.bounds, range(len(demonstrations)))
            for current in range(first, end - HORIZONS.action + 1)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        current, first, end = self.windows[index]
        start = current - HORIZONS.observation + 1
        stop = start + HORIZONS.prediction
        before, after = max(first - start, 0), max(stop - end, 0)
        action = self.action[max(start, first) : min(stop, end)]
        if before or after:
            action = torch.cat([action[:1].expand(before, -1), action, action[-1:].expand(after, -1)])
        steps = [max(step, first) for step in range(start, current + 1)]
        return {name: self._cropped(values[steps]) for name, values in self.observed.items()}, action

    @staticmethod
    def _cropped(rows: torch.Tensor) -> torch.Tensor:
        """A crop of images, of 7/8 of each side; vectors as they are."""
        if rows.dtype != torch.uint8:
            return rows
        side = rows.shape[1] * 7 // 8
        top, left = torch.randint(rows.shape[1] - side + 1, (2,)).tolist()
        return rows[:, top : top + side, left : left + side]


def gather(windows: Windows, batch_size: int, augmentation: Augmentation = CROP) -> int:
    """Gather an epoch of shuffled batches and augment their images."""
    generator = torch.Generator()
    for indices in torch.randperm(len(windows)).split(batch_size):
        augmentation(windows.batch(indices).observation, generator)
    return len(windows)


def load(loader: DataLoader[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> int:
    """Load the same epoch from a DataLoader."""
    return sum(len(action) for _, action in loader)


def compare(name: str, demonstrations: InMemory, batch_size: int) -> list[Row]:
    """The rates of recede's windows and of the DataLoader without and with workers, and their ratio."""
    windows, samples = Windows(demonstrations, HORIZONS), Samples(demonstrations)
    assert len(windows) == len(samples)

    rate = best_rate(partial(gather, windows, batch_size), seconds=SECONDS)
    rates = {num_workers: rate_of_loader(samples, batch_size, num_workers, SECONDS) for num_workers in (0, 2)}
    rows: list[Row] = [{"name": f"{name} windows, gathered by batch", "value": rate, "unit": "windows/s"}]
    with tempfile.TemporaryDirectory() as folder:
        from_file = mapped(windows, demonstrations, Path(folder))
        mapped_rate = best_rate(partial(gather, from_file, batch_size), seconds=SECONDS)
    rows.append({"name": f"{name} windows, gathered from a mapped file", "value": mapped_rate, "unit": "windows/s"})
    rows.append({"name": f"{name}: mapped / in memory", "value": mapped_rate / rate, "unit": "x"})
    for workers, loader_rate in rates.items():
        row_name = f"{name} windows, DataLoader with {workers} workers"
        rows.append({"name": row_name, "value": loader_rate, "unit": "windows/s"})
    rows.append({"name": f"{name}: gathered / best DataLoader", "value": rate / max(rates.values()), "unit": "x"})
    if demonstrations.specification is IMAGE:
        for change, augmentation in (("colours", COLOURS), ("rotation", ROTATION)):
            augmented_rate = best_rate(partial(gather, windows, batch_size, augmentation), seconds=SECONDS)
            row_name = f"{name} windows, gathered, with {change}"
            rows.append({"name": row_name, "value": augmented_rate, "unit": "windows/s"})
    return rows


def mapped(windows: Windows, demonstrations: Demonstrations, folder: Path) -> Windows:
    """The same windows, with every stream mapped from a file."""
    other, names = copy(windows), [stream.name for stream in demonstrations.specification.streams]
    other.loaded = Loaded(demonstrations, torch.device("cpu"), dict.fromkeys(names, "mapped"), folder)
    return other


def rate_of_loader(samples: Samples, batch_size: int, num_workers: int, seconds: float) -> float:
    """Windows a second of a DataLoader."""
    loader = DataLoader(
        samples, batch_size=batch_size, shuffle=True, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    return best_rate(lambda: load(loader), seconds=seconds)


def grown() -> Iterator[tuple[str, InMemory, int]]:
    """Data of other sizes, each with its name and the size of a batch."""
    (episodes, steps), (filmed, frames) = SIZES["low-dimensional"], SIZES["image"]
    state, camera = STATE.observations[0], IMAGE.observations[0]
    yield "low-dimensional, 4 x the windows", InMemory(STATE, 4 * episodes, 4 * steps), 256
    for count in (2, 4):
        streams = tuple(replace(state, name=f"state_{index}") for index in range(count))
        yield f"low-dimensional, {count} streams", InMemory(replace(STATE, observations=streams), episodes, steps), 256
    for count in (2, 4):
        streams = tuple(replace(camera, name=f"image_{index}") for index in range(count))
        yield f"image, {count} cameras", InMemory(replace(IMAGE, observations=streams), filmed, frames), 64
    for side in (48, 192):
        stream = replace(camera, shape=(side, side, 3))
        yield f"image, {side} x {side}", InMemory(replace(IMAGE, observations=(stream,)), filmed, frames), 64


def growth() -> list[Row]:
    """The rates of all three for data that grow."""
    rows = list[Row]()
    for name, demonstrations, batch_size in grown():
        windows, samples = Windows(demonstrations, HORIZONS), Samples(demonstrations)
        image = next((s for s in demonstrations.specification.observations if s.is_image), None)
        side = 0 if image is None else image.shape[0] * 7 // 8
        crop = AugmentationConfig().build((side, side) if side else None)
        with tempfile.TemporaryDirectory() as folder:
            from_file = mapped(windows, demonstrations, Path(folder))
            rates = {
                "in memory": best_rate(partial(gather, windows, batch_size, crop), seconds=GROWING_SECONDS),
                "mapped": best_rate(partial(gather, from_file, batch_size, crop), seconds=GROWING_SECONDS),
                "DataLoader": rate_of_loader(samples, batch_size, 0, GROWING_SECONDS),
            }
            rows += [Row(name=f"{name}, {how}", value=rate, unit="windows/s") for how, rate in rates.items()]
    return rows


def filmed_episode(seed: int, length: int) -> NDArray[np.uint8]:
    """A disc that moves before a smooth background, with the noise of a camera: (L, 96, 96, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :96] / 96
    background = np.stack([120 + 50 * np.sin(7 * rows + shift) + 40 * np.cos(9 * columns) for shift in range(3)], -1)
    images = np.empty((length, 96, 96, 3), np.uint8)
    for step in range(length):
        centre = 0.5 + 0.3 * np.array([np.sin(step / 30 + seed), np.cos(step / 40)])
        is_disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 0.02
        scene = np.where(is_disc[..., None], [220.0, 60, 40], background) + rng.normal(0, 2, (96, 96, 3))
        images[step] = scene.clip(0, 255).astype(np.uint8)
    return images


def compressed() -> list[Row]:
    """The size of an image, and how fast images and windows are read, for each compression."""
    from recede.datasets.image_codec import IMAGE_COMPRESSIONS  # a bare machine with a GPU has no zarr
    from recede.datasets.store import DemonstrationStore

    episodes, length = FILMED
    rows, films = list[Row](), [filmed_episode(seed, length) for seed in range(episodes)]
    for images in IMAGE_COMPRESSIONS:
        with tempfile.TemporaryDirectory() as folder:
            store = DemonstrationStore.create(Path(folder) / "filmed.zarr", IMAGE, images=images)
            for film in films:
                store.append({"image": film, "action": np.zeros((length, 2), np.float32)})
            files = [file for file in (store.path / "data/image").rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in files) / store.num_steps
            error = store.read("image").astype(np.float32) - np.concatenate(films)
            in_turn = best_rate(partial(read_in_turn, store), seconds=GROWING_SECONDS)
            at_random = best_rate(partial(read_at_random, store), seconds=GROWING_SECONDS)
        rows += [
            Row(name=f"{images}, an image of 96 x 96", value=size, unit="bytes"),
            Row(name=f"{images}, mean change of a pixel", value=float(np.abs(error).mean()), unit="levels"),
            Row(name=f"{images}, decoded in turn", value=in_turn, unit="images/s"),
            Row(name=f"{images}, read at random", value=at_random, unit="windows/s"),
        ]
    return rows


def read_in_turn(store: DemonstrationStore) -> int:
    """Read all images."""
    return len(store.read("image"))


def read_at_random(store: DemonstrationStore) -> int:
    """Read the two images of some windows, each from the store."""
    for step in np.random.default_rng(0).integers(0, store.num_steps - 1, READS).tolist():
        store.read("image", step, step + 2)
    return READS


def main() -> None:
    """Measure both and print the table."""
    path = output(sys.argv[1:])
    rows = compare("low-dimensional", InMemory(STATE, *SIZES["low-dimensional"]), batch_size=256)
    rows += compare("image", InMemory(IMAGE, *SIZES["image"]), batch_size=64)
    report(rows + growth() + compressed(), path)


if __name__ == "__main__":
    main()
