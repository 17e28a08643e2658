"""The arguments of the command line, as Hydra's grammar reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..configs.choices import CHOICES
from ..configs.commands import COMMANDS
from ..configs.packages import check_names
from ..specification import nearest

SWEEP = ("-m", "--multirun")
"""Options that run every combination of comma-separated values."""


def overrides(command: str, arguments: Sequence[str]) -> list[str]:
    """Hydra's form of the arguments: the first bare one gets its key.

    >>> overrides("evaluate", ["runs/my run", "episodes=5"])
    ["run='runs/my run'", 'episodes=5']
    >>> overrides("control", ["policy=ws://127.0.0.1:8765"])
    ['run=ws://127.0.0.1:8765']

    Raises ValueError for an unknown option, and for a bare argument that the command does not take.
    """
    result: list[str] = []
    positional = COMMANDS[command].positional
    for argument in arguments:
        if positional == "run":  # a trained policy; to Hydra, `policy` is the group of untrained ones
            argument = re.sub("^policy=", "run=", argument)
        key, equals, value = argument.partition("=")
        is_path = positional is not None and "/" in key and key not in CHOICES  # a path may contain "="
        is_bare = not equals or is_path
        if argument in SWEEP:
            result.append(argument)
        elif argument.startswith("-"):
            raise ValueError(f"there is no option {argument!r}: {nearest(argument, (*SWEEP, '--help'))}")
        elif is_bare and positional is not None and not any(item.startswith(f"{positional}=") for item in result):
            result.append(f"{positional}={quoted(argument)}")
        elif is_bare or key[0:1] in "+~":
            raise ValueError(f"{argument!r} is not of the form key=value: see `recede {command} --help`")
        else:
            result.append(argument if is_readable(argument) else f"{key}={quoted(value)}")
    return result


def requested_imports(arguments: Sequence[str]) -> list[str]:
    """The packages of the last `imports=[...]` among the arguments.

    >>> requested_imports(["dataset=d", "imports=[my_package,other.module]"])
    ['my_package', 'other.module']

    Raises ValueError unless it is a list of names.
    """
    matches = [argument for argument in arguments if argument.startswith("imports=")]
    if not matches:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser

    last = matches[-1]
    value: Any = OverridesParser.create().parse_override(last).value() if is_readable(last) else last
    return check_names([getattr(name, "text", name) for name in value] if isinstance(value, list) else value)


def quoted(value: str) -> str:
    """The value as a quoted string of Hydra's grammar, whatever characters it contains."""
    # Hydra halves backslashes only before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def is_readable(argument: str) -> bool:
    """Whether Hydra's grammar can parse the argument. It cannot parse a path with an apostrophe, for one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep. Raises ValueError if they do without an `out=` folder for its jobs."""
    if not any(argument in SWEEP for argument in arguments):
        return False
    if not any(argument.startswith("out=") for argument in arguments):
        raise ValueError("a sweep needs out=FOLDER: each job writes to a numbered folder in it")
    return True
