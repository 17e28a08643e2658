"""The groups in which actions are relative to one another: vectors, angles, rotations and poses.

An element has numbers in the data and coordinates that are learned. Between both it is a member of a group, (..., *m):
`between(a, b)` is the way from a to b as a sees it, and `moved(a, way)` goes it. A pose moved by the way from another
pose stays the same if the whole world is moved.

The functions take tensors and arrays of numpy. Shapes: ... any leading axes; d, d' numbers in the data and learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .denoising.guidance import library
from .rotations import from_matrix, product, to_matrix, transposed, wrapped

SIX = tuple(f"{column}{axis}" for column in "xy" for axis in "xyz")
"""Names of the numbers of 6D: the axes x and y of what is turned, each in the frame of reference."""


def as_float(x: Any) -> Any:
    """Numbers as floats: doubles as they are, everything else in single precision."""
    if isinstance(x, np.ndarray):
        return x if x.dtype == np.float64 else x.astype(np.float32)
    return x if x.is_floating_point() else x.float()


def of_type(x: Any, other: Any) -> Any:
    """Numbers in the dtype of others."""
    return x.astype(other.dtype) if isinstance(x, np.ndarray) else x.to(other.dtype)


class Element(Protocol):
    """Some dimensions that belong together."""

    @property
    def size(self) -> int:
        """Numbers in the data, d."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the learned numbers, (d',); see `Stream.kinds`."""
        ...

    @property
    def learned_size(self) -> int:
        """Numbers that are learned, d'."""
        ...

    def labels(self, names: Sequence[str], /) -> list[str]:
        """Names of the d' learned numbers, from those of the d numbers in the data."""
        ...

    def lift(self, numbers: Any, /) -> Any:
        """Numbers in the data (..., d) -> member (..., *m)."""
        ...

    def data(self, member: Any, /) -> Any:
        """The inverse of `lift`."""
        ...

    def coordinates(self, member: Any, /) -> Any:
        """Member (..., *m) -> learned numbers (..., d')."""
        ...

    def of_coordinates(self, coordinates: Any, /) -> Any:
        """The inverse of `coordinates`; any numbers become a member."""
        ...

    def between(self, base: Any, member: Any, /) -> Any:
        """The way from one member to another."""
        ...

    def moved(self, base: Any, way: Any, /) -> Any:
        """The inverse of `between` in its second argument."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Numbers that are added: positions, grippers and others."""

    kinds: tuple[str, ...]

    @property
    def size(self) -> int:
        """See `Element`."""
        return len(self.kinds)

    learned_size = size

    def labels(self, names: Sequence[str]) -> list[str]:
        """The same names."""
        return list(names)

    def lift(self, numbers: Any) -> Any:
        """The numbers themselves."""
        return numbers

    data = coordinates = of_coordinates = lift

    def between(self, base: Any, member: Any) -> Any:
        """The difference."""
        return member - base

    def moved(self, base: Any, way: Any) -> Any:
        """The sum."""
        return base + way


@dataclass(frozen=True)
class TwoValued(Numbers):
    """A gripper that is open or closed: -1 for `low`, 1 for `high`, and nothing between."""

    low: float = 0.0
    high: float = 1.0

    def lift(self, numbers: Any) -> Any:
        """-1 or 1, by the nearer value."""
        return library(numbers).where(numbers > (self.low + self.high) / 2, numbers * 0 + 1, numbers * 0 - 1)

    def data(self, member: Any) -> Any:
        """One of the two values, by the sign."""
        return library(member).where(member > 0, member * 0 + self.high, member * 0 + self.low)

    coordinates = of_coordinates = Numbers.lift


@dataclass(frozen=True)
class Angle:
    """An angle modulo a turn. middle: of the turn in which the data lie."""

    middle: float = 0.0
    is_pair: bool = False
    """Whether cosine and sine are learned."""
    size = 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `Element`."""
        return ("cosine_sine",) * 2 if self.is_pair else ("angle",)

    @property
    def learned_size(self) -> int:
        """See `Element`."""
        return len(self.kinds)

    def labels(self, names: Sequence[str]) -> list[str]:
        """See `Element`."""
        return [f"{part}_{names[0]}" for part in ("cos", "sin")] if self.is_pair else list(names)

    def lift(self, numbers: Any) -> Any:
        """The angle itself."""
        return numbers

    def data(self, member: Any) -> Any:
        """The angle in the turn of the data."""
        return wrapped(member, self.middle)

    def coordinates(self, member: Any) -> Any:
        """The angle, or its cosine and sine."""
        lib = library(member)
        return lib.concat([lib.cos(member), lib.sin(member)], -1) if self.is_pair else member

    def of_coordinates(self, coordinates: Any) -> Any:
        """The angle."""
        if not self.is_pair:
            return coordinates
        return library(coordinates).arctan2(coordinates[..., 1:], coordinates[..., :1])

    def between(self, base: Any, member: Any) -> Any:
        """The shorter way round."""
        return wrapped(member - base)

    def moved(self, base: Any, way: Any) -> Any:
        """The angle after the way."""
        return base + way


@dataclass(frozen=True)
class Turn:
    """A rotation of a kind, learned as 6D; a member is a matrix (..., 3, 3)."""

    kind: str
    size: int
    kinds = ("rotation_6d",) * 6
    learned_size = 6

    def labels(self, names: Sequence[str]) -> list[str]:
        """See `Element`."""
        return [f"{names[0]}_{axis}" for axis in SIX]

    def lift(self, numbers: Any) -> Any:
        """The matrix."""
        return to_matrix(self.kind, numbers)

    def data(self, member: Any) -> Any:
        """The numbers of the kind; see `from_matrix` for which of several."""
        return from_matrix(self.kind, member)

    def coordinates(self, member: Any) -> Any:
        """6D."""
        return from_matrix("rotation_6d", member)

    def of_coordinates(self, coordinates: Any) -> Any:
        """The frame that Gram-Schmidt makes of any six numbers."""
        return to_matrix("rotation_6d", coordinates)

    def between(self, base: Any, member: Any) -> Any:
        """The rotation from one frame to another, in the first one."""
        return product(transposed(base), member)

    def moved(self, base: Any, way: Any) -> Any:
        """The rotated frame."""
        return product(base, way)


@dataclass(frozen=True)
class Pose:
    """A position and the rotation behind it; a member is (..., 3, 4), the matrix and the position beside it.

    A way is in the frame of the pose from which it leads: T_base^-1 T, as in UMI (Chi et al. 2024).
    """

    turn: Turn
    learned_size = 9

    @property
    def size(self) -> int:
        """See `Element`."""
        return 3 + self.turn.size

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `Element`."""
        return ("position",) * 3 + self.turn.kinds

    def labels(self, names: Sequence[str]) -> list[str]:
        """See `Element`."""
        return [*names[:3], *self.turn.labels(names[3:])]

    def lift(self, numbers: Any) -> Any:
        """See `Element`."""
        return _joined(self.turn.lift(numbers[..., 3:]), numbers[..., :3])

    def data(self, member: Any) -> Any:
        """See `Element`."""
        return library(member).concat([member[..., 3], self.turn.data(member[..., :3])], -1)

    def coordinates(self, member: Any) -> Any:
        """The position, and 6D."""
        return library(member).concat([member[..., 3], self.turn.coordinates(member[..., :3])], -1)

    def of_coordinates(self, coordinates: Any) -> Any:
        """See `Element`."""
        return _joined(self.turn.of_coordinates(coordinates[..., 3:]), coordinates[..., :3])

    def between(self, base: Any, member: Any) -> Any:
        """The pose in the frame of another."""
        back = transposed(base[..., :3])
        way = product(back, member[..., 3:] - base[..., 3:])
        return library(way).concat([product(back, member[..., :3]), way], -1)

    def moved(self, base: Any, way: Any) -> Any:
        """The pose of which `way` is that in the frame of another."""
        turn = base[..., :3]
        position = product(turn, way[..., 3:]) + base[..., 3:]
        return library(way).concat([product(turn, way[..., :3]), position], -1)


def _joined(matrix: Any, position: Any) -> Any:
    return library(matrix).concat([matrix, position[..., None]], -1)
