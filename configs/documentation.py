"""The meaning of each key of a configuration, read from the strings under the fields in its source.

A string under a field says what the field means. Any other string in the body of a configuration, apart from its
docstring, is the heading of the fields that follow.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .choices import CHOICES, MANY, names
from .notation import changed, default_of, typed
from .packages import CommandConfig

REQUIRED = "(required)"


class Key(NamedTuple):
    """A key of the command line and its default, both as typed, and its meaning."""

    path: str
    default: str
    meaning: str


class Choice(NamedTuple):
    """A choice for a slot: the argument that selects it, its description and its keys."""

    argument: str
    summary: str
    keys: list[Key]


def summary(config: type) -> str:
    """The docstring of a configuration as one line, or nothing if it has none."""
    text = inspect.getdoc(config) or ""
    is_signature = text.startswith(f"{config.__name__}(")  # `dataclass` writes one if the class has no docstring
    return "" if is_signature else " ".join(text.split())


def sections(config: type) -> dict[str, list[Key]]:
    """Heading -> keys of a command's configuration. The keys that all commands have come last."""
    texts, result = _texts(config), dict[str, list[Key]]()
    common = CommandConfig.__dataclass_fields__
    for field in sorted(fields(config), key=lambda field: field.name in common):
        heading, meaning = texts.get(field.name, ("", ""))
        result.setdefault(heading, []).extend(_keys(field, field.name, meaning, slot=field.name))
    return result


def choices(slot: str) -> list[Choice]:
    """The choices of a slot, followed by its presets."""
    table = CHOICES.get(slot, {})
    result = [
        Choice(f"{slot}={name}", summary(option), list(_keys_of(option, f"{slot}.{name}" if slot in MANY else slot)))
        for name, option in table.items()
    ]
    presets = [name for name in names(slot) if name not in table]
    return result + [Choice(f"{slot}={name}", _comment(slot, name), []) for name in presets]


def _keys_of(config: type, slot: str) -> Iterator[Key]:
    """The keys of a configuration that fills `slot`, or lies at that path."""
    texts = _texts(config)
    for field in fields(config):
        path = f"{slot.replace('/', '.')}.{field.name}"
        yield from _keys(field, path, texts.get(field.name, ("", ""))[1], slot=f"{slot}/{field.name}")


def _keys(field: Any, path: str, meaning: str, *, slot: str) -> Iterator[Key]:
    """The key of a field; if it holds a configuration that is no choice, also the keys of that."""
    default = default_of(field)
    if slot in CHOICES:
        yield Key(slot, _default_choice(slot, field), meaning)
    elif is_dataclass(default):
        yield Key(path, "", meaning)
        yield from _keys_of(type(default), path)
    else:
        yield Key(path, REQUIRED if default is MISSING else typed(default), meaning)


def _default_choice(slot: str, field: Any) -> str:
    """The name of the default choice, followed by the values that differ from those of the choice itself."""
    default = default_of(field)
    if "choice" in field.metadata:
        return field.metadata["choice"]
    if slot in MANY:
        return typed(list(default))
    if default is None or default is MISSING:
        return "null" if default is None else REQUIRED
    name = next((name for name, option in CHOICES[slot].items() if type(default) is option), type(default).__name__)
    return " ".join([name, *(f"{key}={typed(value)}" for key, value in changed(default).items())])


@cache
def _texts(config: type) -> dict[str, tuple[str, str]]:
    """Field -> its heading and its meaning. A class inherits what it does not state."""
    result: dict[str, tuple[str, str]] = {}
    for base in reversed(config.__mro__):
        for name, (heading, meaning) in _texts_of_body(_body(base)).items():
            inherited = result.get(name, ("", ""))
            result[name] = heading or inherited[0], meaning or inherited[1]
    return result


def _body(config: type) -> list[ast.stmt]:
    """The statements of a class after its docstring; none if its source cannot be read, as in a notebook."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[config.__module__]))
    except (KeyError, OSError, TypeError):
        return []
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == config.__name__]
    body = bodies[-1] if bodies else []
    return body[1:] if body and _string(body[0]) else body


def _texts_of_body(body: list[ast.stmt]) -> dict[str, tuple[str, str]]:
    """Field -> its heading and its meaning, or "" for either, in the body of one class."""
    result: dict[str, tuple[str, str]] = {}
    heading, name = "", ""
    for statement in body:
        text = _string(statement)
        if text and name:
            result[name] = heading, text
        elif text:
            heading = text
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        name = target.id if isinstance(target, ast.Name) else ""
        if name:
            result[name] = heading, ""
    return result


def _string(statement: ast.stmt) -> str:
    """The text of a statement that is a string alone, on one line."""
    value = (
        statement.value.value if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) else ""
    )
    return " ".join(value.split()) if isinstance(value, str) else ""


def _comment(slot: str, name: str) -> str:
    """The comment at the beginning of a preset's file."""
    lines = (Path(__file__).parent / slot / f"{name}.yaml").read_text().splitlines()
    comment = [line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line]
    return " ".join(comment)
