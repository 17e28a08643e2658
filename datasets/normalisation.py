"""Normalisation: the range of each stream that becomes [-1, 1] for a policy, and the dimensions that are still.

A still dimension moves so little that it carries no information, and dividing by its range would amplify its noise. A
policy sees 0 in its place and always commands the middle of its range.

Shapes: every array has the shape of one step of its stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..specification import Stream, group_of, nearest
from .demonstrations import Demonstrations
from .statistics import Rows, Statistics, rows_of, summary, tails

Array: TypeAlias = NDArray[np.float64]

KINDS = ("range", "quantiles", "deviation", "identity")
"""How a stream may be normalised; see `Normalisation`."""

DEVIATIONS = 3
"""Standard deviations from the mean that "deviation" maps to 1."""

NOTES = {"quantiles": " between its quantiles", "deviation": f" within {DEVIATIONS} standard deviations"}
"""Of which range a note speaks, if it is not that of all values."""

TAIL = 0.01
"""Default share of the values that `quantiles` cuts off at either end."""

TOLERANCE = 1e-4
"""A dimension is still if its range is at most this share of its limits.

Without limits it is a share of the largest magnitude, and at least of 1 in the unit of the dimension, as in the
reference implementation. A robot arm does not repeat to 0.1 mm or 0.1 mrad, and rounding is far smaller.
"""


RESOLUTION = 1e-3
"""A dimension loses its decimals if a step of float32, at its magnitude, is more than this share of its range."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """How the values of one stream are mapped to [-1, 1].

    Raises ValueError for an unknown kind, or for an option that the kind does not have.
    """

    kind: str = "range"
    """One of `KINDS`.

    "range" maps the smallest and largest value of each dimension to -1 and 1. "quantiles" maps the quantiles `tail` and
    1 - `tail` there, so that a few outliers do not squeeze all other values; a policy with a clip of 1 then commands
    nothing beyond them. "deviation" maps the mean to 0 and `DEVIATIONS` standard deviations to 1, so that a clip of 1
    cuts off only what lies beyond them. "identity" changes nothing: for values that already lie in [-1, 1] and whose
    dimensions must keep their proportions, such as quaternions and rotation matrices.
    """
    tail: float = TAIL
    """The share of the values that "quantiles" cuts off at either end."""
    floor: float | Sequence[float] | None = None
    """A dimension is still if its range is at most this, in units of the stream: one number, or one a dimension.

    None stands for the default, see `TOLERANCE`; 0 keeps every dimension that moves at all.
    """
    groups: Mapping[str, str] = field(default_factory=dict)
    """Label or kind of some dimensions (`Stream.kinds`; "rotation" is every kind of rotation) -> one of `KINDS`."""

    def __post_init__(self) -> None:
        for name, kind in {"kind": self.kind, **{f"groups.{name}": kind for name, kind in self.groups.items()}}.items():
            if kind not in KINDS:
                raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {kind!r}: {nearest(str(kind), KINDS)}")
        if not 0 < self.tail < 0.5:
            raise ValueError(f"tail must be a share between 0 and 0.5, got {self.tail}")
        if self.tail != TAIL and "quantiles" not in (self.kind, *self.groups.values()):
            raise ValueError(f"tail is an option of kind=quantiles, got it with kind={self.kind}: leave it out")
        if self.floor is not None and self.kind == "identity":
            raise ValueError("floor must be left out with kind=identity, which keeps every dimension as it is")
        if self.floor is not None and not _is_floor(np.asarray(self.floor)):
            raise ValueError(f"floor must be a number of at least 0, or a list of them, got {self.floor!r}")

    def kinds_of(self, stream: Stream) -> NDArray[np.str_]:
        """How each dimension of a stream is normalised (D,). Raises ValueError for a group that it does not have."""
        names = [dict.fromkeys((label, kind, group_of(kind))) for label, kind in _named(stream)]
        for group in self.groups:
            if not any(group in own for own in names):
                options = sorted({name for own in names for name in own} - {""})
                raise ValueError(
                    f"normalisation.{stream.name}.groups must name labels or kinds of the stream, got {group!r}: "
                    + nearest(group, options)
                )
        return np.array([next((self.groups[name] for name in own if name in self.groups), self.kind) for own in names])


def _named(stream: Stream) -> list[tuple[str, str]]:
    """The label and the kind of each dimension, "" for what is unknown."""
    unknown = ("",) * stream.size
    return list(zip(stream.labels or unknown, stream.kinds or unknown, strict=True))


def _is_floor(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "iuf" and values.size > 0 and bool(np.all((values >= 0) & (values < np.inf)))


@dataclass(frozen=True)
class Range:
    """The range of one stream that becomes [-1, 1]."""

    low: Array
    """Becomes -1. Equal to `high` in still dimensions."""
    high: Array
    """Becomes 1."""
    std: Array
    """Standard deviation of the normalised values; 1 in dimensions that do not change."""
    still: dict[str, str]
    """Name of each still dimension -> why it counts as still."""


class Floor(NamedTuple):
    """A dimension whose range is at most `width` is still, because of `rule`."""

    width: Array
    rule: str


def resolve_floor(stream: Stream, low: Array, high: Array, floor: float | Sequence[float] | None = None) -> Floor:
    """The floor of each dimension. None stands for the default of values between low and high, see `TOLERANCE`.

    Raises ValueError if `floor` has another number of dimensions.
    """
    if floor is not None:
        if np.shape(floor) not in ((), stream.shape):
            raise ValueError(
                f"normalisation.{stream.name}.floor must be one number or one for each of its {stream.size} "
                f"dimensions, got {floor}"
            )
        return Floor(np.broadcast_to(np.asarray(floor, dtype=np.float64), stream.shape), "its floor")
    if stream.low:
        return Floor(TOLERANCE * np.subtract(stream.high, stream.low), f"{TOLERANCE:g} of its limits")
    size = np.maximum(np.maximum(-low, high), 1)
    return Floor(TOLERANCE * size, f"{TOLERANCE:g} of its largest magnitude, or of 1 if that is more")


def still_dimensions(
    stream: Stream, low: Array, high: Array, floor: Floor, *, of: Sequence[str] | None = None
) -> dict[str, str]:
    """Name of each still dimension -> its range and the rule. of: a note on the range of each dimension."""
    of = of or [""] * stream.size
    indices = np.argwhere(high - low <= floor.width)
    return {
        stream.label(i): f"is constant at {low[i]:g}{of[i]}"
        if low[i] == high[i]
        else f"moves by {high[i] - low[i]:.3g}{of[i]}, from {low[i]:.9g} to {high[i]:.9g}, and {floor.width[i]:.3g} or "
        f"less counts as still: {floor.rule}"
        for (i,) in indices
    }


def lost_decimals(stream: Stream, low: Array, high: Array, *, least: Array | float = 0.0) -> dict[str, str]:
    """Name of each dimension that moves by more than `least` -> why policies, in float32, see it in coarse steps."""
    largest = np.maximum(-low, high)
    spacing = np.spacing(np.minimum(np.abs(largest), float(np.finfo(np.float32).max)).astype(np.float32))
    indices = np.argwhere((high - low > least) & (spacing > RESOLUTION * (high - low)))
    return {
        stream.label(i): f"moves by {high[i] - low[i]:.3g} near {largest[i]:.9g}, where float32, in which policies "
        f"compute, has steps of {spacing[i]:.3g}: subtract an offset in the data"
        for (i,) in indices
    }


def fit_ranges(
    demonstrations: Demonstrations, episodes: Sequence[int], methods: Mapping[str, Normalisation]
) -> dict[str, Range]:
    """The range of every stream except images, over all steps of `episodes`.

    methods: stream name -> its normalisation; all other streams use the default. The range of an action that is zero
    beyond the ends of an episode (`Stream.hold`) includes zero.

    Cost: one pass over the data, and a second one for quantiles; both read in pieces that fit in memory.

    Raises ValueError if a stream does not exist, a floor has another size, or values of an "identity" lie outside
    [-1, 1]. Raises it also if the policy could not command the demonstrated actions: if no dimension of the action
    moves, or if one counts as still although `floor` does not say so.
    """
    streams = {stream.name: stream for stream in demonstrations.specification.streams if not stream.is_image}
    for name in methods:
        if name not in streams:
            raise ValueError(f"normalisation must name a stream of numbers, got {name!r}: {nearest(name, streams)}")
    rows = {name: rows_of(demonstrations, name, episodes) for name in streams}
    return {name: fit_range(stream, rows[name], methods.get(name, Normalisation())) for name, stream in streams.items()}


def fit_range(stream: Stream, rows: Rows, method: Normalisation) -> Range:
    """The range of the rows of one stream. Raises the errors of `fit_ranges`."""
    values, kinds = summary(rows, stream.name), method.kinds_of(stream)
    low, high = values.low, values.high
    if (is_cut := kinds == "quantiles").any():
        least, most = tails(rows, stream.name, tail=method.tail)
        low, high = np.where(is_cut, least, low), np.where(is_cut, most, high)
    if (is_spread := kinds == "deviation").any():
        spread = DEVIATIONS * values.std
        low, high = np.where(is_spread, values.mean - spread, low), np.where(is_spread, values.mean + spread, high)
    fitted = _range(stream, method, kinds, values, low, high)
    if stream.name == "action":
        _check_action(fitted, stream, method, kinds, values)
    return fitted


def _range(
    stream: Stream, method: Normalisation, kinds: NDArray[np.str_], values: Statistics, low: Array, high: Array
) -> Range:
    """The range of a stream whose `low` and `high` should become -1 and 1, unless nothing changes."""
    is_zero = np.array([hold == "zero" for hold in stream.hold] or False)
    low, high = np.where(is_zero, np.minimum(low, 0), low), np.where(is_zero, np.maximum(high, 0), high)
    floor = resolve_floor(stream, low, high, method.floor)
    is_kept = kinds == "identity"
    _check_identity(stream, values, is_kept)
    still = still_dimensions(stream, low, high, floor, of=[NOTES.get(kind, "") for kind in kinds])
    still = {label: reason for i in np.flatnonzero(~is_kept) if (reason := still.get(label := stream.label(i)))}
    half, centre = np.where(high - low <= floor.width, 0, (high - low) / 2), (low + high) / 2
    low, high = np.where(half > 0, low, centre), np.where(half > 0, high, centre)
    low, high, half = (np.where(is_kept, value, own) for value, own in ((-1, low), (1, high), (1, half)))
    std = np.divide(values.std, half, out=np.ones_like(half), where=(half > 0) & (values.std > 0))
    return Range(low, high, std, still)


def _check_identity(stream: Stream, values: Statistics, is_kept: NDArray[np.bool_]) -> None:
    """Raise ValueError unless values that stay as they are lie in [-1, 1]; rounding is allowed."""
    if np.where(is_kept, np.maximum(-values.low, values.high), 0).max() > 1 + TOLERANCE:
        raise ValueError(
            f"normalisation.{stream.name}.kind=identity needs values in [-1, 1], where a policy works, got values from "
            f"{values.low[is_kept].min():g} to {values.high[is_kept].max():g}: choose range or quantiles"
        )


def _check_action(
    fitted: Range, stream: Stream, method: Normalisation, kinds: NDArray[np.str_], values: Statistics
) -> None:
    """Raise ValueError if a policy could not command the demonstrated actions; see `fit_ranges`."""
    is_still, span = fitted.low == fitted.high, values.high - values.low
    if is_still.all():
        reasons = "; ".join(f"{name} {reason}" for name, reason in fitted.still.items())
        raise ValueError(
            f"the action must move in at least one dimension, but {reasons}: record demonstrations that "
            "move, subtract an offset from large numbers, or give normalisation.action.floor=0 if they move by little"
        )
    is_intended = (
        method.floor is not None and span <= resolve_floor(stream, values.low, values.high, method.floor).width
    )
    frozen = np.flatnonzero(is_still & (span > 0) & ~np.asarray(is_intended))
    if len(frozen):
        label = stream.label(int(frozen[0]))
        remedy = "kind=range" if kinds[frozen[0]] == "quantiles" else "floor=0"
        raise ValueError(
            f"{label} {fitted.still[label]}; a policy would never move it: give normalisation.action.{remedy} "
            "to learn it, or normalisation.action.floor=F with its range or more to keep it still"
        )
