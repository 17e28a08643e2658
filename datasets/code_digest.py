"""A digest of what a function does, so that its results may be kept for as long as it does the same."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

UNSTABLE = frozenset(
    {"open", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "random", "lib", "ctypeslib"}
    | {"eval", "exec", "compile", "__import__", "globals", "locals", "vars", "getattr", "input"}
)
"""Names of Python and numpy that reach for more than their arguments."""


class Unidentified(Exception):
    """A function does something that its code does not show."""


def code_digest(function: Callable[..., Any]) -> str | None:
    """SHA-256 of a function's code, its constants, and every function and number that it uses; None if it uses more.

    Functions of Python are identified, partial ones too, and those of numpy by its version. An object with a state of
    its own, and a module other than numpy, are not.
    """
    try:
        parts = list(_parts(function, set()))
    except (Unidentified, ValueError, RecursionError):  # a variable without a value is a ValueError
        return None
    content = "\n".join([sys.version, np.__version__, *parts])
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def _parts(value: Any, seen_ids: set[int]) -> Iterator[str]:
    """What determines a value, as lines of text. seen_ids: of the functions on the way here. Raises Unidentified."""
    kind = type(value).__name__
    if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield f"{kind} {value!r}"
    elif isinstance(value, (tuple, list, frozenset, set, slice, dict)):
        yield kind
        items = [value.start, value.stop, value.step] if isinstance(value, slice) else value
        for item in sorted(items, key=repr) if isinstance(value, (frozenset, set)) else items:
            yield from _parts(item, seen_ids)
        for item in value.values() if isinstance(value, dict) else ():
            yield from _parts(item, seen_ids)
        yield "end"
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield f"array {value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, (np.generic, np.dtype)):
        yield f"{kind} {value!r}"
    elif isinstance(value, partial):
        yield "partial"
        yield from _parts((value.func, value.args, value.keywords), seen_ids)
    elif _is_numpy(value):
        yield f"numpy {getattr(value, '__name__', value)}"
    elif type(value) is FunctionType:
        yield from _function_parts(value, seen_ids)
    else:
        raise Unidentified


def _function_parts(function: FunctionType, seen_ids: set[int]) -> Iterator[str]:
    if id(function) in seen_ids:
        return
    seen_ids.add(id(function))
    yield "function"
    yield from _parts((function.__defaults__, function.__kwdefaults__), seen_ids)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen_ids)
    yield from _code_parts(function.__code__, function, seen_ids)


def _code_parts(code: CodeType, function: FunctionType, seen_ids: set[int]) -> Iterator[str]:
    yield code.co_code.hex() + f" {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
    if UNSTABLE & set(code.co_names):
        raise Unidentified
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_parts(constant, function, seen_ids)
        else:
            yield from _parts(constant, seen_ids)
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith("IMPORT"):
            raise Unidentified
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            name, builtins = instruction.argval, function.__builtins__
            if name in function.__globals__:
                yield name
                yield from _parts(function.__globals__[name], seen_ids)
            elif name not in builtins:
                raise Unidentified


def _is_numpy(value: Any) -> bool:
    """Whether a value is numpy itself, or a function or class of it that keeps no state."""
    if isinstance(value, ModuleType):
        return value is np
    if type(value) is np.ufunc:
        return value is getattr(np, value.__name__, None)
    is_stateless = isinstance(value, (type, FunctionType, BuiltinFunctionType, type(np.flip)))
    module = getattr(value, "__module__", None) or ""
    return is_stateless and module.partition(".")[0] == "numpy" and value.__name__ not in UNSTABLE
