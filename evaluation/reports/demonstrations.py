"""Pictures of demonstrations: every dimension over time, and images beside their augmented or converted copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datasets.demonstrations import Demonstrations
from ...datasets.inspection import evenly_spaced
from ...files import whole_file, writing
from ...web.look import colours
from .drawing import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...datasets.augmentation import Augmentation


def draw_demonstrations(demonstrations: Demonstrations, path: Path, *, most: int = 50) -> None:
    """Write a picture of every dimension over time, for at most `most` episodes, and of the lengths of all episodes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    streams = [stream for stream in demonstrations.specification.streams if len(stream.shape) == 1]
    panels = [(stream, index) for stream in streams for index in range(stream.size)]
    columns = 4
    rows = -(-(len(panels) + 1) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    chosen = evenly_spaced(len(demonstrations), most)
    values, look = {stream.name: demonstrations.read(stream.name) for stream in streams}, colours()
    seconds = np.arange(demonstrations.episode_lengths.max()) * demonstrations.specification.control_dt
    for axis, (stream, index) in zip(axes, panels, strict=False):
        for episode in chosen:
            piece = values[stream.name][slice(*demonstrations.bounds(episode)), index]
            axis.plot(
                seconds[: len(piece)], piece, lw=0.6, alpha=0.5, color=look["c0" if stream.name == "action" else "c1"]
            )
        units = f" ({stream.units[index]})" if stream.units else ""
        axis.set_title(f"{stream.label(index)}{units}", fontsize=9)
        axis.tick_params(labelsize=7)
    axes[len(panels)].hist(demonstrations.episode_lengths, bins=20, color=look["soft"])
    axes[len(panels)].set_title("episode length (steps)", fontsize=9)
    axes[len(panels)].tick_params(labelsize=7)
    for axis in axes[: len(panels) + 1]:
        plain(axis)
    for axis in axes[len(panels) + 1 :]:
        axis.set_visible(False)
    _save(figure, path)


def draw_augmented(
    demonstrations: Demonstrations, augmentation: Augmentation, path: Path, *, seed: int = 0, samples: int = 4
) -> None:
    """Write a picture of frames, each beside several augmented copies: their first three channels, or the first one.

    samples: number of frames of each camera, spread evenly over the store. Raises ValueError if there are no images, or
    if a crop does not fit into them.
    """
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cameras = [stream for stream in demonstrations.specification.observations if stream.is_image]
    if not cameras:
        raise ValueError("augment=true needs a store with images, but this one has no stream of images")
    generator = torch.Generator().manual_seed(seed)
    chosen, draws = evenly_spaced(demonstrations.num_steps, samples), 5
    figure = Figure(figsize=(1.6 * (1 + draws), 1.7 * len(cameras) * len(chosen)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cameras) * len(chosen), 1 + draws, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, (stream, step) in zip(axes, ((stream, step) for stream in cameras for step in chosen), strict=True):
        frame = torch.from_numpy(demonstrations.read(stream.name, step, step + 1))
        augmented = augmentation({stream.name: frame.expand(draws, 1, *stream.shape)}, generator)[stream.name][:, 0]
        for axis, image in zip(row, [frame[0], *augmented], strict=True):
            axis.imshow(_rgb(image.numpy()), interpolation="nearest")
        row[0].set_title(f"{stream.name}, step {step}: {stream.shape[0]} x {stream.shape[1]}", fontsize=7)
        row[1].set_title(f"augmented: {augmented.shape[1]} x {augmented.shape[2]}", fontsize=7)
    _save(figure, path)


class Visible(NamedTuple):
    """A frame of a camera, and what an encoder gets of it."""

    camera: str
    frame: NDArray[np.uint8]
    """(H, W, C)."""
    crop: tuple[int, int]
    """(h, w) of the centre that is encoded."""
    encoded: NDArray[np.uint8]
    """(h', w', C): the crop, perhaps resized."""

    @property
    def share(self) -> float:
        """The share of the frame's area that is encoded."""
        return self.crop[0] * self.crop[1] / (self.frame.shape[0] * self.frame.shape[1])


def draw_visible(cameras: Sequence[Visible], path: Path) -> None:
    """Write a picture of each camera's frame, with the crop in it, beside what the encoder gets of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(7, 3.5 * len(cameras)), layout="constrained")
    FigureCanvasAgg(figure)
    for (left, right), entry in zip(figure.subplots(len(cameras), 2, squeeze=False), cameras, strict=True):
        camera, frame, (h, w), encoded = entry
        height, width = frame.shape[:2]
        for axis, image in ((left, frame), (right, encoded)):
            axis.set_axis_off()
            axis.imshow(_rgb(image), interpolation="nearest")
        corner = (width - w) // 2 - 0.5, (height - h) // 2 - 0.5
        left.add_patch(Rectangle(corner, w, h, fill=False, edgecolor="#ff6ac1", linewidth=2))
        left.set_title(f"{camera}: {height} x {width}", fontsize=9)
        right.set_title(
            f"encoded: {entry.share:.0%} of its area, as {encoded.shape[0]} x {encoded.shape[1]}", fontsize=9
        )
    _save(figure, path)


def draw_ends(source: Demonstrations, store: Demonstrations, path: Path) -> None:
    """Write a picture of the first and the last frames of a data set, above those of the store made of it.

    A row is a camera; its columns are the first and the last frame of the first episode, and of the last one. Raises
    ValueError if there are no images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cameras = [stream.name for stream in source.specification.observations if stream.is_image]
    if not cameras:
        raise ValueError(f"{source.path} has no images to draw")
    episodes = sorted({0, len(source) - 1})
    steps = [
        (episode, step) for episode in episodes for step in (source.bounds(episode)[0], source.bounds(episode)[1] - 1)
    ]
    figure = Figure(figsize=(2.2 * len(steps), 4.4 * len(cameras)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(cameras), len(steps), squeeze=False)
    rows = [(name, place) for name in cameras for place in (source, store)]
    for row, (name, place) in zip(axes, rows, strict=True):
        for axis, (episode, step) in zip(row, steps, strict=True):
            axis.imshow(_rgb(place.read(name, step, step + 1)[0]), interpolation="nearest")
            which = "first" if step == source.bounds(episode)[0] else "last"
            axis.set_title(
                f"{name}, {which} of episode {episode}: {'source' if place is source else 'store'}", fontsize=6
            )
            axis.set_axis_off()
    _save(figure, path)


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first three channels of an image (H, W, C), or its first one as grey: (H, W, 3)."""
    return image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)


def _save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all, in the format that its suffix names."""
    with writing(path), whole_file(path) as partial:
        figure.savefig(partial, dpi=110)
