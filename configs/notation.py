"""A configuration as JSON, and as the command line that one would type."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from .choices import CHOICES, MANY


def command_line(command: str, config: Any) -> str:
    """What to type for this configuration, as far as it differs from the defaults.

    >>> from recede.configs.evaluation import EvaluateConfig
    >>> command_line("evaluate", EvaluateConfig(run="runs/my run", episodes=200))
    "recede evaluate 'run=runs/my run' episodes=200"
    """
    arguments = (argument for each in changed(config).items() for argument in _arguments(*each))
    return shlex.join(["recede", command, *arguments])


def changed(config: Any) -> dict[str, Any]:
    """The values of a configuration that differ from its defaults."""
    values = {each.name: (getattr(config, each.name), default_of(each)) for each in fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def default_of(field: Any) -> Any:
    """The default of a field of a configuration, or MISSING if a value must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _arguments(key: str, value: Any) -> list[str]:
    """`key=value`; for what has values of its own these, after the name of what fills a slot."""
    if key in MANY:
        options = (_arguments(f"{key}.{name}", option) for name, option in value.items())
        return [f"{key}=[{','.join(value)}]", *(argument for option in options for argument in option)]
    if not is_dataclass(value):
        return [f"{key}={'null' if value is None else describe(value)}"]
    slot = key.replace(".", "/")
    named = [f"{slot}={name}" for name, option in CHOICES.get(slot, {}).items() if type(value) is option]
    parts = (_arguments(f"{key}.{each.name}", getattr(value, each.name)) for each in fields(value))
    return named + [argument for part in parts for argument in part]


def describe(config: Any) -> Any:
    """A configuration as JSON; what fills a slot says which choice it is. `policy_config` is the inverse."""
    if isinstance(config, Mapping):
        return {name: describe(value) for name, value in config.items()}  # pyright: ignore[reportUnknownVariableType]
    if not is_dataclass(config):
        return config
    chosen = [name for options in CHOICES.values() for name, option in options.items() if type(config) is option]
    plain = {each.name: describe(getattr(config, each.name)) for each in fields(config)}
    return ({"choice": chosen[0]} if chosen else {}) | plain


class UnknownChoice(ValueError):
    """A checkpoint or an exported folder names a choice that is in no table: the package that adds it is missing."""


def policy_config(data: Mapping[str, Any], slot: str = "policy") -> Any:
    """The configuration that `describe` gave.

    Raises UnknownChoice for a choice that is in no table, and ValueError for values that the choice does not have.
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
