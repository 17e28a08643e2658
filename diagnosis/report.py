"""Findings, each with a remedy, and the report that collects and prints them.

The report as JSON is for strangers: it holds no home, no user name, and no value of a variable that may be a secret.
"""

from __future__ import annotations

import getpass
import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..envs.faults import is_addressed, one_line, place

SEVERITIES = ("ok", "note", "warning", "problem")
"""From nothing to do to what must be done."""

MOST_SHOWN = 12
"""Findings of a subject that are printed; the JSON holds all."""

WIDTH = 116
"""Characters of a printed line."""

Facts: TypeAlias = dict[str, Any]
"""What was measured, by name: texts, numbers, and lists or mappings of them."""


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it is. Raises ValueError for a warning or a problem without a remedy."""

    severity: str
    """One of `SEVERITIES`."""
    what: str
    """A sentence without a full stop."""
    remedy: str = ""
    """What to do about it; empty if there is nothing to do."""
    subject: str = ""
    """The heading that it stands under."""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {', '.join(SEVERITIES)}, got {self.severity!r}")
        if self.severity in ("warning", "problem") and not self.remedy:
            raise ValueError(f"a {self.severity} must have a remedy, got none for {self.what!r}")

    def __str__(self) -> str:
        lines = textwrap.wrap(self.what, WIDTH - 11, break_on_hyphens=False, break_long_words=False)
        if self.remedy and self.severity != "ok":
            lines += textwrap.wrap(f"-> {self.remedy}", WIDTH - 11, break_on_hyphens=False, break_long_words=False)
        return f"  {self.severity:<9}" + "\n           ".join(lines)


Look: TypeAlias = Callable[[Facts], Iterator[Finding]]
"""Looks at one subject: fills the facts and yields what it sees."""


class Report:
    """All findings and facts, in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.facts: dict[str, Facts] = {}

    def examine(self, subject: str, look: Look) -> None:
        """Look at a subject and print what it shows. An error of `look` is a problem among its findings."""
        print(subject, flush=True)
        findings, facts = list[Finding](), self.facts.setdefault(subject, {})
        try:
            findings += (replace(finding, subject=subject) for finding in look(facts))
        except (Exception, SystemExit) as error:  # a module of the user may call `sys.exit`
            findings.append(replace(_broken(error), subject=subject))
        self.findings += findings
        ranked = sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))[:MOST_SHOWN]
        shown = [finding for finding in findings if finding in ranked]
        print(*shown, sep="\n")
        if len(findings) > len(shown):
            print(f"  and {len(findings) - len(shown)} more, which json=FILE holds")
        print(flush=True)

    def count(self, severity: str) -> int:
        """How many findings are of a severity."""
        return Counter(finding.severity for finding in self.findings)[severity]

    @property
    def verdict(self) -> str:
        """How many problems and warnings there are, in words."""
        counts = [(self.count(severity), severity) for severity in ("problem", "warning")]
        return ", ".join(f"{count or 'no'} {word}{'' if count == 1 else 's'}" for count, word in counts)

    def to_json(self) -> dict[str, Any]:
        """All findings and facts, fit to be shown to strangers; see `anonymous`."""
        return _plain({"findings": [asdict(finding) for finding in self.findings], "facts": self.facts})


def _broken(error: BaseException) -> Finding:
    """An error as a finding."""
    text = one_line(str(error)) or type(error).__name__
    if isinstance(error, ValueError | OSError) and is_addressed(error):  # they state their remedy
        return Finding("problem", text, "do what it says, and look again")
    remedy = "mend that code, or add the report of json=FILE to a bug report"
    return Finding("problem", f"{type(error).__name__}: {text} ({place(error)})", remedy)


def _plain(value: Any) -> Any:
    """A value as JSON: texts anonymous, numbers finite or null."""
    if isinstance(value, Mapping):
        return {anonymous(str(key)): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return anonymous(str(value))


_SECRET = re.compile(r"TOKEN|SECRET|KEY|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
"""Names of variables whose values are never shown."""

LEAST_LETTERS = 6
"""A shorter value of such a variable is no secret, and hiding it everywhere would hide words."""


def anonymous(text: str) -> str:
    """A text without homes, the user's name in paths, passwords in addresses, and values of secret variables.

    >>> anonymous("ws://me:pass@host/run of /home/ada/runs/a and /Users/bob/b.zarr")
    'ws://***@host/run of ~/runs/a and ~/b.zarr'
    """
    for name, value in os.environ.items():
        if len(value) >= LEAST_LETTERS and _SECRET.search(name):
            text = text.replace(value, "***")
    text = re.sub(r"(?<=://)[^/\s@]+@", "***@", text)
    if (home := str(Path.home())) != "/":
        text = re.sub(rf"{re.escape(home)}(?=/|$|\W)", "~", text)
    text = re.sub(r"/(?:home|Users)/[^/\s:'\"]+", "~", text)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return text
    return re.sub(rf"(?<=[/\\-]){re.escape(user)}(?=[/\\]|$)", "USER", text)
