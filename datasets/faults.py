"""Faults that a whole recording may have, and that no single step shows: wraps, sign flips, repeats, black cameras.

Each fault names its share of the steps or episodes, however large or small it is, and one remedy.

Shapes: N steps of all episodes in turn; n episodes; D dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..progress import watched
from ..specification import Stream
from .demonstrations import Demonstrations
from .findings import Fault, Finding, merged, together

IDLE_S = 2.0
"""Demonstrations in which nothing moves for so long are idle, s."""

LONG = 20
"""A moving sensor that repeats its value for so many steps is frozen."""

FEW = 16
"""A dimension of at most so many different values is a switch or a counter, whose values may repeat."""

MOTION = 0.01
"""A stream that changes by this share of its range, or more, moves."""

FLAT = 2.0
"""An image whose pixels have a smaller standard deviation than this many levels shows nothing."""

IMAGE_EPISODES = 10
"""Images are read whole from at most this many episodes, because decoding all of them can take minutes."""

FILM_BYTES = 2**26
"""They are read in pieces of at most this many bytes, or two images."""

GLANCED_EPISODES = 200
"""Of at most so many episodes, the first, the middle and the last image are read."""


class Recording(NamedTuple):
    """The vectors of demonstrations, and where episodes begin."""

    demonstrations: Demonstrations
    rows: dict[str, NDArray[Any]]
    """Stream name -> (N, D) in its dtype, for every vector whose numbers are finite."""
    is_first: NDArray[np.bool_]
    """(N,): whether a step is the first of its episode."""

    @classmethod
    def of(cls, demonstrations: Demonstrations) -> Recording:
        """Read the vectors of demonstrations, which must have an episode."""
        streams = [stream for stream in demonstrations.specification.streams if len(stream.shape) == 1]
        rows = {stream.name: demonstrations.read(stream.name) for stream in streams}
        is_first = np.zeros(demonstrations.num_steps, dtype=bool)
        is_first[[0, *demonstrations.episode_ends[:-1]]] = True
        return cls(demonstrations, {n: values for n, values in rows.items() if np.isfinite(values).all()}, is_first)

    def values(self, name: str) -> NDArray[np.float64]:
        """The rows of a stream as numbers to compute with (N, D); a copy, so of one stream at a time."""
        return self.rows[name].astype(np.float64)

    def moved(self) -> NDArray[np.bool_]:
        """(N,): whether any vector has moved since the step before."""
        moved = np.zeros(len(self.is_first), dtype=bool)
        for values in map(self.values, self.rows):
            moved[1:] |= (np.abs(np.diff(values, axis=0)) > MOTION * np.maximum(np.ptp(values, axis=0), 1e-12)).any(1)
        return moved & ~self.is_first

    def where(self, wrong: NDArray[np.bool_]) -> str:
        """In how many episodes the wrong steps (N,) lie, and the first of them."""
        step, episodes = int(wrong.argmax()), np.unique(self.demonstrations.episode_of(np.flatnonzero(wrong)))
        first = step - self.demonstrations.bounds(int(episodes[0]))[0]
        return (
            f"in {len(episodes)} of {len(self.demonstrations)} episodes, the first at step {first} of episode "
            f"{self.demonstrations.episode_numbers[episodes[0]]}"
        )


def faults(demonstrations: Demonstrations, *, images: bool = True) -> list[Fault]:
    """The faults of demonstrations, stream by stream; those of images only if `images`, because decoding takes time."""
    if not len(demonstrations):
        return []
    recording = Recording.of(demonstrations)
    idle, lines = _idle(recording), list[Fault]()
    for stream in demonstrations.specification.streams:
        if stream.name in recording.rows:
            lines += _vector_faults(recording, stream, idle)
        elif images and stream.is_image:
            lines += _image_faults(recording, stream)
    if idle.mean() >= 0.02:
        lines.append(
            Fault(
                float(idle.mean()),
                f"nothing moves for {IDLE_S:g} s or longer in {idle.mean():.1%} of the steps, {recording.where(idle)}: "
                "cut these stretches out, or the policy learns to wait",
            )
        )
    return lines


def wraps(values: NDArray[np.float64], is_first: NDArray[np.bool_], units: str) -> NDArray[np.bool_]:
    """(N,): the steps at which an angle (N,) jumps by almost a whole turn, because it is kept within one."""
    turn = {"rad": 2 * np.pi, "deg": 360.0, "": 2 * np.pi}.get(units, np.inf)
    low, high = values.min(), values.max()
    is_angle = 0.9 * turn <= high - low <= 1.02 * turn
    if not units:  # a number that fills (-pi, pi] or [0, 2 pi)
        is_angle = is_angle and bool(np.allclose([low, high], [-np.pi, np.pi], atol=0.3) or abs(low) < 0.3)
    steps = np.abs(np.diff(values, prepend=values[:1]))
    return is_angle & (steps > 0.9 * turn) & ~is_first if is_angle else np.zeros(len(values), dtype=bool)


def _vector_faults(recording: Recording, stream: Stream, idle: NDArray[np.bool_]) -> Iterator[Fault]:
    repeats = list(_repeats(recording, stream))
    yield from repeats
    yield from _unchanging(recording, stream)
    yield from merged(_dimension_findings(recording, stream, idle, is_saturation_sought=not repeats))
    values = recording.values(stream.name)
    for index in range(stream.size - 3):
        is_flip = _flips(values[:, index : index + 4], recording.is_first)
        if is_flip.any():
            yield Fault(
                _share_of_episodes(recording, is_flip),
                f"{stream.label(index)} to {stream.label(index + 3)}, a quaternion, changes all its signs "
                f"{recording.where(is_flip)}: give each step the sign that is nearer to the step before",
            )


def _unchanging(recording: Recording, stream: Stream) -> Iterator[Fault]:
    """Dimensions that differ between episodes, and change in none: share 0, because a goal is no fault."""
    values, is_inner = recording.values(stream.name), ~recording.is_first[1:]
    is_changed = (np.diff(values, axis=0)[is_inner] != 0).any(axis=0)
    indices = np.flatnonzero(~is_changed & (np.ptp(values, axis=0) > 0)).tolist()
    if indices and is_inner.any():
        text = "is constant within every episode: a goal, or a sensor that is stuck"
        yield Fault(0, f"{together(stream, indices)} {text}")


def _dimension_findings(
    recording: Recording, stream: Stream, idle: NDArray[np.bool_], *, is_saturation_sought: bool
) -> Iterator[Finding]:
    values = recording.values(stream.name)
    for index in range(stream.size):
        units = stream.units[index] if stream.units else ""
        is_wrap = wraps(values[:, index], recording.is_first, units)
        if is_wrap.any():
            yield Finding(
                _share_of_episodes(recording, is_wrap),
                *(stream, index, "wraps round by a whole turn", recording.where(is_wrap)),
                "store its sine and cosine, or unwrap it within each episode (np.unwrap)",
            )
        if is_saturation_sought:
            yield from _saturation(recording, stream, index, values[:, index], idle)


def _share_of_episodes(recording: Recording, wrong: NDArray[np.bool_]) -> float:
    demonstrations = recording.demonstrations
    return len(np.unique(demonstrations.episode_of(np.flatnonzero(wrong)))) / len(demonstrations)


def _flips(values: NDArray[np.float64], is_first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): the steps at which a unit quaternion (N, 4) becomes about its negative."""
    flips = np.zeros(len(values), dtype=bool)
    if np.abs(np.linalg.norm(values, axis=1) - 1).max() < 0.02 and (np.ptp(values, axis=0) > MOTION).sum() > 1:
        flips[1:] = (values[1:] * values[:-1]).sum(axis=1) < -0.8
    return flips & ~is_first


def _saturation(
    recording: Recording, stream: Stream, index: int, values: NDArray[np.float64], idle: NDArray[np.bool_]
) -> Iterator[Finding]:
    """A dimension that runs into its limit at some speed and stays there, unless it is a switch.

    A command may go to any value and stay there, so an action is cut off at the limits of its stream alone. values: of
    the dimension (N,).
    """
    if len(np.unique(values[:: max(len(values) // 5000, 1)])) <= FEW:
        return
    ends = (values.min(), values.max())
    at = [np.abs(values - end) <= 1e-9 * max(1, abs(end)) for end in ends]
    if min(is_at.mean() for is_at in at) >= 0.05 and at[0].mean() + at[1].mean() >= 0.5:
        return  # it goes from one end to the other, as a gripper does
    before = np.abs(np.diff(values, prepend=values[:1]))
    inner = values[~at[0] & ~at[1]]
    is_coarse = len(np.unique(inner)) < len(inner) / 2  # it turns within a few ticks of its sensor
    tick = 3 * before[before > 0].min() if is_coarse else 0.0
    is_command = stream.name == recording.demonstrations.specification.action.name
    limits = np.array([stream.low, stream.high])[:, index] if stream.low else (-np.inf, np.inf)
    for end, limit, is_at in zip(ends, limits, at, strict=True):
        if (is_command and not np.isclose(end, limit)) or _is_natural(stream, index, end, limit):
            continue
        was_at = np.concatenate([[False], is_at[:-1]]) & ~recording.is_first
        stays = is_at & was_at & ~idle
        entries = is_at & ~was_at & ~recording.is_first
        is_abrupt = entries.any() and np.median(before[entries]) > max(0.2 * np.median(before[before > 0]), tick)
        if stays.mean() >= 0.01 and is_abrupt:
            yield Finding(
                float(is_at.mean()),
                *(stream, index, "is cut off"),
                f"at {end:g} in {is_at.mean():.1%} of the steps, {recording.where(stays)}",
                "record it with a wider range, or leave these episodes out",
            )


def _is_natural(stream: Stream, index: int, end: float, limit: float) -> bool:
    """Whether nothing lies beyond this end: a cosine ends at 1, and a gripper that is open at its limit."""
    kind = stream.kinds[index] if stream.kinds else "number"
    return (kind == "cosine_sine" and bool(np.isclose(abs(end), 1))) or (
        kind == "gripper" and bool(np.isclose(end, limit))
    )


def _repeats(recording: Recording, stream: Stream) -> Iterator[Fault]:
    """A sensor that is slower than the control rate, or that freezes while other streams move.

    Until it moves for the first time in an episode, its repeats say nothing: hands take a moment to begin.
    """
    values, is_first = recording.values(stream.name), recording.is_first
    is_same = np.zeros(len(values), dtype=bool)
    is_same[1:] = (values[1:] == values[:-1]).all(axis=1)
    is_same &= ~is_first
    is_change = ~is_same & ~is_first
    if not is_change.any() or len(np.unique(values[is_change], axis=0)) <= FEW:
        return
    after, before = np.append(is_same[1:], False), np.concatenate([[False], is_same[:-1]])
    num_changes = np.cumsum(is_change)
    is_moved = num_changes > num_changes[is_first][np.cumsum(is_first) - 1]
    inner = is_moved & ~np.append(is_first[1:], True)
    lonely_changes = (is_change & after & before)[is_change & inner].mean() if (is_change & inner).any() else 0.0
    lonely_repeats = (is_same & ~after & ~before)[is_same & inner].mean() if (is_same & inner).any() else 0.0
    share = float(is_same[is_moved].mean())
    sizes = np.abs(np.diff(values, axis=0))
    is_coarse = all(_is_coarse(column[is_change[1:]]) for column in sizes.T)
    is_slow = (share >= 0.3 and lonely_changes >= 0.5) or (share >= 0.1 and lonely_repeats >= 0.5)
    if is_slow and not is_coarse:
        where = recording.where(is_same & is_moved)
        yield Fault(
            share,
            f"{stream.name} repeats its last value in {share:.0%} of the steps, {where}: its sensor is "
            "slower than the control rate, so record at its rate, or interpolate it",
        )
        return
    is_frozen = _frozen(recording, stream, is_same)
    if is_frozen.any():
        yield Fault(
            float(is_frozen.mean()),
            f"{stream.name} is frozen in {is_frozen.mean():.1%} of the steps while other streams move, "
            f"{recording.where(is_frozen)}: leave these episodes out, and see to its sensor",
        )


def _is_coarse(sizes: NDArray[np.float64]) -> bool:
    """Whether a sensor moves by hardly more than its smallest step, so that slow motion repeats its values."""
    sizes = sizes[sizes > 0]
    return not len(sizes) or float(np.median(sizes)) <= 3 * float(sizes.min())


def _frozen(recording: Recording, stream: Stream, is_same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): steps of long repeats of a stream that hardly ever repeats elsewhere, while the action moves.

    What lies still from the beginning of an episode is at rest, unless it lies still to the end of it.
    """
    demonstrations, frozen = recording.demonstrations, np.zeros(len(is_same), dtype=bool)
    bounds = [demonstrations.bounds(episode) for episode in range(len(demonstrations))]
    shares = [is_same[start + 1 : stop].mean() for start, stop in bounds if stop > start + 1]
    if not shares or min(shares) > 0.05:
        return frozen
    others = [name for name in recording.rows if name != stream.name]
    spans = [np.maximum(np.ptp(recording.values(name), axis=0), 1e-12) for name in others]
    for start, stop in bounds:
        for begin, end in _runs(is_same[start:stop]):
            is_whole = begin <= 1 and end == stop - start
            if end - begin < LONG or (begin <= 1 and not is_whole):
                continue
            part = slice(start + begin, start + end)
            parts = [recording.rows[name][part].astype(np.float64) for name in others]
            moved = [(np.ptp(values, axis=0) / span).max() for values, span in zip(parts, spans, strict=True)]
            if max(moved, default=0.0) > 0.1:
                frozen[part] = True
    return frozen


def _runs(mask: NDArray[np.bool_]) -> list[list[int]]:
    """First and last + 1 of every run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def _idle(recording: Recording) -> NDArray[np.bool_]:
    """(N,): the steps of stretches in which no vector moves. Halves of `IDLE_S` are compared by their extremes."""
    demonstrations = recording.demonstrations
    half = max(int(IDLE_S / demonstrations.specification.control_dt / 2), LONG // 4)
    spans = {name: np.ptp(recording.values(name), axis=0) for name in recording.rows}
    moving = [name for name, span in spans.items() if span.any()]
    idle = np.zeros(len(recording.is_first), dtype=bool)
    for episode in range(len(demonstrations)):
        start, stop = demonstrations.bounds(episode)
        edges = np.arange(start, stop - half + 1, half)
        if len(edges) < 2 or not moving:
            continue
        is_idle = np.ones(len(edges) - 1, dtype=bool)
        for name in moving:
            part = recording.rows[name][start : edges[-1] + half].astype(np.float64)
            low, high = (ufunc.reduceat(part, edges - start, axis=0) for ufunc in (np.minimum, np.maximum))
            reach = np.maximum(high[1:], high[:-1]) - np.minimum(low[1:], low[:-1])
            is_idle &= (reach <= MOTION * spans[name]).all(axis=1)
        for index in np.flatnonzero(is_idle):
            idle[edges[index] : edges[index] + 2 * half] = True
    return idle


def _image_faults(recording: Recording, stream: Stream) -> Iterator[Fault]:
    demonstrations = recording.demonstrations
    glanced = _spread(len(demonstrations), GLANCED_EPISODES)
    flat: dict[int, str] = {}
    frozen: list[int] = []
    for episode in glanced:
        start, stop = demonstrations.bounds(episode)
        steps = sorted({start, (start + stop) // 2, stop - 1})
        frames = [demonstrations.read(stream.name, step, step + 1)[0] for step in steps]
        for frame in frames:
            if shade := _shade(frame):
                flat.setdefault(episode, shade)
        is_equal = len(frames) > 2 and all(np.array_equal(frames[0], frame) for frame in frames[1:])
        if is_equal and episode not in flat and _moves(recording, start, stop):
            frozen.append(episode)
    if flat:
        shades = " or ".join(sorted(set(flat.values())))
        yield Fault(
            len(flat) / len(glanced),
            f"{stream.name} is {shades} in {_of(flat, glanced, demonstrations)}: leave these episodes out, and see "
            "to its camera",
        )
    if frozen:
        yield Fault(
            len(frozen) / len(glanced),
            f"{stream.name} is frozen in {_of(frozen, glanced, demonstrations)} while other streams move: leave these "
            "episodes out, and see to its camera",
        )
    yield from _film_faults(recording, stream, skipped={*flat, *frozen})


def _film_faults(recording: Recording, stream: Stream, *, skipped: set[int]) -> Iterator[Fault]:
    """Repeated frames and pixels that are cut off, in a few episodes that are read whole."""
    demonstrations, moved = recording.demonstrations, recording.moved()
    films = [episode for episode in _spread(len(demonstrations), IMAGE_EPISODES) if episode not in skipped]
    repeats, moves, dark, bright, count = 0, 0, 0.0, 0.0, 0
    for episode in watched(films, f"look at {stream.name}", unit="episodes", delay_s=2):
        start, stop = demonstrations.bounds(episode)
        most = max(FILM_BYTES // stream.size, 1)
        for first in range(start, stop, most):
            frames = demonstrations.read(stream.name, max(first - 1, start), min(first + most, stop))
            steps = moved[max(first - 1, start) + 1 : min(first + most, stop)]
            repeats += sum(np.array_equal(frames[i], frames[i + 1]) for i in np.flatnonzero(steps))
            moves += int(steps.sum())
            for frame in frames[::10]:
                if _has_noise(frame):
                    dark, bright, count = dark + (frame == 0).mean(), bright + (frame == 255).mean(), count + 1
    if moves and repeats / moves >= 0.05:
        yield Fault(
            repeats / moves,
            f"{stream.name} repeats its last image in {repeats / moves:.0%} of the steps in which other streams move "
            f"(of {len(films)} episodes): its camera is slower than the control rate, so record at its rate",
        )
    for name, share, remedy in (("0", dark, "longer"), ("255", bright, "shorter")):
        if count and share / count >= 0.25:
            yield Fault(
                share / count,
                f"{stream.name} is cut off at {name} in {share / count:.0%} of its pixels (of {len(films)} episodes): "
                f"record it with a {remedy} exposure",
            )


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()


def _of(episodes: Sequence[int] | dict[int, Any], glanced: Sequence[int], demonstrations: Demonstrations) -> str:
    first = demonstrations.episode_numbers[min(episodes)]
    return f"{len(episodes)} of {len(glanced)} episodes, the first of them episode {first}"


def _shade(frame: NDArray[np.uint8]) -> str:
    """What an image (H, W, C) of a single colour is; empty if it shows something."""
    if frame[..., 0].size < 2 or frame.astype(np.float32).std(axis=(0, 1)).max() >= FLAT:
        return ""
    return {True: "black", False: "of one colour"}[bool(frame.mean() < 16)]


def _moves(recording: Recording, start: int, stop: int) -> bool:
    """Whether any vector moves by a tenth of its range between two steps."""
    for values in map(recording.values, recording.rows):
        span = np.ptp(values, axis=0)
        if (np.ptp(values[start:stop], axis=0) > 0.1 * np.maximum(span, 1e-12)).any():
            return True
    return False


def _has_noise(frame: NDArray[np.uint8]) -> bool:
    """Whether an image is one of a real camera, in which neighbouring pixels differ unless they are cut off."""
    left, right = frame[:, :-1], frame[:, 1:]
    is_inside = (left > 0) & (left < 255)
    return bool(is_inside.any()) and float((left == right)[is_inside].mean()) < 0.5
