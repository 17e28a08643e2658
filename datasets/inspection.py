"""Inspect demonstrations before training on them: what they hold, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..specification import Stream
from .demonstrations import Demonstrations
from .faults import IMAGE_EPISODES, faults, wraps
from .findings import Fault, Finding, grouped, merged, together
from .normalisation import lost_decimals, resolve_floor, still_dimensions
from .selection import Selected
from .statistics import Statistics, statistics

JUMP = 0.5
"""A step that moves a dimension by more than this share of its range is a jump."""

USUAL = 0.5
"""Jumps in this share of the episodes or more are no fault: a gripper, for example, snaps open and shut."""

MOST_RADIANS = 25.0
"""A joint whose radians span more than this, four turns, is probably in degrees."""

NUMBERS_JUDGED = 2**24
"""Most numbers that `worst` judges, of all vectors: it holds several copies of them."""


def summarise(demonstrations: Demonstrations) -> list[str]:
    """Streams, shapes, units, ranges and episode lengths, as lines of text."""
    steps = demonstrations.episode_lengths
    if not len(steps):
        return ["no episodes yet"]
    dt = demonstrations.specification.control_dt
    rows = list[tuple[str, str]]()
    for stream in demonstrations.specification.streams:
        episodes = evenly_spaced(len(steps), IMAGE_EPISODES) if stream.is_image else range(len(steps))
        rows += _table_rows(stream, statistics(demonstrations, stream.name, episodes))
    width = max(23, *(len(name) for name, _ in rows))
    return [
        f"{len(steps)} episodes, {steps.sum()} steps of {dt:g} s ({steps.sum() * dt / 60:.1f} min)",
        f"episode length: min {steps.min()}, median {np.median(steps):g}, max {steps.max()} steps",
        "",
        f"{'stream':<{width}} {'units':<8}{'min':>11}{'mean':>11}{'max':>11}{'std':>11}   {'limits':<16}kind",
        *(f"{name:<{width}} {cells}" for name, cells in rows),
    ]


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()


def _table_rows(stream: Stream, values: Statistics) -> list[tuple[str, str]]:
    """The rows of a stream: what stands in the first column, and the rest."""
    if len(stream.shape) != 1:
        title = f"{stream.name} {stream.dtype}{list(stream.shape)}"
        note = f"   of at most {IMAGE_EPISODES} episodes" if stream.is_image else ""
        low, mean, high = values.low.min(), values.mean.mean(), values.high.max()
        return [(title, f"{'':<8}{low:>11.4g}{mean:>11.4g}{high:>11.4g}{note}")]
    rows: dict[str, list[int]] = {}  # equal rows are one: constant dimensions, as a rule
    bounds = np.array([stream.low, stream.high])
    for index in range(stream.size):
        units = stream.units[index] if stream.units else ""
        limits = f"[{bounds[0, index]:g}, {bounds[1, index]:g}]" if stream.low else "unknown"
        columns = (values.low, values.mean, values.high, values.std)
        cells = "".join(f"{column[index]:>11.4g}" for column in columns)
        kind = stream.kinds[index] if stream.kinds else ""
        rows.setdefault(f"{units:<8}{cells}   {limits:<15} {kind}".rstrip(), []).append(index)
    return [(together(stream, indices), row) for row, indices in rows.items()]


def warnings(demonstrations: Demonstrations, *, action_horizon: int = 8) -> list[str]:
    """What looks wrong, a sentence each; see `looks`."""
    return [fault.text for fault in looks(demonstrations, action_horizon=action_horizon)]


def looks(demonstrations: Demonstrations, *, action_horizon: int = 8) -> list[Fault]:
    """What looks wrong: episodes too short to train on, still dimensions, jumps, NaN, values outside the limits, and
    all that `datasets.faults` finds in vectors and images.

    Still dimensions are those of training (`datasets.normalisation`), but over all episodes. They and coarse ones have
    a share of 0.
    """
    steps = demonstrations.episode_lengths
    short, shown = np.flatnonzero(steps < action_horizon), list[Fault]()
    if len(short):
        text = (
            f"too short for the action horizon of {action_horizon} steps: {len(short)} of {len(steps)} episodes, the "
            f"first of them episode {demonstrations.episode_numbers[short[0]]} with {steps[short[0]]}; training leaves "
            "them out"
        )
        shown.append(Fault(len(short) / len(steps), text))
    return [*shown, *_step_faults(demonstrations), *faults(demonstrations)]


def worst(demonstrations: Demonstrations) -> str:
    """The widest fault of the vectors and how many others there are, in a sentence; empty if there is none.

    What has a share of 0 is left out: a training names still and coarse dimensions itself. Images are not read. Beyond
    `NUMBERS_JUDGED` the vectors of evenly spread episodes alone are, so that memory does not grow with the data.
    """
    size = sum(stream.size for stream in demonstrations.specification.streams if not stream.is_image)
    most = max(NUMBERS_JUDGED * len(demonstrations) // max(demonstrations.num_steps * size, 1), 1)
    if most < len(demonstrations):
        demonstrations = Selected(demonstrations, evenly_spaced(len(demonstrations), most))
    lines = [*_step_faults(demonstrations), *faults(demonstrations, images=False)]
    lines = sorted([fault for fault in lines if fault.share], key=lambda fault: -fault.share)
    if not lines:
        return ""
    more = f"; and {len(lines) - 1} more" if len(lines) > 1 else ""
    return f"{lines[0].text}{more} (see `recede inspect`)"


def _step_faults(demonstrations: Demonstrations) -> Iterator[Fault]:
    """What single steps show of vectors: still and coarse dimensions (with a share of 0), NaN, limits and jumps."""
    for stream in demonstrations.specification.streams:
        if not len(demonstrations) or len(stream.shape) != 1:
            continue
        rows = demonstrations.read(stream.name)
        exact = rows.dtype if rows.dtype.kind == "f" else np.float64
        limits = np.array([stream.low, stream.high]).astype(exact).astype(np.float64)  # rounded as the values are
        extremes = np.stack([rows.min(axis=0), rows.max(axis=0)]).astype(np.float64)
        extremes[:, ~np.isfinite(extremes).all(axis=0)] = np.nan  # neither still nor moving
        low, high = extremes
        floor = resolve_floor(stream, low, high)
        for reasons in (
            still_dimensions(stream, low, high, floor),
            lost_decimals(stream, low, high, least=floor.width),
        ):
            for name, reason in grouped(stream, reasons).items():
                yield Fault(0, f"{name} {reason}")
        findings: list[Finding] = []
        for index in range(stream.size):
            values, units = rows[:, index].astype(np.float64), stream.units[index] if stream.units else ""
            shown = _dimension_faults(values, limits[:, index : index + 1], demonstrations, floor.width[index], units)
            findings += [Finding(share, stream, index, *words) for share, *words in shown]
        yield from merged(findings)


def _dimension_faults(
    values: NDArray[np.float64],
    limits: NDArray[np.float64],
    demonstrations: Demonstrations,
    floor: float,
    units: str,
) -> Iterator[tuple[float, str, str, str]]:
    """What looks wrong in a dimension (N,): its share, what, where and remedy, as of a `Finding`.

    limits: (2, 1), or (2, 0) if they are unknown.
    """

    def first(wrong: NDArray[np.bool_]) -> str:
        step = int(wrong.argmax())
        episode = int(demonstrations.episode_of(step))
        number = demonstrations.episode_numbers[episode]
        return f"the first at step {step - demonstrations.bounds(episode)[0]} of episode {number}"

    if not (is_finite := np.isfinite(values)).all():
        count = f"in {np.sum(~is_finite)} of {len(values)} steps"
        yield float(np.mean(~is_finite)), "is NaN or infinite", f"{count}, {first(~is_finite)}", ""
        return
    for low, high in limits.T:
        if (is_outside := (values < low) | (values > high)).any():
            where = f"[{low:g}, {high:g}] in {is_outside.sum()} of {len(values)} steps, {first(is_outside)}"
            yield float(is_outside.mean()), "is outside its limits", where, ""
    if (span := np.ptp(values)) <= floor:
        return  # still, and reported as such
    if units == "rad" and span > MOST_RADIANS:
        where = f"from {values.min():.4g} to {values.max():.4g} rad, {span / (2 * np.pi):.0f} turns"
        yield 1.0, "is spread", where, "are these degrees? Convert them, or give units deg"
    is_start = np.zeros(len(values), dtype=bool)
    is_start[[0, *demonstrations.episode_ends[:-1]]] = True
    is_jump = (np.abs(np.diff(values, prepend=values[0])) > JUMP * span) & ~is_start & ~wraps(values, is_start, units)
    jumping = np.unique(demonstrations.episode_of(np.flatnonzero(is_jump)))
    if 0 < len(jumping) < USUAL * len(demonstrations):
        where = f"in {len(jumping)} of {len(demonstrations)} episodes, {first(is_jump)}"
        remedy = "an angle that wraps, or a fault of the recording?"
        yield len(jumping) / len(demonstrations), f"jumps by more than {JUMP:.0%} of its range", where, remedy


def usual_crop(demonstrations: Demonstrations) -> tuple[int, int] | None:
    """Seven eighths of the sides of the smallest image, as 84 of 96 pixels in Diffusion Policy; None without images."""
    sizes = [stream.shape[:2] for stream in demonstrations.specification.observations if stream.is_image]
    return (7 * min(h for h, _ in sizes) // 8, 7 * min(w for _, w in sizes) // 8) if sizes else None
