"""Which keys of a command hold a text, so that the command line takes it as typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from .checks import PathName, PathNames
from .choices import CHOICES, MANY

_PATH, _PATHS = get_args(PathName)[1], get_args(PathNames)[1]


@dataclass(frozen=True)
class Text:
    """What the text of a key may be."""

    is_path: bool = False
    """Whether `~` at its beginning is a home."""
    is_optional: bool = False
    """Whether null stands for no text."""
    is_list: bool = False
    """Whether the key holds a list of texts."""
    can_be_list: bool = False
    """Whether the key holds a text, or between brackets a list of them."""


def text_of(config: type, key: str) -> Text | None:
    """The text that a key of a command holds; None if it holds anything else, or if there is no such key.

    >>> from recede.configs.training import TrainConfig
    >>> text_of(TrainConfig, "policy.encoder.weights")
    Text(is_path=True, is_optional=True, is_list=False, can_be_list=False)
    """
    texts = [text for hint in _hints(config, key.split("."), "") if (text := _text(hint)) is not None]
    return texts[0] if texts else None


def home(path: str) -> str:
    """The path with the home that a `~` or `~user` at its beginning stands for.

    Raises ValueError if there is no such user.
    """
    first, slash, rest = path.partition("/")
    if not first.startswith("~"):
        return path
    try:
        return f"{Path(first).expanduser()}{slash}{rest}"
    except RuntimeError:
        raise ValueError(f"{path}: there is no home of {first!r}: for a folder of that name, type ./{path}") from None


def _hints(config: Any, parts: Sequence[str], parent: str) -> list[Any]:
    """The type hints of a key. A key of a slot has one for each choice that has the key."""
    name, *rest = parts
    slot, hint = f"{parent}{name}", _hints_of(config).get(name)
    if hint is None or (slot in CHOICES and not rest):
        return []
    if slot in MANY:
        chosen, *rest = rest
        options = [CHOICES[slot][chosen]] if chosen in CHOICES[slot] else []
    elif slot in CHOICES:
        options = list(CHOICES[slot].values())
    elif is_dataclass(hint):
        options = [hint]
    else:
        return [] if rest else [hint]
    return [inner for option in options if rest for inner in _hints(option, rest, f"{slot}/")]


@cache
def _hints_of(config: Any) -> dict[str, Any]:
    return get_type_hints(config, include_extras=True)


def _text(hint: Any) -> Text | None:
    """The text of a type hint."""
    if hint is str:
        return Text()
    if get_origin(hint) is Annotated and _PATHS in get_args(hint)[1:]:
        return Text(is_path=True, can_be_list=True)
    if get_origin(hint) is Annotated:
        return Text(is_path=_PATH in get_args(hint)[1:]) if get_args(hint)[0] is str else None
    if get_origin(hint) is list:
        return Text(is_list=True) if get_args(hint) == (str,) else None
    if get_origin(hint) in (Union, UnionType):
        inner = [option for option in get_args(hint) if option is not type(None)]
        text = _text(inner[0]) if len(inner) == 1 else None
        return None if text is None else Text(text.is_path, is_optional=True, is_list=text.is_list)
    return None
