"""Success against the severity of disturbances: one policy in the same episodes, undisturbed and disturbed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line
from ..envs.disturbances import disturbed
from ..files import write_bytes, write_text
from .delays import measure_each
from .reports.comparison import Result
from .reports.robustness import document, draw
from .results import subject_of


class Arm(NamedTuple):
    """One disturbance, and how the policy did under it."""

    kind: str
    """A key of `envs.disturbance_kinds.KINDS`."""
    severity: float
    """In the unit of the kind; 0 is undisturbed."""
    result: Result
    """The content of `evaluation.json`."""


def measure_robustness(config: EvaluateConfig, out: Path) -> list[Arm]:
    """Evaluate the policy undisturbed, and under each severity of each disturbance, in a folder of its own each.

    An interrupted command can be repeated. Also writes a table and a picture to `out`. The first arm is undisturbed.

    Raises ValueError, before anything is measured, if the task cannot be disturbed so.
    """
    task = subject_of(replace(config, disturb={})).task
    pairs = [(kind, severity) for kind, severities in config.disturb.items() for severity in severities]
    for kind, severity in pairs:
        disturbed(task, kind, severity)
    first, *rest = measure_each(config.parts, out)
    measured = [Arm("", 0.0, first), *(Arm(*pair, result) for pair, result in zip(pairs, rest, strict=True))]
    write_text(out / "robustness.md", document(measured, command=command_line("evaluate", config)))
    write_bytes(out / "robustness.png", draw(measured))
    return measured
