"""A component names what it builds as "module:name", because torch must not load with the configurations."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any


def load(kind: str) -> Any:
    """The class or function of recede at "module:name".

    >>> load("specification:Horizons").__name__
    'Horizons'
    """
    module, _, name = kind.partition(":")
    return getattr(import_module(f"...{module}", __package__), name)


def values(component: Any) -> dict[str, Any]:
    """Field -> value of a component, as the arguments of what it builds."""
    return {field.name: getattr(component, field.name) for field in fields(component)}
