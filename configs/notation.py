"""A configuration as JSON, and as the command line that produces it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from .choices import CHOICES, MANY


def command_line(command: str, config: Any) -> str:
    """The command line that produces this configuration, without the defaults.

    >>> from recede.configs.evaluation import EvaluateConfig
    >>> command_line("evaluate", EvaluateConfig(run="runs/my run", episodes=200))
    "recede evaluate 'run=runs/my run' episodes=200"
    """
    defaults = {field.name: default_of(field) for field in fields(config)}
    arguments = (
        argument for key, value in changed(config).items() for argument in _arguments(key, value, defaults[key])
    )
    return shlex.join(["recede", command, *arguments])


def shown(command: str, bare: str | None = None, **settings: Any) -> str:
    """A command line to print, with one bare path and with the settings that have a value.

    >>> shown("evaluate", "my run", episodes=200, imports=[])
    "recede evaluate 'my run' episodes=200"
    >>> shown("evaluate", "a=b", imports=["my_parts"])
    "recede evaluate ./a=b 'imports=[my_parts]'"
    """
    is_option = bare is not None and re.match("[-~]|[^/]*=", bare)  # not so with a folder before it
    first = [] if bare is None else [f"./{bare}" if is_option else bare]
    rest = [f"{key}={typed(value)}" for key, value in settings.items() if value not in (None, [])]
    return shlex.join(["recede", command, *first, *rest])


def changed(config: Any) -> dict[str, Any]:
    """The values of a configuration that differ from its defaults."""
    values = {field.name: (getattr(config, field.name), default_of(field)) for field in fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def default_of(field: Any) -> Any:
    """The default of a configuration's field, or MISSING if it is required."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _arguments(key: str, value: Any, default: Any = MISSING) -> list[str]:
    """The arguments that set one field: `key=value`, or for a component `slot=name` and then each of its fields.

    Of any other group, the fields that differ from the default.
    """
    if key in MANY:
        options = (_arguments(f"{key}.{name}", option) for name, option in value.items())
        return [f"{key}=[{','.join(value)}]", *(argument for option in options for argument in option)]
    slot = key.replace(".", "/")
    if slot in CHOICES and isinstance(value, Mapping):  # changes of the choice that is there
        return [f"{key}.{name}={typed(changed)}" for name, changed in value.items()]  # pyright: ignore[reportUnknownVariableType]
    if not is_dataclass(value):
        return [f"{key}={typed(describe(value))}"]
    named = [f"{slot}={name}" for name, option in CHOICES.get(slot, {}).items() if type(value) is option]
    names = [field.name for field in fields(value)]
    if not named and type(value) is type(default):
        names = [name for name in names if getattr(value, name) != getattr(default, name)]
    parts = (_arguments(f"{key}.{name}", getattr(value, name)) for name in names)
    return named + [argument for part in parts for argument in part]


def typed(value: Any) -> str:
    """A value as one types it on the command line: a text as it is, and between quotes in a list if it needs them.

    >>> [typed(value) for value in (None, True, 1e-6, [84, 84], "1 a", ["range", "1 a"], {"floor": None})]
    ['null', 'true', '1e-6', '[84,84]', '1 a', "[range,'1 a']", '{floor:null}']
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(_inner(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_inner(item)}" for key, item in value.items()) + "}"  # pyright: ignore[reportUnknownVariableType]
    return re.sub("e-0", "e-", repr(value)) if isinstance(value, float) else str(value)


def _inner(value: Any) -> str:
    """A value in a list or in a mapping as one types it."""
    is_plain = isinstance(value, str) and re.fullmatch(r"(?!(?i:null|true|false|nan|inf)$)[A-Za-z_][\w.]*", value, re.A)
    return quoted(value) if isinstance(value, str) and not is_plain else typed(value)


def quoted(value: str) -> str:
    """The value as a quoted string of Hydra's grammar, whatever characters it contains."""
    # OmegaConf halves backslashes before an interpolation, and Hydra before a quote.
    value = re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", value)
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return "'" + escaped + "'"


def describe(config: Any) -> Any:
    """A configuration as JSON; a component notes its name as "choice". `policy_config` is the inverse."""
    if isinstance(config, Mapping):
        return {name: describe(value) for name, value in config.items()}  # pyright: ignore[reportUnknownVariableType]
    if not is_dataclass(config):
        return config
    chosen = [name for options in CHOICES.values() for name, option in options.items() if type(config) is option]
    plain = {field.name: describe(getattr(config, field.name)) for field in fields(config)}
    return ({"choice": chosen[0]} if chosen else {}) | plain


class UnknownChoice(ValueError):
    """A checkpoint or an exported folder names an unknown choice: the package that adds it was not imported."""


def policy_config(data: Mapping[str, Any], slot: str = "policy") -> Any:
    """The configuration of which `data` is the description by `describe`.

    Raises UnknownChoice for an unknown choice, and ValueError for fields that the choice does not have.
    """
    data = dict(data)
    name = data.pop("choice", None)
    if name not in CHOICES[slot]:
        raise UnknownChoice(
            f"{slot} must be one of {sorted(CHOICES[slot])}, got {name!r}: add imports=[the package that adds it], or "
            "in Python import it first"
        )
    option = CHOICES[slot][name]
    for key, value in data.items():
        if f"{slot}/{key}" in CHOICES:
            data[key] = policy_config(value, f"{slot}/{key}")
    try:
        return option(**data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{slot}={name} cannot have {error}") from None
