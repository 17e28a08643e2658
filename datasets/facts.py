"""What is noted of an episode beside its streams: how it ended, who drove it and with what, and what was measured."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any

from ..specification import nearest
from ..version import __version__

OUTCOMES = ("success", "failure", "unknown")
"""How an episode may end."""

COMMANDED, INPUT = "commanded", "input"
ACTIONS = (COMMANDED, INPUT)
"""What the actions of a recording are, `notes.action`: what was commanded, after safety, or where the input was."""

RELEVANT = (
    *("numpy", "gymnasium", "mujoco", "mujoco_warp", "pymunk"),
    *("gym_pusht", "gym_aloha", "dm_control", "gymnasium_robotics", "metaworld"),
)
"""Packages whose versions decide what a simulation does, and are noted if they are loaded."""


@dataclass(frozen=True, kw_only=True)
class EpisodeFacts:
    """The facts of an episode. What was not noted is empty, and the outcome is then "unknown".

    Raises ValueError for an unknown outcome, for a value of another kind, and for notes that JSON does not have.
    """

    outcome: str = "unknown"
    """success, failure or unknown."""
    task: str = ""
    """The task, as on the command line."""
    sentence: str = ""
    """What was to be done, in words."""
    operator: str = ""
    """Who or what drove: "script" for a scripted expert, else a name."""
    input: str = ""
    """What the operator drove with, such as browser, leader or expert."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Stream -> its measured rate, Hz."""
    delays: Mapping[str, float] = field(default_factory=dict)
    """Stream -> its measured delay, s."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Anything else that JSON holds, under keys of your own."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")
        for name in ("task", "sentence", "operator", "input"):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} must be a text, got {value!r}: write it as a text, or leave it out")
        for name in ("versions", "rates", "delays", "notes"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ValueError(f"{name} must have texts as keys, got {value!r}: name each of its values")
        for key, value in dict[str, Any](self.versions).items():
            if not isinstance(value, str):
                raise ValueError(f"versions must be texts, got {value!r} for {key}: write it as a text")
        for name in ("rates", "delays"):
            for key, value in getattr(self, name).items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                    raise ValueError(f"{name} must be finite and not negative, got {value!r} for {key}: leave it out")
        try:
            json.dumps(dict(self.notes), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"notes must be values of JSON ({error}): convert them to numbers, texts or lists"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The facts that were noted, as JSON."""
        empty = EpisodeFacts()
        return {name: value for name, value in asdict(self).items() if value != getattr(empty, name)}

    @classmethod
    def from_json(cls, content: Any) -> EpisodeFacts:
        """The facts in the JSON of `to_json`. Raises ValueError if they are not facts."""
        names = [entry.name for entry in fields(cls)]
        if not isinstance(content, dict):
            raise ValueError(f"the facts of an episode must be a JSON object, got {content!r}: restore them")
        for name in content:
            if name not in names:
                raise ValueError(f"there is no fact {name!r}: {nearest(name, names)}; write facts of your own to notes")
        return cls(**content)


UNKNOWN = EpisodeFacts()
"""The facts of an episode of which nothing was noted."""


def versions_here(**more: str) -> dict[str, str]:
    """Versions of Recede, Python and those packages that this process simulates with. more: further entries.

    >>> versions_here(firmware="3.1")["firmware"]
    '3.1'
    """
    simulated_with = {package: version(package) for package in RELEVANT if package in sys.modules}
    return {"python": platform.python_version(), "recede": __version__} | simulated_with | more
