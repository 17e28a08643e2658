"""Messages over a network: maps of names, numbers and arrays in msgpack. Unpacking makes nothing but such data.

An array is a map of three: its `dtype` by numpy's name, its `shape`, and its `data`, the bytes in C order and
little-endian. Every message has a `kind`; docs/serving.md lists the fields of each.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..specification import DTYPES

Message: TypeAlias = dict[str, Any]
"""A name -> a number, a string, an array of numpy, None, or a list or a map of them."""

PROTOCOL = 1
"""Version of the protocol; increased when older clients or servers can no longer take part."""

MAX_DIMENSIONS = 8
"""Largest number of dimensions of an array."""

MAX_PARTS = 4096
"""Largest number of maps and lists in a message: to make millions of empty ones would delay the other sessions."""

TOKEN = "RECEDE_TOKEN"
"""The environment variable with the secret that servers and clients share."""

MIN_TOKEN = 16
"""Least number of characters of a token, so that it cannot be guessed."""


def require(module: str) -> Any:
    """Import a module of the extra `serve`. Raises ValueError if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise ValueError(f"a policy over the network needs {name}: pip install 'recede[serve]'") from None


def read_token() -> str | None:
    """The token in the environment, or None. Raises ValueError if it is too short or has other characters."""
    token = os.environ.get(TOKEN)
    if token is None:
        return None
    if len(token) < MIN_TOKEN or not all("!" <= character <= "~" for character in token):
        raise ValueError(
            f"{TOKEN} must be at least {MIN_TOKEN} visible ASCII characters without spaces, got {len(token)} "
            f"characters: make one with export {TOKEN}=$(openssl rand -hex 32)"
        )
    return token


def pack(message: Mapping[str, Any]) -> bytes:
    """The message as bytes. Raises ValueError for an array of another dtype than `DTYPES`.

    >>> unpack(pack({"kind": "chunk", "number": 1, "chunk": np.eye(2, dtype=np.float32)}))["chunk"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return require("msgpack").packb(message, default=_to_map)


def unpack(data: Any) -> Message:
    """The message that `pack` made these bytes from; its arrays are read-only.

    Raises ValueError for everything else.
    """
    if not isinstance(data, bytes):
        raise ValueError("a message must be binary, got text")
    msgpack, parts = require("msgpack"), itertools.count(1)

    def counted(part: Any) -> Any:
        if next(parts) > MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} maps and lists")
        return _from_map(part) if isinstance(part, dict) else part

    try:
        message = msgpack.unpackb(data, object_hook=counted, list_hook=counted, ext_hook=_no_extension, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a message must be msgpack, but {error or type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ValueError("a message must be a map with a kind")
    return message


def _to_map(value: Any) -> dict[str, Any]:
    """Arrays, which msgpack does not know, as a map."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a message holds numbers, strings and arrays, got {type(value).__name__}")
    if value.dtype.name not in DTYPES:
        raise ValueError(f"the dtype of an array must be one of {', '.join(DTYPES)}, got {value.dtype.name}")
    data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"dtype": value.dtype.name, "shape": list(value.shape), "data": data}


def _from_map(part: dict[Any, Any]) -> Any:
    """The array that a map describes, or any other map as it is. Raises ValueError for an impossible array."""
    return _array(**part) if part.keys() == {"dtype", "shape", "data"} else part


def _array(dtype: Any, shape: Any, data: Any) -> NDArray[Any]:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        got = repr(dtype[:40]) if isinstance(dtype, str) else type(dtype).__name__
        raise ValueError(f"the dtype of an array must be one of {', '.join(DTYPES)}, got {got}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(size) is int and 0 <= size <= sys.maxsize for size in shape)
    ):
        raise ValueError(f"the shape of an array must be a list of at most {MAX_DIMENSIONS} sizes")
    wire = np.dtype(dtype).newbyteorder("<")
    size = math.prod(shape) * wire.itemsize
    if not isinstance(data, bytes) or len(data) != size:
        got = len(data) if isinstance(data, bytes) else type(data).__name__
        raise ValueError(f"an array of {dtype} of shape {shape} must have {size} bytes of data, got {got}")
    if dtype == "bool":  # numpy allows no byte but 0 and 1 in a boolean
        return np.ndarray(shape, np.uint8, data) != 0
    return np.ndarray(shape, wire, data).astype(dtype, copy=False)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"it has an extension of type {code}")
