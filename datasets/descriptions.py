"""Check how an array describes itself on disk, before zarr opens it or decodes anything.

A description names codecs, and some codecs of zarr v2 run code that the data brings along. It also names sizes, for
which memory is taken before a single file is read. Both are therefore checked as plain JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import read_json

CODECS = (
    *("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4"),
    *("shuffle", "delta", "crc32c", "bytes", "endian", "transpose", "sharding_indexed", "recede.image"),
)
"""The codecs, filters and serializers that are read. None of them runs anything."""

CHUNK_LIMIT = 2**32
"""Most bytes of a chunk, and of a step, after decompression."""

LENGTH_LIMIT = 2**40
"""Most steps of an array."""

FILES_LIMIT = 2**16
"""Most chunks side by side in a step."""

_NUMBER = re.compile(r"(?P<bool>bool)|[<>|=]?[biuf](?P<bytes>[1248])|(?:u?int|float)(?P<bits>8|16|32|64)")


def check_description(file: Path) -> None:
    """Raise ValueError unless zarr may open the array that `file` (.zarray or zarr.json) describes.

    Its values must be numbers, its codecs in `CODECS`, and its sizes within the limits above.
    """
    content = read_json(file)
    if file.name == "zarr.json" and content.get("node_type") == "group":
        return  # it is no array, as `open_array` says
    for codec in _codecs(content, file):
        _check_codec(codec, file)
    width = _width(content.get("dtype", content.get("data_type")), file)
    shape: Any = content.get("shape")
    if not _are_sizes(shape, least=0) or 0 in shape[1:]:
        raise ValueError(f"{file}: shape must be whole numbers, got {_brief(shape)}: restore it from a copy")
    for chunks in _chunk_shapes(content, file):
        _check_sizes(shape, chunks, width, file)


def _codecs(content: dict[str, Any], file: Path) -> Iterator[dict[str, Any]]:
    """Every codec of a description, as {"name": ..., "configuration": {...}}, also those within shards."""
    if file.name == ".zarray":
        for entry in [*(content.get("filters") or ()), content.get("compressor")]:
            if entry is not None:
                configuration = entry if isinstance(entry, dict) else {}
                yield {"name": configuration.get("id", entry), "configuration": configuration}
        return
    waiting = _list(content.get("codecs"), file)
    while waiting:
        entry = waiting.pop()
        codec = entry if isinstance(entry, dict) else {"name": entry}
        configuration = codec.get("configuration") or {}
        if not isinstance(configuration, dict):
            raise ValueError(f"{file}: the codec {_brief(entry)} is damaged: restore it from a copy")
        yield {"name": codec.get("name"), "configuration": configuration}
        for key in ("codecs", "index_codecs"):
            waiting += _list(configuration.get(key, []), file)


def _check_codec(codec: dict[str, Any], file: Path) -> None:
    from numcodecs.registry import codec_registry

    name = codec["name"]
    if isinstance(name, str) and name.startswith("imagecodecs_"):
        if name not in codec_registry:
            raise ValueError(
                f"{file}: the codec {name!r} comes with the package imagecodecs: install it, and name with imports= a "
                "module of yours that calls imagecodecs.numcodecs.register_codecs()"
            )
    elif not isinstance(name, str) or name.removeprefix("numcodecs.") not in CODECS:
        raise ValueError(
            f"{file}: codecs must be among {', '.join(CODECS)}, got {_brief(name)}: others might run code of the data; "
            "write the array with one of these"
        )
    for key in ("dtype", "astype"):
        if key in codec["configuration"]:
            _width(codec["configuration"][key], file)


def _width(dtype: Any, file: Path) -> int:
    """Bytes of a value. Raises ValueError unless it is a bool, an integer or a float."""
    match = _NUMBER.fullmatch(dtype) if isinstance(dtype, str) else None
    if match is None:
        raise ValueError(
            f"{file}: values must be bool, integers or floats, got {_brief(dtype)}: write the array as numbers"
        )
    return 1 if match["bool"] else int(match["bytes"] or int(match["bits"]) // 8)


def _chunk_shapes(content: dict[str, Any], file: Path) -> list[Any]:
    if file.name == ".zarray":
        return [content.get("chunks")]
    grid = content.get("chunk_grid")
    shapes = [codec["configuration"].get("chunk_shape") for codec in _codecs(content, file)]
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    outer = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
    return [outer, *(shape for shape in shapes if shape is not None)]


def _check_sizes(shape: list[int], chunks: Any, width: int, file: Path) -> None:
    if not _are_sizes(chunks, least=1) or len(chunks) != len(shape):
        raise ValueError(
            f"{file}: chunks must be {len(shape)} positive whole numbers, got {_brief(chunks)}: restore it from a copy"
        )
    largest = max(math.prod(chunks), math.prod(shape[1:])) * width
    files = math.prod(-(-length // size) for length, size in zip(shape[1:], chunks[1:], strict=True))
    if largest > CHUNK_LIMIT or files > FILES_LIMIT or shape[0] > LENGTH_LIMIT:
        raise ValueError(
            f"{file}: a chunk and a step must hold at most {CHUNK_LIMIT} bytes, a step at most {FILES_LIMIT} chunks "
            f"and the array at most {LENGTH_LIMIT} steps, got shape {_brief(shape)} in chunks {_brief(chunks)} of "
            f"{width} bytes a value: restore it from a copy, or write the array in smaller chunks"
        )


def _are_sizes(sizes: Any, *, least: int) -> bool:
    """Whether these are the sizes of 1 to 32 dimensions."""
    return (
        isinstance(sizes, list)
        and 1 <= len(sizes) <= 32
        and all(type(size) is int and least <= size < 2**63 for size in sizes)
    )


def _list(entries: Any, file: Path) -> list[Any]:
    if not isinstance(entries, list):
        raise ValueError(f"{file}: codecs must be a list, got {_brief(entries)}: restore it from a copy")
    return list(entries)


def _brief(value: Any) -> str:
    """The value as it can be shown in a line."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
