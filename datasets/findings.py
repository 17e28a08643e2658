"""What looks wrong in demonstrations, in few lines: the same finding in several dimensions of a stream is one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..specification import Stream

FEW = 2
"""So many reasons of a kind have a line of their own."""

_NUMBER = re.compile(r"-?[0-9.]+(e[-+]?[0-9]+)?")


class Fault(NamedTuple):
    """What looks wrong, with one remedy. share: of the steps or episodes that it concerns, from 0 to 1."""

    share: float
    text: str


class Finding(NamedTuple):
    """What looks wrong in one dimension of a stream."""

    share: float
    """Of the steps or episodes that it concerns, from 0 to 1."""
    stream: Stream
    dimension: int
    what: str
    """A clause such as "is outside its limits". Findings of equal clauses are of one kind."""
    where: str
    """Of how many steps or episodes."""
    remedy: str = ""


def merged(findings: Iterable[Finding]) -> list[Fault]:
    """One fault for each stream and kind. It names every dimension, and of the widest finding its place and remedy."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.stream.name, finding.what), []).append(finding)
    return [_fault(kind) for kind in kinds.values()]


def _fault(findings: Sequence[Finding]) -> Fault:
    widest = max(findings, key=lambda finding: finding.share)
    stream, label = widest.stream, widest.stream.label(widest.dimension)
    remedy = f": {widest.remedy}" if widest.remedy else ""
    if len(findings) == 1:
        return Fault(widest.share, f"{label} {widest.what} {widest.where}{remedy}")
    indices = sorted({finding.dimension for finding in findings})
    most = f"{label} most, {widest.where}" if len(indices) > 1 else f"{widest.where}, and elsewhere"
    return Fault(widest.share, f"{together(stream, indices)} {widest.what}, {most}{remedy}")


def grouped(stream: Stream, reasons: Mapping[str, str]) -> dict[str, str]:
    """The same reasons, with one name for all dimensions of one reason, and of many that differ in their numbers alone.

    reasons: the name of a dimension, as of `Stream.label` -> a clause.

    >>> grouped(Stream("state", (5,)), {"state[0]": "is constant", "state[1]": "moves", "state[4]": "is constant"})
    {'state[0, 4]': 'is constant', 'state[1]': 'moves'}
    >>> grouped(Stream("state", (9,)), {f"state[{index}]": f"moves by {index}e-7" for index in range(9)})
    {'state[0:9]': 'moves by 0e-7 (state[0]; the others likewise, with other numbers)'}
    """
    indices = {stream.label(index): index for index in range(stream.size)}
    kinds: dict[str, dict[str, list[int]]] = {}
    for name, reason in reasons.items():
        kinds.setdefault(_NUMBER.sub("", reason), {}).setdefault(reason, []).append(indices[name])
    lines: dict[str, str] = {}
    for kind in kinds.values():
        if len(kind) > FEW:
            first = stream.label(min(kind[next(iter(kind))]))
            note = f"{next(iter(kind))} ({first}; the others likewise, with other numbers)"
            kind = {note: sorted(itertools.chain(*kind.values()))}
        lines |= {together(stream, alike): reason for reason, alike in kind.items()}
    return lines


def together(stream: Stream, indices: Sequence[int]) -> str:
    """One name for several dimensions, in ascending order.

    >>> together(Stream("state", (39,)), [2, 7, 8, 9, 10, 18])
    'state[2, 7:11, 18]'
    >>> together(Stream("gripper", (3,), labels=("x", "y", "z")), [0, 2])
    'gripper.x, gripper.z'
    """
    if stream.labels or len(indices) == 1:
        return ", ".join(map(stream.label, indices))
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    parts = [f"{run[0]}:{run[-1] + 1}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"{stream.name}[{', '.join(parts)}]"
