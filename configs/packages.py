"""A user's own packages, imported before a command's configuration is composed. They may add choices.

Only the command line and Python code name them: no checkpoint, exported folder or server can make recede import code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(kw_only=True)
class CommandConfig:
    """What the configurations of all commands share."""

    "Your own packages"

    imports: list[str] = field(default_factory=list)
    """Your packages to import first, as [my_package,other.module]. They may add choices; see docs/your_parts.md."""


def import_packages(names: Sequence[str]) -> None:
    """Import packages or modules in this order. Raises ValueError for one that cannot be imported."""
    for name in check_names(names):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"imports=[{name}]: no module named {error.name!r}: install it, or put its folder on "
                "PYTHONPATH (the current folder is not searched)"
            ) from error
        except (ImportError, ValueError) as error:
            raise ValueError(f"imports=[{name}]: {error}") from error


def check_names(names: Any) -> list[str]:
    """`names`, checked. Raises ValueError unless they are a list of dotted identifiers.

    >>> check_names(["my_package", "other.module"])
    ['my_package', 'other.module']
    """
    if not isinstance(names, list | tuple):
        raise ValueError(f"imports must be a list of packages or modules, [my_package,other.module], got {names}")
    for name in names:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"imports must be names of packages or modules such as other.module, got {name!r}")
    return list(names)  # pyright: ignore[reportUnknownArgumentType]
