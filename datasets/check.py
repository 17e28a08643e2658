"""Check demonstrations in a new format: do they keep every promise that training, evaluation and tools rely on?

Shapes: N steps of all episodes in turn; n episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import Specification, Stream
from .demonstrations import Demonstrations, check_context, check_episode_ends, check_finite

PIECE_BYTES = 2**26
"""A stream is read in pieces of at most this many bytes, or of a single step if it is larger."""

SLICES = 8
"""Random slices of each piece that are compared with the piece."""


def check_demonstrations(demonstrations: Demonstrations, *, seed: int = 0) -> str:
    """Read all streams and check every promise of `Demonstrations`; returns a report to print.

    seed: of the random slices. Cost: one pass over all streams, in pieces of `PIECE_BYTES`.

    Raises ValueError for the first broken promise: which one, where, and how to keep it.
    """
    _check_description(demonstrations)
    _check_episodes(demonstrations)
    rng = np.random.default_rng(seed)
    lines = [f"{len(demonstrations)} episodes, {demonstrations.num_steps} steps"]
    for stream in demonstrations.specification.streams:
        _check_stream(demonstrations, stream, rng)
        lines.append(f"{stream.name:<20}{stream.dtype} {stream.shape}, {'within' if stream.low else 'without'} limits")
    _check_each_episode(demonstrations)
    return "\n".join(lines)


def _check_description(demonstrations: Demonstrations) -> None:
    for name, kind in (("path", Path), ("specification", Specification)):
        value = getattr(demonstrations, name, None)
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}: set it in __init__")


def _check_episodes(demonstrations: Demonstrations) -> None:
    for name in ("episode_ends", "episode_seeds"):
        values: Any = getattr(demonstrations, name, None)
        if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.ndim != 1:
            got = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else repr(values)
            raise ValueError(f"{demonstrations.path}: {name} must be an array (n,) of int64, got {got}: convert it")
    ends, seeds = demonstrations.episode_ends, demonstrations.episode_seeds
    check_episode_ends(ends, f"{demonstrations.path}: episode_ends")
    if len(seeds) != len(ends):
        raise ValueError(
            f"{demonstrations.path}: episode_seeds must hold a seed for every one of {len(ends)} episodes, "
            f"got {len(seeds)}: write -1 for a seed that is unknown"
        )
    if (seeds < -1).any():
        raise ValueError(
            f"{demonstrations.path}: a seed must be 0 or more, or -1 if it is unknown, got {seeds.min()}: write -1"
        )


def _check_each_episode(demonstrations: Demonstrations) -> None:
    """The methods about episodes must agree with `episode_ends`, also if a format overrides them."""
    edges = [0, *demonstrations.episode_ends.tolist()]
    counts = (len(demonstrations), demonstrations.num_steps)
    if counts != (len(edges) - 1, edges[-1]):
        raise ValueError(
            f"{demonstrations.path}: there must be {len(edges) - 1} episodes of {edges[-1]} steps as episode_ends say, "
            f"got len() {counts[0]} and num_steps {counts[1]}: inherit both"
        )
    for episode, (start, stop) in enumerate(itertools.pairwise(edges)):
        for stream in demonstrations.specification.context:
            check_context(
                demonstrations.read(stream.name, start, stop), stream, f"{demonstrations.path}: episode {episode}"
            )
        if demonstrations.bounds(episode) != (start, stop):
            raise ValueError(
                f"{demonstrations.path}: bounds({episode}) must be {(start, stop)} as episode_ends say, "
                f"got {demonstrations.bounds(episode)}: inherit it"
            )


def _check_stream(demonstrations: Demonstrations, stream: Stream, rng: np.random.Generator) -> None:
    place = f"{demonstrations.path}: stream {stream.name!r}"
    for start, rows in _pieces(demonstrations, stream, place):
        check_finite(rows, stream, str(demonstrations.path), first=start)
        _check_limits(rows, stream, place, start)
        _check_slices(demonstrations, stream, place, start, rows, rng)
    if demonstrations.num_steps:
        _check_copy(demonstrations, stream, place)
    _check_refusals(demonstrations, stream, place)


def _pieces(demonstrations: Demonstrations, stream: Stream, place: str) -> Iterator[tuple[int, NDArray[Any]]]:
    """All rows of a stream in pieces, each with its first step.

    The last piece is read without `stop`, and a stream of one piece also without `start`, to test the defaults.
    """
    num_steps = demonstrations.num_steps
    size = max(PIECE_BYTES // (stream.size * np.dtype(stream.dtype).itemsize), 1)
    for start in range(0, max(num_steps, 1), size):
        if num_steps <= size:
            rows, call = demonstrations.read(stream.name), "read(name)"
        elif num_steps <= start + size:
            rows, call = demonstrations.read(stream.name, start), f"read(name, {start})"
        else:
            rows, call = demonstrations.read(stream.name, start, start + size), f"read(name, {start}, {start + size})"
        _check_rows(rows, stream, min(size, num_steps - start), f"{place}: {call}")
        yield start, rows


def _check_rows(rows: Any, stream: Stream, count: int, place: str) -> None:
    if not isinstance(rows, np.ndarray):
        raise ValueError(f"{place} must return an array of numpy, got {type(rows).__name__}: convert it")
    if rows.shape != (count, *stream.shape):
        raise ValueError(
            f"{place} must return {count} steps, {(count, *stream.shape)}, got {rows.shape}: "
            "return the requested steps, in the shape of the specification"
        )
    if rows.dtype != np.dtype(stream.dtype):
        raise ValueError(f"{place} must return {stream.dtype} as the specification says, got {rows.dtype}: convert it")


def _check_limits(rows: NDArray[Any], stream: Stream, place: str, first: int) -> None:
    if not stream.low:
        return
    low, high = stream.cast(stream.low), stream.cast(stream.high)  # rounded as the values are
    for step, index in np.argwhere((rows < low) | (rows > high))[:1].tolist():
        raise ValueError(
            f"{place}, step {first + step}: {stream.label(index)} must lie within [{low[index]}, {high[index]}], "
            f"got {rows[step, index]}: convert its units, or state wider limits"
        )


def _check_slices(
    demonstrations: Demonstrations, stream: Stream, place: str, first: int, rows: NDArray[Any], rng: np.random.Generator
) -> None:
    """Random slices of a piece, the empty slices at its edges and its last step must equal those of the piece."""
    count = len(rows)
    slices = np.sort(rng.integers(0, count + 1, (SLICES, 2))).tolist()
    for start, stop in [*slices, (0, 0), (count, count), (max(count - 1, 0), count)]:
        call = f"{place}: read(name, {first + start}, {first + stop})"
        part = demonstrations.read(stream.name, first + start, first + stop)
        _check_rows(part, stream, stop - start, call)
        if not np.array_equal(part, rows[start:stop]):
            raise ValueError(
                f"{call} must return what a longer read returns for these steps, got other values: "
                "count steps over all episodes, from 0"
            )


def _check_copy(demonstrations: Demonstrations, stream: Stream, place: str) -> None:
    """A caller may write to the array, and the next read does not show it."""
    first = demonstrations.read(stream.name, 0, 1)
    if not first.flags.writeable:
        raise ValueError(f"{place}: read must return an array that can be written to, got a read-only one: copy it")
    before = first.copy()
    first[...] = before == 0  # changes every value
    is_kept = np.array_equal(demonstrations.read(stream.name, 0, 1), before)
    first[...] = before
    if not is_kept:
        raise ValueError(f"{place}: read must return a copy, got a view of the recorded rows: copy them")


def _check_refusals(demonstrations: Demonstrations, stream: Stream, place: str) -> None:
    """Steps and streams that do not exist must be refused; slicing an array would silently return fewer rows."""
    num_steps = demonstrations.num_steps
    for start, stop in ((-1, num_steps), (0, num_steps + 1), (num_steps + 1, None), (1, 0)):
        if not _is_refused(demonstrations, stream.name, start, stop):
            raise ValueError(
                f"{place}: read(name, {start}, {stop}) must raise ValueError, because there are {num_steps} steps: "
                "let self.step_range(start, stop) check them"
            )
    unknown = f"no_{stream.name}"
    if not _is_refused(demonstrations, unknown, 0, 0):
        raise ValueError(
            f"{demonstrations.path}: read({unknown!r}) must raise ValueError, because there is no such stream: "
            "let self.stream(name) check it"
        )


def _is_refused(demonstrations: Demonstrations, name: str, start: int, stop: int | None) -> bool:
    try:
        demonstrations.read(name, start, stop)
    except ValueError:
        return True
    except Exception:  # callers expect ValueError only
        return False
    return False
