"""Look at demonstrations before training on them: what is in them, in words and in a picture, and what looks wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import Stream
from .statistics import Statistics, statistics
from .store import Demonstrations

JUMP = 0.5
"""A change from one step to the next of more than this share of a dimension's range is a jump."""


def lengths(demonstrations: Demonstrations) -> NDArray[np.int64]:
    """Steps of each episode."""
    return np.diff(demonstrations.episode_ends, prepend=0)


def describe(demonstrations: Demonstrations) -> list[str]:
    """Streams, shapes, units, ranges and episode lengths, as lines of text."""
    steps = lengths(demonstrations)
    if not len(steps):
        return ["no episodes yet"]
    dt = demonstrations.specification.control_dt
    lines = [
        f"{len(steps)} episodes, {steps.sum()} steps of {dt:g} s ({steps.sum() * dt / 60:.1f} min)",
        f"episode length: min {steps.min()}, median {np.median(steps):g}, max {steps.max()} steps",
        "",
        f"{'stream':<24}{'units':<8}{'min':>11}{'mean':>11}{'max':>11}{'std':>11}   limits",
    ]
    for stream in demonstrations.specification.streams:
        lines += _rows(stream, statistics(demonstrations, stream.name, range(len(steps))))
    return lines


def _rows(stream: Stream, found: Statistics) -> list[str]:
    if len(stream.shape) != 1:
        title = f"{stream.name} {stream.dtype}{list(stream.shape)}"
        return [f"{title:<32}{found.low.min():>11.4g}{found.mean.mean():>11.4g}{found.high.max():>11.4g}"]
    lines = []
    for index in range(stream.size):
        units = stream.units[index] if stream.units else ""
        limits = f"[{stream.low[index]:g}, {stream.high[index]:g}]" if stream.low else "unknown"
        values = "".join(f"{value[index]:>11.4g}" for value in (found.low, found.mean, found.high, found.std))
        lines.append(f"{stream.label(index):<24}{units:<8}{values}   {limits}")
    return lines


def warnings(demonstrations: Demonstrations, *, action_horizon: int = 8) -> list[str]:
    """What looks wrong: constant dimensions, jumps, NaN, values outside the limits, episodes too short to train on."""
    steps = lengths(demonstrations)
    found = [
        f"episode {index} has {steps[index]} steps, fewer than the {action_horizon} that are executed at once: it is not trained on"
        for index in np.flatnonzero(steps < action_horizon)
    ]
    for stream in demonstrations.specification.streams:
        if len(steps) and len(stream.shape) == 1:
            found += _of_stream(stream, demonstrations.read(stream.name), demonstrations.episode_ends)
    return found


def _of_stream(stream: Stream, rows: NDArray[Any], ends: NDArray[np.int64]) -> list[str]:
    found = []
    broken = ~np.isfinite(rows)
    for index in np.flatnonzero(broken.any(axis=0)):
        found.append(f"{stream.label(index)}: {broken[:, index].sum()} values are NaN or infinite, the first at step {broken[:, index].argmax()}")
    span = np.ptp(rows, axis=0).astype(np.float64)
    found += [f"{stream.label(index)} is constant at {rows[0, index]:g}" for index in np.flatnonzero(span == 0)]
    if stream.low:
        outside = (rows < np.float32(stream.low)) | (rows > np.float32(stream.high))
        for index in np.flatnonzero(outside.any(axis=0)):
            found.append(
                f"{stream.label(index)}: {outside[:, index].sum()} of {len(rows)} values are outside the limits "
                f"[{stream.low[index]:g}, {stream.high[index]:g}], the first at step {outside[:, index].argmax()}"
            )
    change = np.abs(np.diff(rows.astype(np.float64), axis=0))
    change[ends[:-1] - 1] = 0  # from one episode to the next
    jumps = change > JUMP * np.where(span > 0, span, np.inf)
    for index in np.flatnonzero(jumps.any(axis=0)):
        found.append(
            f"{stream.label(index)} jumps by more than {JUMP:.0%} of its range in {jumps[:, index].sum()} steps, "
            f"the first after step {jumps[:, index].argmax()}"
        )
    return found


def draw(demonstrations: Demonstrations, path: Path, *, most: int = 50) -> None:
    """A picture of every dimension over time, at most `most` episodes laid over one another, and of the lengths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    streams = [stream for stream in demonstrations.specification.streams if len(stream.shape) == 1]
    panels = [(stream, index) for stream in streams for index in range(stream.size)]
    columns = 4
    rows = -(-(len(panels) + 1) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    ends = demonstrations.episode_ends
    chosen = np.unique(np.linspace(0, len(ends) - 1, min(most, len(ends))).astype(int))
    values = {stream.name: demonstrations.read(stream.name) for stream in streams}
    seconds = np.arange(lengths(demonstrations).max()) * demonstrations.specification.control_dt
    for axis, (stream, index) in zip(axes, panels, strict=False):
        for episode in chosen:
            piece = values[stream.name][ends[episode - 1] if episode else 0 : ends[episode], index]
            axis.plot(seconds[: len(piece)], piece, lw=0.6, alpha=0.5, color="C1" if stream.name == "action" else "C0")
        units = f" ({stream.units[index]})" if stream.units else ""
        axis.set_title(f"{stream.label(index)}{units}", fontsize=9)
        axis.tick_params(labelsize=7)
    axes[len(panels)].hist(lengths(demonstrations), bins=20, color="0.6")
    axes[len(panels)].set_title("episode length (steps)", fontsize=9)
    axes[len(panels)].tick_params(labelsize=7)
    for axis in axes[len(panels) + 1 :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=110)
