"""What the jobs of a sweep have in their numbered folders: `sweep.json`, which `recede train -m` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..files import interpreting, read_json_with_digest, write_json_with_digest

NAME = "sweep.json"
"""The file of a folder that says which job has which values."""

_REMEDY = "give another out=, or delete it to number the jobs anew"


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep; job N writes to the folder N."""

    command: str
    """What each job runs, as "train"."""
    keys: tuple[str, ...]
    """The keys whose values differ."""
    jobs: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Number -> the value of each key, as typed."""

    def number_of(self, values: Mapping[str, str]) -> int | None:
        """The number of the job that has these values; None if there is none."""
        return next((number for number, others in self.jobs.items() if dict(others) == dict(values)), None)


def read_sweep(folder: Path) -> Sweep | None:
    """The sweep that wrote to a folder; None if there is none. Raises ValueError if its file is damaged."""
    path = folder / NAME
    if not path.is_file():
        return None
    content = read_json_with_digest(path, _REMEDY)
    with interpreting(path, _REMEDY, ValueError):
        jobs = {
            int(number): {key: str(values[key]) for key in content["keys"]}
            for number, values in content["jobs"].items()
        }
        return Sweep(str(content["command"]), tuple(content["keys"]), jobs)


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Note the jobs of a sweep in its folder."""
    jobs = {str(number): dict(values) for number, values in sorted(sweep.jobs.items())}
    write_json_with_digest(folder / NAME, {"command": sweep.command, "keys": list(sweep.keys), "jobs": jobs})
