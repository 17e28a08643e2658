"""Look at demonstrations before training on them: what is in them, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..specification import Stream
from .demonstrations import Demonstrations
from .normalisation import floor, still
from .statistics import Statistics, statistics

JUMP = 0.5
"""A change from one step to the next of more than this share of a dimension's range is a jump."""

FEW = 10
"""Episodes whose images are looked at: decoding all of them can take minutes."""

HABIT = 0.5
"""What this share of the episodes does is how a dimension works, not a fault: a gripper snaps open and shut."""


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
        chosen = evenly(len(steps), FEW) if stream.is_image else range(len(steps))
        lines += _rows(stream, statistics(demonstrations, stream.name, chosen))
    return lines


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()


def _rows(stream: Stream, found: Statistics) -> list[str]:
    if len(stream.shape) != 1:
        title = f"{stream.name} {stream.dtype}{list(stream.shape)}"
        note = f"   in {FEW} episodes at most" if stream.is_image else ""
        return [f"{title:<32}{found.low.min():>11.4g}{found.mean.mean():>11.4g}{found.high.max():>11.4g}{note}"]
    lines: list[str] = []
    bounds = np.array([stream.low, stream.high])
    for index in range(stream.size):
        units = stream.units[index] if stream.units else ""
        limits = f"[{bounds[0, index]:g}, {bounds[1, index]:g}]" if stream.low else "unknown"
        values = "".join(f"{value[index]:>11.4g}" for value in (found.low, found.mean, found.high, found.std))
        lines.append(f"{stream.label(index):<24}{units:<8}{values}   {limits}")
    return lines


def warnings(demonstrations: Demonstrations, *, action_horizon: int = 8) -> list[str]:
    """What looks wrong: episodes too short to train on; still dimensions, jumps, NaN, values outside the limits.

    Still is what training takes for still (`datasets.normalisation`), here over all episodes.
    """
    steps = lengths(demonstrations)
    found = [
        f"episode {index} has {steps[index]} steps, fewer than the {action_horizon} that are executed at once: "
        "it is not trained on"
        for index in np.flatnonzero(steps < action_horizon)
    ]
    for stream in demonstrations.specification.streams:
        if not len(steps) or len(stream.shape) != 1:
            continue
        rows = demonstrations.read(stream.name)
        exact = rows.dtype if rows.dtype.kind == "f" else np.float64
        limits = np.array([stream.low, stream.high]).astype(exact).astype(np.float64)  # as values of the stream are
        seen = np.stack([rows.min(axis=0), rows.max(axis=0)]).astype(np.float64)
        seen[:, ~np.isfinite(seen).all(axis=0)] = np.nan  # neither still nor moving
        least = floor(stream, *seen)
        found += [f"{name} {what}" for name, what in still(stream, seen[0], seen[1], least).items()]
        for index in range(stream.size):
            values = rows[:, index].astype(np.float64)
            what_is_wrong = _of_dimension(values, limits[:, index : index + 1], demonstrations, least.width[index])
            found += [f"{stream.label(index)} {what}" for what in what_is_wrong]
    return found


def _of_dimension(
    values: NDArray[np.float64], limits: NDArray[np.float64], demonstrations: Demonstrations, floor: float
) -> Iterator[str]:
    """What looks wrong in one dimension (T,); limits: (2, 1), or (2, 0) where they are unknown."""
    ends = demonstrations.episode_ends

    def first(wrong: NDArray[np.bool_]) -> str:
        step = int(wrong.argmax())
        episode = int(np.searchsorted(ends, step, side="right"))
        return f"the first at step {step - demonstrations.bounds(episode)[0]} of episode {episode}"

    if not (finite := np.isfinite(values)).all():
        yield f"is NaN or infinite in {np.sum(~finite)} of {len(values)} steps, {first(~finite)}"
        return
    for low, high in limits.T:
        if (outside := (values < low) | (values > high)).any():
            count = f"{outside.sum()} of {len(values)} steps"
            yield f"is outside its limits [{low:g}, {high:g}] in {count}, {first(outside)}"
    if (span := np.ptp(values)) <= floor:
        return  # it is still
    jumps = np.abs(np.diff(values, prepend=values[0])) > JUMP * span
    jumps[ends[:-1]] = False  # from one episode to the next
    jumping = np.unique(np.searchsorted(ends, np.flatnonzero(jumps), side="right"))
    if 0 < len(jumping) < HABIT * len(ends):
        yield (
            f"jumps by more than {JUMP:.0%} of its range in {len(jumping)} of {len(ends)} episodes, {first(jumps)}: "
            "an angle that wraps, or a fault of the recording?"
        )


def usual_crop(demonstrations: Demonstrations) -> tuple[int, int] | None:
    """Seven eighths of the sides of the smallest image, as 84 of 96 pixels in Diffusion Policy; None without images."""
    sizes = [stream.shape[:2] for stream in demonstrations.specification.observations if stream.is_image]
    return (7 * min(h for h, _ in sizes) // 8, 7 * min(w for _, w in sizes) // 8) if sizes else None
