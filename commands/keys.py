"""The keys of a command, and what to say of a key that it does not have: the nearest ones, and where to read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..configs.choices import CHOICES, MANY
from ..configs.commands import COMMANDS
from ..specification import nearest
from .help import slots

MOST_KEYS = 12
"""The most keys that a line lists."""

MOST_NEAR = 3
"""The most keys that a line proposes."""


def check_key(command: str, key: str) -> None:
    """Raises ValueError unless the key is a slot of the command, or a key that some choice for its slots has."""
    available = slots(command)
    if not re.fullmatch(r"\w[\w-]*([./]\w[\w-]*)*", key, re.ASCII):
        raise ValueError(f"there is no key {key!r}: see {help_of(command)}")
    if "/" in key and key not in available:
        raise ValueError(f"there is no slot {key!r}: {nearest(key, available)} (see {help_of(command)})")
    keys = keys_of(command)
    if key in keys or key in available:
        return
    parts = key.split(".")
    owners = [".".join(parts[:count]) for count in reversed(range(len(parts)))]
    owner = next(owner for owner in owners if owner in keys or not owner)
    hint = keys.get(owner)
    if hint is None:
        raise ValueError(f"there is no key {key!r}: {nearest_keys(key, owner, keys, command)}")
    if not _takes_keys(hint):
        value = "[a,b]" if any(get_origin(part) is list for part in _options(hint)) else "VALUE"
        raise ValueError(
            f"{owner} has no keys of its own, got {key!r}: give it whole as {owner}={value} (see {help_of(command)})"
        )


def keys_of(command: str) -> dict[str, Any]:
    """Every key that a command may have -> the type of its value; None for one that has keys of its own."""
    preset = {"preset": str} if COMMANDS[command].has_presets else {}
    return dict(_keys(COMMANDS[command].config, "", "")) | preset


def nearest_keys(key: str, owner: str, keys: Mapping[str, Any], command: str) -> str:
    """The end of a message about a key that `owner` does not have: the nearest ones, or all of the owner."""
    start = f"{owner}." if owner else ""
    wrong, dot, rest = key.removeprefix(start).partition(".")
    siblings = [other for other in keys if other.startswith(start) and "." not in other.removeprefix(start)]
    close = [f"{start}{name}" for name in get_close_matches(wrong, [name.removeprefix(start) for name in siblings])]
    close = [whole if (whole := f"{name}{dot}{rest}") in keys else name for name in close]
    last = key.rpartition(".")[2]
    elsewhere = [other for other in keys if other.rpartition(".")[2] == last]
    proposed = list(dict.fromkeys([*close[:1], *elsewhere, *close]))[:MOST_NEAR]
    see = f"see {help_of(command)}"
    if proposed:
        return f"did you mean {' or '.join(map(repr, proposed))}? ({see})"
    if 0 < len(siblings) <= MOST_KEYS:
        return f"choose from {', '.join(map(repr, siblings))} ({see})"
    return see if siblings else f"{owner} has no keys ({see})"


def help_of(command: str) -> str:
    """Where to read about the keys of a command."""
    return f"`recede {command} --help`"


def _keys(config: Any, path: str, slot: str) -> Iterator[tuple[str, Any]]:
    """The keys of a configuration at `path`; a slot has the keys of all its choices."""
    hints = _hints(config)
    for field in fields(config):
        key, inner = f"{path}{field.name}", f"{slot}{field.name}"
        nested = [option for option in _options(hints[field.name]) if is_dataclass(option)]
        if inner in MANY:
            yield key, None
            for name, option in CHOICES[inner].items():
                yield f"{key}.{name}", None
                yield from _keys(option, f"{key}.{name}.", f"{inner}/")
        elif inner in CHOICES or nested:
            yield key, None
            for option in CHOICES[inner].values() if inner in CHOICES else nested:
                yield from _keys(option, f"{key}.", f"{inner}/")
        else:
            yield key, hints[field.name]


@cache
def _hints(config: Any) -> dict[str, Any]:
    return get_type_hints(config)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _takes_keys(hint: Any) -> bool:
    """Whether any keys may follow, as those of a mapping."""
    return any(option is Any or (get_origin(option) or option) in (dict, Mapping) for option in _options(hint))
