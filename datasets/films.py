"""What films show of each episode: repeated and frozen images, and whether a camera is late.

Shapes: L steps of an episode; images (H, W, C).

Cost: every image is decoded once, of at most `FILM_BYTES` of decoded images a camera, in evenly spread episodes: 4 s
for the 25,650 images of Push-T.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .demonstrations import Demonstrations
from .quality import Delays, Measures, correlations, episodes_of, lag_limit, speed

FILM_BYTES = 2**31
"""Most bytes of decoded images that are looked at, a camera."""

PIECE_BYTES = 2**26
"""Images are read in pieces of at most so many bytes, or two of them."""

PIXELS = 64
"""Each side of an image is thinned to about so many pixels to see how much it changes."""

MOVES = 0.005
"""A step in which the vectors go this share of their ranges should change the image."""


RESEMBLANCE = 0.3
"""The least correlation between the motion of vectors and that of pixels, which show shadows and people too."""


@dataclass(frozen=True)
class Film:
    """What the images of a camera show, episode by episode; NaN for episodes that were not looked at."""

    camera: str
    """The stream."""
    repeats: NDArray[np.float64]
    """(n,): the share of the steps with motion in which the image stays the same."""
    frozen: NDArray[np.float64]
    """(n,): the longest time in which it stays the same although something moves, s."""
    delays: Delays
    """Of the image after the other observations."""


def watch(demonstrations: Demonstrations, measures: Measures) -> list[Film]:
    """Look at the films of each camera."""
    cameras = [stream for stream in demonstrations.specification.observations if stream.is_image]
    return [_watch(demonstrations, measures, stream.name, stream.size) for stream in cameras]


def _watch(demonstrations: Demonstrations, measures: Measures, camera: str, size: int) -> Film:
    count, dt = len(demonstrations), demonstrations.specification.control_dt
    share = min(FILM_BYTES / max(demonstrations.num_steps * size, 1), 1)
    chosen = set(np.unique(np.linspace(0, count - 1, max(int(share * count), 1)).astype(int)).tolist())
    repeats, frozen = (np.full(count, np.nan) for _ in range(2))
    curves = np.full((count, 2 * lag_limit(dt) + 1), np.nan)
    observed = ~measures.is_action if (~measures.is_action).any() else measures.is_action
    for episode, rows in episodes_of(demonstrations, measures.dimensions):
        if episode not in chosen or len(rows) < 2:
            continue
        values = measures.shares(rows)
        is_same, changes = _changes(demonstrations, camera, *demonstrations.bounds(episode), size=size)
        moves = speed(values) > MOVES
        repeats[episode] = is_same[moves].mean() if moves.any() else 0.0
        frozen[episode] = dt * _longest(is_same, moves)
        curves[episode] = correlations(speed(values[:, observed]), changes, most=lag_limit(dt))
    return Film(camera, repeats, frozen, Delays(curves, RESEMBLANCE, demonstrations.episode_lengths))


def _changes(
    demonstrations: Demonstrations, camera: str, start: int, stop: int, *, size: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(L - 1,) each: whether an image equals the one before, and the mean difference of their pixels."""
    most = max(PIECE_BYTES // size, 2)
    is_same, changes = list[bool](), list[float]()
    for first in range(start, stop - 1, most - 1):
        frames = demonstrations.read(camera, first, min(first + most, stop))
        for one, other in itertools.pairwise(frames):
            is_same.append(np.array_equal(one, other))
            rows, columns = max(one.shape[0] // PIXELS, 1), max(one.shape[1] // PIXELS, 1)
            thin = [frame[::rows, ::columns].astype(np.int16) for frame in (one, other)]
            changes.append(float(np.abs(thin[1] - thin[0]).mean()))
    return np.array(is_same), np.array(changes)


def _longest(is_same: NDArray[np.bool_], moves: NDArray[np.bool_]) -> int:
    """The steps of the longest run of equal images in which half of the steps move."""
    longest = 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_same, [False]]).astype(np.int8))).reshape(-1, 2)
    for start, stop in edges.tolist():
        if stop - start > longest and moves[start:stop].mean() >= 0.5:
            longest = stop - start
    return longest
