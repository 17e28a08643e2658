"""How a package of yours adds to the tables of choices; see docs/your_parts.md."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..envs.catalogue import TASKS
from ..specification import nearest
from .components import CHOICES


def add_choice(slot: str, name: str, config: Any) -> None:
    """Make `config` what `slot=name` chooses, on every command line and in every checkpoint.

    slot: "policy", "policy/encoder", "policy/network", "policy/schedule", "policy/sampler", "policy/objective",
    "policy/weighting", "execution", "robot" or "task". name: lower-case letters, digits and underscores. config: a
    dataclass whose `build` makes the real object, as those in `configs.components`; of a task its place,
    "package.module:CONSTANT", or the `Task` itself.

    Adding the same again changes nothing but the object, so that a module can be reloaded. Raises ValueError for a slot
    that does not exist, a name that is taken, and what cannot fill the slot.
    """
    if slot not in (slots := (*CHOICES, "task")):
        raise ValueError(f"slot must be one that recede has, got {slot!r}: {nearest(slot, slots)}")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"{slot}: a name must be lower-case letters, digits and underscores, got {name!r}")
    table: dict[str, Any] = TASKS if slot == "task" else CHOICES[slot]
    (_check_task if slot == "task" else _check_config)(slot, name, config)
    shared = [each for each, options in CHOICES.items() if options is table]  # "sampler" and "policy/sampler"
    is_taken = name in table or any(name in names(each) for each in shared)
    if is_taken and (name not in table or _origin(table[name]) != _origin(config)):
        known = _origin(table[name]) if name in table else "a preset of recede"
        raise ValueError(f"{slot}={name} is taken by {known}: choose another name for {_origin(config)}")
    table[name] = config


def names(slot: str) -> list[str]:
    """What may fill a slot: the table's, and the presets of them that have a file in this folder."""
    presets = (Path(__file__).parent / slot).glob("*.yaml")
    return sorted({*CHOICES[slot], *(path.stem for path in presets)})


def _check_config(slot: str, name: str, config: Any) -> None:
    if not isinstance(config, type) or not is_dataclass(config) or not callable(getattr(config, "build", None)):
        raise ValueError(f"{slot}={name} must be a dataclass with a method `build`, got {config!r}")
    for other, options in CHOICES.items():
        for known, option in options.items():
            if option is config and (known != name or options is not CHOICES[slot]):  # checkpoints note the name alone
                raise ValueError(f"{slot}={name} must be a class of its own, but {config!r} is {other}={known} already")


def _check_task(slot: str, name: str, config: Any) -> None:
    if isinstance(config, str) and re.fullmatch(r"[\w.]+:\w+", config):
        return
    from ..envs.task import Task  # gymnasium takes its time to load

    if isinstance(config, Task):
        if config.name != name:
            raise ValueError(f"{slot}={name} must be a task of that name, got one whose name is {config.name!r}")
    else:
        raise ValueError(f"{slot}={name} must be a Task, or its place as package.module:CONSTANT, got {config!r}")


def _origin(choice: Any) -> str:
    """Where a choice is defined, as "package.module:Name"; of a `Task` itself, where its environment is."""
    if isinstance(choice, str):
        return choice
    made = choice if isinstance(choice, type) else choice.make
    while isinstance(made, partial):
        made = made.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f"{made.__module__}:{made.__qualname__}"  # pyright: ignore[reportUnknownMemberType]
