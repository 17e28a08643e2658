"""Episodes are noted the moment they end, so that an evaluation that was interrupted goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import with_digest, write_text
from .episode import Outcome

NAME = "episodes.jsonl"
"""The file of a journal, in the folder of the results. It is deleted once `evaluation.json` is written."""

_KEPT = (
    *("seed", "success", "score", "num_steps", "final_score", "success_step", "start", "phase"),
    *("requested", "monitors"),
)


class Journal:
    """The outcomes of one policy's episodes in a file with a line for each; films are not kept.

    Nothing is written before the first outcome. An episode that broke off is not noted: it is tried again.

    subject: whatever else the outcomes depend on. A file of another subject is written anew. A line that a killed
    process did not finish is dropped.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any]) -> None:
        self.path, self.outcomes, self.seconds = path, dict[int, Outcome](), 0.0
        self._head = json.dumps(with_digest({"subject": dict(subject)}), sort_keys=True, default=str)
        lines = path.read_text().splitlines() if path.is_file() else []
        if lines[:1] == [self._head]:
            self._read(lines[1:])
        self._before, self._began, self._is_open = self.seconds, time.perf_counter(), False

    def _read(self, lines: list[str]) -> None:
        for line in lines:
            try:
                content = json.loads(line)
                outcome = Outcome(**{name: content[name] for name in _KEPT})
            except (ValueError, TypeError, KeyError):  # a killed process did not finish it
                continue
            self.outcomes[outcome.seed], self.seconds = outcome, content["seconds"]

    def _line(self, outcome: Outcome) -> str:
        content = {name: getattr(outcome, name) for name in _KEPT} | {
            "start": dict(outcome.start),
            "monitors": dict(outcome.monitors),
        }
        return json.dumps({**content, "seconds": self.seconds})

    def note(self, outcome: Outcome) -> None:
        """Add an outcome to the file."""
        if outcome.fault is not None:
            return
        self.seconds = self._before + time.perf_counter() - self._began
        self.outcomes[outcome.seed] = outcome
        if self._is_open:
            with self.path.open("a") as file:
                file.write(f"{self._line(outcome)}\n")
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(f"{line}\n" for line in (self._head, *map(self._line, self.outcomes.values()))))
        self._is_open = True

    def delete(self) -> None:
        """Delete the file, because the results are written."""
        self.path.unlink(missing_ok=True)
