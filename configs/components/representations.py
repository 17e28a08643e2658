"""How a policy learns the streams: what its dimensions are, a stream says by its kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...policy.represent import Choices, represent
from ...specification import Specification
from .lazy import values

if TYPE_CHECKING:
    from ...policy.representation import Representation


@dataclass(kw_only=True)
class _RepresentationConfig:
    mode: ClassVar[str] = "absolute"
    rotation: str = "6d"
    """6d learns every rotation whose kind is declared as two axes of its frame; as_is as the data have it."""
    angle: str = "as_is"
    """cosine_sine learns every declared angle as these two; as_is as the data have it."""
    gripper: str = "as_is"
    """binary commands a declared gripper only to the limits of its stream, whichever is nearer; as_is to any width."""

    def __post_init__(self) -> None:
        self._choices()

    def _choices(self) -> Choices:
        return Choices(mode=self.mode, **values(self))

    def build(self, specification: Specification) -> Representation:
        """The representation of these streams. Raises ValueError if their actions cannot be learned so."""
        return represent(specification, self._choices())


@dataclass(kw_only=True)
class AbsoluteConfig(_RepresentationConfig):
    """Actions are learned as they are in the data."""


@dataclass(kw_only=True)
class _ReferringConfig(_RepresentationConfig):
    groups: dict[str, Any] = field(default_factory=dict)
    """Exceptions: KIND or LABEL of the action -> absolute, relative or difference; the kind rotation stands for all.
Grippers and numbers are absolute unless named."""
    reference: list[str] = field(default_factory=list)
    """Observations that say where the robot is, by the labels of the action. [] takes the one that has all labels."""


@dataclass(kw_only=True)
class RelativeConfig(_ReferringConfig):
    """Positions, angles and rotations of the action are relative to those last observed; poses in their frame."""

    mode: ClassVar[str] = "relative"


@dataclass(kw_only=True)
class DifferenceConfig(_ReferringConfig):
    """Positions, angles and rotations of the action are learned as differences from step to step."""

    mode: ClassVar[str] = "difference"
