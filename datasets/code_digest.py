"""A digest of what a function does, so that its results may be kept for as long as it does the same."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType
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
        content = repr((sys.version, np.__version__, _identity(function, set())))
    except (Unidentified, ValueError, RecursionError):  # a variable without a value is a ValueError
        return None
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def _identity(value: Any, seen_ids: set[int]) -> Any:
    """Plain data whose text determines a value. seen_ids: of the functions on the way here. Raises Unidentified."""
    kind = type(value).__name__
    if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex, str, bytes, np.dtype)):
        return value
    if isinstance(value, (tuple, list)):
        return kind, [_identity(item, seen_ids) for item in value]
    if isinstance(value, (frozenset, set)):
        return kind, sorted(repr(_identity(item, seen_ids)) for item in value)
    if isinstance(value, dict):
        return kind, _identity(list(value.items()), seen_ids)
    if isinstance(value, slice):
        return kind, _identity((value.start, value.stop, value.step), seen_ids)
    if isinstance(value, partial):
        return kind, _identity((value.func, value.args, value.keywords), seen_ids)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return kind, value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if _is_numpy(value):
        return "numpy", str(getattr(value, "__name__", value))
    if type(value) is not FunctionType:
        raise Unidentified
    if id(value) in seen_ids:
        return kind
    seen_ids.add(id(value))
    closure = [cell.cell_contents for cell in value.__closure__ or ()]
    used = _identity((value.__defaults__, value.__kwdefaults__, closure), seen_ids)
    return kind, used, _code_identity(value.__code__, value, seen_ids)


def _code_identity(code: CodeType, function: FunctionType, seen_ids: set[int]) -> Any:
    """As `_identity`, of the code of a function or of what is defined in it."""
    instructions, scope = list(dis.get_instructions(code)), function.__globals__
    names = [i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    has_import = any(instruction.opname.startswith("IMPORT") for instruction in instructions)
    if has_import or UNSTABLE & {*code.co_names} or {*names} - scope.keys() - function.__builtins__.keys():
        raise Unidentified
    constants = [
        _code_identity(constant, function, seen_ids)
        if isinstance(constant, CodeType)
        else _identity(constant, seen_ids)
        for constant in code.co_consts
    ]
    variables = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return (
        code.co_code,
        variables,
        constants,
        [(name, _identity(scope[name], seen_ids)) for name in names if name in scope],
    )


def _is_numpy(value: Any) -> bool:
    """Whether a value is numpy itself, or a function or class of it that keeps no state."""
    if value is np:
        return True
    if type(value) is np.ufunc:
        return value is getattr(np, value.__name__, None)
    is_stateless = isinstance(value, (type, FunctionType, BuiltinFunctionType, type(np.flip)))
    module = getattr(value, "__module__", None) or ""
    return is_stateless and module.partition(".")[0] == "numpy" and value.__name__ not in UNSTABLE
