"""Chooses how the streams of a specification are learned, from what their dimensions are. Does not load torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..specification import Specification, Stream, group_of, nearest
from .elements import Angle, Element, Numbers, Pose, Turn, TwoValued
from .representation import MODES, Part, Reference, Representation

LEARNED = {"rotation": ("6d", "as_is"), "angle": ("as_is", "cosine_sine"), "gripper": ("as_is", "binary")}
"""What may be chosen for rotations, angles and grippers; the default first."""

REFERRING = ("position", "angle", "rotation")
"""Kinds that are relative or a difference unless `groups` says otherwise. Grippers and other numbers are absolute."""


class Block(NamedTuple):
    """A block of `Stream.blocks`, or the three positions and the rotation of a pose."""

    kind: str
    """"pose" or one of `Stream.kinds`."""
    start: int
    stop: int

    @property
    def group(self) -> str:
        """The kind, of all rotations "rotation"."""
        return group_of(self.kind)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a policy chooses; see `configs.components.representations`.

    Raises ValueError for a choice that does not exist.
    """

    mode: str = "absolute"
    groups: Mapping[str, str] = field(default_factory=dict)
    """Kind ("rotation" is every kind of rotation) or label of the action -> its mode."""
    reference: Sequence[str] = ()
    rotation: str = "6d"
    angle: str = "as_is"
    gripper: str = "as_is"

    def __post_init__(self) -> None:
        for name, options in LEARNED.items():
            if (value := getattr(self, name)) not in options:
                raise ValueError(
                    f"policy.representation.{name} must be one of {', '.join(options)}, got {value!r}: "
                    + nearest(str(value), options)
                )
        for name, mode in self.groups.items():
            if mode not in MODES:
                raise ValueError(
                    f"policy.representation.groups.{name} must be one of {', '.join(MODES)}, got {mode!r}: "
                    + nearest(str(mode), MODES)
                )


def represent(specification: Specification, choices: Choices) -> Representation:
    """The representation of a specification.

    Raises ValueError, before anything is computed, if the action cannot be learned so: if nobody says what its
    dimensions are, or to which observation they refer, or if that may be absent.
    """
    action = specification.action
    parts = {
        stream.name: _merged([_observed(stream, block, choices) for block in _blocks(stream)])
        for stream in specification.observations
    }
    modes = _modes(action, choices)
    blocks = _with_poses(action, modes, choices)
    referring = [block for block in blocks if modes[block.start] != "absolute"]
    sources = _sources(specification, choices, referring)
    parts["action"] = _merged([_commanded(action, block, modes[block.start], sources, choices) for block in blocks])
    representation = Representation(
        specification,
        {name: tuple(own) for name, own in parts.items() if any(not _is_plain(part) for part in own)},
    )
    may_be_absent = {stream.name for stream in specification.may_be_absent}
    if absent := [name for name in representation.reference_streams if name in may_be_absent]:
        raise ValueError(
            f"the action refers to the observation {absent[0]!r}, which one of the datasets lacks: name another one "
            "with policy.representation.reference=, or choose policy/representation=absolute"
        )
    return representation


def _is_plain(part: Part) -> bool:
    return type(part.element) is Numbers and part.reference is None


def _blocks(stream: Stream) -> list[Block]:
    return [Block(*block) for block in stream.blocks()]


def _observed(stream: Stream, block: Block, choices: Choices) -> Part:
    """A part of an observation; whether a gripper is open is observed as it is."""
    is_gripper = block.kind == "gripper"
    return Part(block.start, Numbers(("gripper",)) if is_gripper else _element(stream, block, choices))


def _element(stream: Stream, block: Block, choices: Choices) -> Element:
    size = block.stop - block.start
    if block.kind == "pose":
        return Pose(Turn(stream.kinds[block.stop - 1], size - 3))
    if block.group == "rotation" and choices.rotation == "6d":
        return Turn(block.kind, size)
    if block.kind == "angle" and choices.angle == "cosine_sine":
        return _angle(stream, block.start, is_pair=True)
    if block.kind == "gripper" and choices.gripper == "binary":
        return _binary(stream, block.start)
    return Numbers((block.kind,) * size)


def _angle(stream: Stream, index: int, *, is_pair: bool) -> Angle:
    """Limits of a turn or less say in which turn the data lie; otherwise they lie about 0."""
    low, high = (stream.low[index], stream.high[index]) if stream.low else (-math.inf, math.inf)  # type: ignore[index]
    return Angle((low + high) / 2 if high - low <= 2 * math.pi + 1e-6 else 0.0, is_pair)


def _binary(stream: Stream, index: int) -> TwoValued:
    if not stream.low:
        raise ValueError(
            f"policy.representation.gripper=binary needs the limits of {stream.label(index)}, which are its two "
            "values, got none: declare low and high, or choose gripper=as_is"
        )
    return TwoValued(("gripper",), low=stream.low[index], high=stream.high[index])  # type: ignore[index]


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Neighbours that are added alike, as one part: fewer operations."""
    result = list[Part]()
    for part in parts:
        before = result[-1] if result else None
        if before is not None and _continues(before, part):
            joined = Numbers((*before.element.kinds, *part.element.kinds))
            reference = before.reference and Reference(before.reference.stream, before.reference.start, joined)
            result[-1] = Part(before.start, joined, before.mode, reference)
        else:
            result.append(part)
    return result


def _continues(before: Part, part: Part) -> bool:
    if type(before.element) is not Numbers or type(part.element) is not Numbers or before.mode != part.mode:
        return False
    left, right = before.reference, part.reference
    if left is None or right is None:
        return left is right
    return left.stream == right.stream and left.start + left.element.size == right.start


# --- the action


def _modes(action: Stream, choices: Choices) -> dict[int, str]:
    """The first dimension of each block of the action -> its mode."""
    blocks = _blocks(action)
    names = {block.group for block in blocks} | {block.kind for block in blocks} | set(action.labels)
    for name in choices.groups:
        if name not in names:
            raise ValueError(
                f"policy.representation.groups must name kinds or labels of the action, got {name!r}: "
                + (nearest(name, names) if blocks else _no_kinds(action))
            )
    if choices.mode != "absolute" and not blocks:
        raise ValueError(
            f"policy/representation={choices.mode} needs to know what the dimensions of the action are, got no kinds: "
            + _no_kinds(action)
        )
    modes = {block.start: _mode(action, block, choices) for block in blocks}
    if choices.mode != "absolute" and set(modes.values()) == {"absolute"}:
        raise ValueError(
            f"policy/representation={choices.mode} needs a position, an angle or a rotation in the action, got "
            f"{', '.join(sorted(names))}: choose absolute, or name what is {choices.mode} in groups"
        )
    return modes


def _no_kinds(action: Stream) -> str:
    return f"declare Stream({action.name!r}, ..., kinds=...) where the data are made"


def _mode(action: Stream, block: Block, choices: Choices) -> str:
    labels = action.labels[block.start : block.stop]
    exceptions = [choices.groups[name] for name in (*labels, block.kind, block.group) if name in choices.groups]
    mode = exceptions[0] if exceptions else (choices.mode if block.group in REFERRING else "absolute")
    label = action.label(block.start)
    if mode != "absolute" and action.hold and "zero" in action.hold[block.start : block.stop]:
        raise ValueError(
            f"{label} is a velocity or a difference already, because hold is zero there, and cannot be {mode}: leave "
            f"it absolute with policy.representation.groups.{labels[0] if labels else block.kind}=absolute"
        )
    if mode != "absolute" and block.group == "rotation" and choices.rotation == "as_is":
        raise ValueError(
            f"{label} cannot be {mode} with policy.representation.rotation=as_is, because rotations are not added: "
            "choose rotation=6d"
        )
    if mode != "absolute" and block.kind == "gripper" and choices.gripper == "binary":
        raise ValueError(f"{label} cannot be {mode} with policy.representation.gripper=binary: leave it absolute")
    if mode != "absolute" and block.kind == "cosine_sine":
        raise ValueError(f"{label} cannot be {mode}, because cosines are not added: declare an angle instead")
    return mode


def _with_poses(action: Stream, modes: Mapping[int, str], choices: Choices) -> list[Block]:
    """The blocks, those of three positions and a rotation behind them that refer to something as one."""
    result = list[Block]()
    for block in _blocks(action):
        front = result[-3:]
        is_pose = (
            block.group == "rotation"
            and [part.kind for part in front] == ["position"] * 3
            and {modes[part.start] for part in (*front, block)} in ({"relative"}, {"difference"})
        )
        if is_pose:
            block = Block("pose", front[0].start, block.stop)
            del result[-3:]
        result.append(block)
    return result


def _commanded(action: Stream, block: Block, mode: str, sources: Sequence[Stream], choices: Choices) -> Part:
    """A part of the action."""
    if mode == "absolute":
        return Part(block.start, _element(action, block, choices))
    source, start = next((stream, place) for stream in sources if (place := _place(action, block, stream)) is not None)
    element = _element(action, block, choices)
    if block.kind == "angle":  # a difference of angles is the shorter way round
        element = _angle(action, block.start, is_pair=choices.angle == "cosine_sine")
    if block.group not in ("pose", "rotation"):
        return Part(block.start, element, mode, Reference(source.name, start, element))
    first = start + 3 if block.kind == "pose" else start
    kind, stop = next((kind, stop) for kind, begin, stop in source.blocks() if begin == first)
    same = _element(source, Block("pose" if block.kind == "pose" else kind, start, stop), choices)
    return Part(block.start, element, mode, Reference(source.name, start, same))


# --- the observation to which it refers


def _sources(specification: Specification, choices: Choices, blocks: Sequence[Block]) -> list[Stream]:
    """The observations to which the blocks refer: those that the policy names, or the only one that has all."""
    streams = {s.name: s for s in specification.observations if not (s.is_image or s.context)}
    for name in choices.reference:
        if name not in streams:
            raise ValueError(
                f"policy.representation.reference must name observed streams of numbers, got {name!r}: "
                + nearest(name, streams)
            )
    action, candidates = specification.action, [streams[name] for name in choices.reference or streams]
    if choices.reference and not blocks:
        raise ValueError(
            "policy.representation.reference is for actions that are relative or differences, got neither: leave it out"
        )
    for block in blocks:
        if all(_place(action, block, stream) is None for stream in candidates):
            raise ValueError(
                f"{action.label(block.start)} is to be relative or a difference, but no observation says where it is: "
                f"among {', '.join(stream.name for stream in candidates)} none has its label and kind; name a stream "
                f"that has with policy.representation.reference=[NAME], or leave it absolute"
            )
    if choices.reference:
        return candidates
    whole = [s for s in candidates if all(_place(action, block, s) is not None for block in blocks)]
    if blocks and len(whole) != 1:
        names = [stream.name for stream in whole or candidates]
        raise ValueError(
            f"the action may refer to several observations, {', '.join(names)}: name those that say where the robot "
            f"is with policy.representation.reference=[{names[0]}]"
        )
    return whole


def _place(action: Stream, block: Block, stream: Stream) -> int | None:
    """The first dimension of a stream that says where a block of the action is; None if none does.

    It has the labels of the block, or if neither side has labels the kinds of the whole action. A rotation may be of
    another kind, and the only one of a stream needs no label.
    """
    if not (action.labels and stream.labels):
        is_same = not action.labels and not stream.labels and stream.kinds == action.kinds
        return block.start if is_same else None
    if block.group == "rotation":
        return _rotation(action, block, stream)
    size = 3 if block.kind == "pose" else block.stop - block.start
    labels, kind = action.labels[block.start : block.start + size], "position" if block.kind == "pose" else block.kind
    for start in range(len(stream.labels) - size + 1):
        place = slice(start, start + size)
        is_whole = block.kind != "pose" or any(turn.start == place.stop for turn in _rotations(stream))
        if is_whole and stream.labels[place] == labels and set(stream.kinds[place]) <= {kind}:
            return start
    return None


def _rotation(action: Stream, block: Block, stream: Stream) -> int | None:
    places = [start for _, start, _ in _rotations(stream)]
    labels = action.labels[block.start : block.stop]
    same = [start for start in places if stream.labels[start : start + len(labels)] == labels]
    return (same or (places if len(places) == 1 else [None]))[0]


def _rotations(stream: Stream) -> list[Block]:
    return [block for block in _blocks(stream) if block.group == "rotation"]
