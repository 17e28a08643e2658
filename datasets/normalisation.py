"""Which range of each stream becomes the interval [-1, 1] in which a policy works, and which dimensions are still.

A still dimension moves so little that it carries no information, and dividing by its range would blow up its noise. A
policy sees 0 in its place, and answers with the middle of its range.

Shapes: everything here has the shape of one step of its stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..specification import Stream, nearest
from .demonstrations import Demonstrations
from .statistics import Statistics, quantiles, statistics

Array: TypeAlias = NDArray[np.float64]

KINDS = ("range", "quantiles", "identity")
"""How a stream may be normalised; see `Normalisation`."""

TAIL = 0.01
"""What `quantiles` leaves out at either end, unless a number is given."""

TOLERANCE = 1e-4
"""A dimension is still if its range is at most this share of its limits.

Without limits it is a share of the largest magnitude, and at least of 1 in the unit of the dimension, as in the
reference implementation: 0.1 mm and 0.1 mrad are less than what a robot arm repeats, and far more than rounding.
"""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """How the numbers of one stream become those in [-1, 1].

    kind: "range" maps the smallest and the largest value of each dimension to -1 and 1. "quantiles" maps the quantiles
    `tail` and 1 - `tail` there, so that a few outliers do not squeeze everything else; a policy with a clip of 1 then
    commands nothing beyond them. "identity" keeps values that lie in [-1, 1] already, such as quaternions and rotation
    matrices, whose dimensions must keep their proportions.

    floor: a range of at most this counts as still, in units of the stream, one number or one for each dimension. None
    stands for the usual one, see `TOLERANCE`; 0 keeps whatever moves at all.

    Raises ValueError for a kind that does not exist, or for an option that the kind does not have.
    """

    kind: str = "range"
    tail: float = TAIL
    floor: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}: {nearest(self.kind, KINDS)}")
        if not 0 < self.tail < 0.5:
            raise ValueError(f"tail must be a share between 0 and 0.5, got {self.tail}")
        if self.tail != TAIL and self.kind != "quantiles":
            raise ValueError(f"tail is an option of kind=quantiles, got it with kind={self.kind}: leave it out")
        if self.floor is not None and self.kind == "identity":
            raise ValueError("floor must be left out with kind=identity, which keeps every dimension as it is")
        if self.floor is not None and not _is_floor(np.asarray(self.floor)):
            raise ValueError(f"floor must be a number of at least 0, or a list of them, got {self.floor!r}")


def _is_floor(given: NDArray[Any]) -> bool:
    return given.dtype.kind in "iuf" and given.size > 0 and bool(np.all((given >= 0) & (given < np.inf)))


@dataclass(frozen=True)
class Range:
    """What becomes -1 and 1 of one stream. `low` and `high` are equal in still dimensions.

    std: standard deviation of the normalised values; 1 in dimensions in which they do not change. still: the name of
    each still dimension and what is to be said of it.
    """

    low: Array
    high: Array
    std: Array
    still: dict[str, str]


class Floor(NamedTuple):
    """A dimension whose range is at most `width` is still, because of `rule`."""

    width: Array
    rule: str


def floor(stream: Stream, low: Array, high: Array, given: float | Sequence[float] | None = None) -> Floor:
    """The floor that is given, or the usual one of a stream whose values lie between low and high; see `TOLERANCE`.

    Raises ValueError if it is given for another number of dimensions.
    """
    if given is not None:
        if np.shape(given) not in ((), stream.shape):
            raise ValueError(
                f"normalisation.{stream.name}.floor must be one number or one for each of its {stream.size} "
                f"dimensions, got {given}"
            )
        return Floor(np.broadcast_to(np.asarray(given, dtype=np.float64), stream.shape), "its floor")
    if stream.low:
        return Floor(TOLERANCE * np.subtract(stream.high, stream.low), f"{TOLERANCE:g} of its limits")
    size = np.maximum(np.maximum(-low, high), 1)
    return Floor(TOLERANCE * size, f"{TOLERANCE:g} of its largest magnitude, or of 1 if that is more")


def still(stream: Stream, low: Array, high: Array, floor: Floor, *, of: str = "") -> dict[str, str]:
    """The name of each still dimension, its range and the rule. of: which values the range is of, if not of all."""
    indices = np.argwhere(high - low <= floor.width)
    if len(stream.shape) != 1:
        return {stream.name: f"is still in {len(indices)} of its {stream.size} numbers"} if len(indices) else {}
    return {
        stream.label(i): f"is constant at {low[i]:g}{of}"
        if low[i] == high[i]
        else f"moves by {high[i] - low[i]:.3g}{of}, from {low[i]:.9g} to {high[i]:.9g}, and {floor.width[i]:.3g} or "
        f"less counts as still: {floor.rule}"
        for (i,) in indices
    }


def fit(
    demonstrations: Demonstrations, episodes: Sequence[int], chosen: Mapping[str, Normalisation]
) -> dict[str, Range]:
    """The range of every stream but images, over all steps of `episodes`. `chosen` says how, for streams by name.

    The range of an action that is zero beyond the ends of an episode (`Stream.hold`) includes zero.

    Cost: one pass over the data and another one for quantiles, both in pieces, so that nothing need fit in memory.

    Raises ValueError for a stream that does not exist, a floor of another size, and values outside [-1, 1] that should
    stay as they are; also if the policy could not command what the demonstrations do, because the action moves in no
    dimension, or in one that counts as still although no floor says so.
    """
    streams = {stream.name: stream for stream in demonstrations.specification.streams if not stream.is_image}
    for name in chosen:
        if name not in streams:
            raise ValueError(f"normalisation must name a stream of numbers, got {name!r}: {nearest(name, streams)}")
    ranges: dict[str, Range] = {}
    for name, stream in streams.items():
        how, seen = chosen.get(name, Normalisation()), statistics(demonstrations, name, episodes)
        bounds = seen.low, seen.high
        if how.kind == "quantiles":
            bounds = quantiles(demonstrations, name, episodes, tail=how.tail)
        ranges[name] = _range(stream, how, seen, *bounds)
        if stream is demonstrations.specification.action:
            _check_action(ranges[name], stream, how, seen)
    return ranges


def _range(stream: Stream, how: Normalisation, seen: Statistics, low: Array, high: Array) -> Range:
    """The range of a stream of which low and high should become -1 and 1."""
    if how.kind == "identity":
        return _identity(stream, seen)
    is_zero = np.array([hold == "zero" for hold in stream.hold] or False)
    low, high = np.where(is_zero, np.minimum(low, 0), low), np.where(is_zero, np.maximum(high, 0), high)
    limit = floor(stream, low, high, how.floor)
    sentences = still(stream, low, high, limit, of=" between its quantiles" if how.kind == "quantiles" else "")
    half, centre = np.where(high - low <= limit.width, 0, (high - low) / 2), (low + high) / 2
    std = np.divide(seen.std, half, out=np.ones_like(half), where=(half > 0) & (seen.std > 0))
    return Range(np.where(half > 0, low, centre), np.where(half > 0, high, centre), std, sentences)


def _identity(stream: Stream, seen: Statistics) -> Range:
    if np.maximum(-seen.low, seen.high).max() > 1 + TOLERANCE:  # rounding is inside
        raise ValueError(
            f"normalisation.{stream.name}.kind=identity needs values in [-1, 1], where a policy works, got values from "
            f"{seen.low.min():g} to {seen.high.max():g}: choose range or quantiles"
        )
    one = np.ones(stream.shape)
    return Range(-one, one, np.where(seen.std > 0, seen.std, one), {})


def _check_action(fitted: Range, stream: Stream, how: Normalisation, seen: Statistics) -> None:
    """Raise ValueError if a policy could not command what the demonstrations do; see `fit`."""
    is_still, span = fitted.low == fitted.high, seen.high - seen.low
    sentences = [f"{name} {what}" for name, what in fitted.still.items()]
    if is_still.all():
        raise ValueError(
            f"the action must move in at least one dimension, but {'; '.join(sentences)}: record demonstrations that "
            "move, or give normalisation.action.floor=0 if they move by little"
        )
    is_asked = how.floor is not None and span <= floor(stream, seen.low, seen.high, how.floor).width
    frozen = [stream.label(i) for (i,) in np.argwhere(is_still & (span > 0) & ~np.asarray(is_asked))]
    if frozen:
        learn = "kind=range" if how.kind == "quantiles" else "floor=0"
        raise ValueError(
            f"{frozen[0]} {fitted.still[frozen[0]]}; a policy would never move it: give normalisation.action.{learn} "
            "to learn it, or normalisation.action.floor=F with its range or more to keep it still"
        )
