"""Your own packages, which are imported before a command is composed and may add choices to its tables.

Only a command line or Python code names them. No checkpoint, run folder, exported folder or server does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(kw_only=True)
class CommandConfig:
    """imports: your own packages or modules, [my_package,other.module]. They are imported first and may add choices
    with `recede.add_choice`, see docs/your_parts.md. They are named here alone: no file and no server imports anything.
    """

    imports: list[str] = field(default_factory=list)

    @property
    def again(self) -> str:
        """What another command needs too for the same choices: " imports=[my_package]", or nothing."""
        return f" imports=[{','.join(self.imports)}]" if self.imports else ""


def import_packages(names: Sequence[str]) -> None:
    """Import your packages or modules in this order. Raises ValueError, naming the one that cannot be imported."""
    for name in check_names(names):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"imports=[{name}]: no module named {error.name!r}: install it, or put the folder that it is in on "
                "PYTHONPATH; the folder in which recede is started is not searched by itself"
            ) from error
        except (ImportError, ValueError) as error:
            raise ValueError(f"imports=[{name}]: {error}") from error


def check_names(names: Any) -> list[str]:
    """The names of modules. Raises ValueError unless they are a list of dotted identifiers.

    >>> check_names(["my_package", "other.module"])
    ['my_package', 'other.module']
    """
    if not isinstance(names, list | tuple):
        raise ValueError(f"imports must be a list of packages or modules, [my_package,other.module], got {names}")
    for name in names:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"imports must be names of packages or modules such as other.module, got {name!r}")
    return list(names)  # pyright: ignore[reportUnknownArgumentType]
