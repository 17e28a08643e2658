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

COMPRESSORS = ("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4")
"""The codecs after which a chunk has another size. There is at most one, the last codec but for a checksum."""

SHARDS = "sharding_indexed"
"""The codec of files of many chunks. It stands alone."""

CODECS = (*COMPRESSORS, "shuffle", "delta", "crc32c", "bytes", "endian", "transpose", SHARDS, "recede.image")
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
    for number, codecs in enumerate(_codec_lists(content, file)):
        for codec in codecs:
            _check_codec(codec, file)
        _check_order([codec["name"].removeprefix("numcodecs.") for codec in codecs], file, is_first=number == 0)
    width = _width(content.get("dtype", content.get("data_type")), file)
    shape: Any = content.get("shape")
    if not _are_sizes(shape, least=0) or 0 in shape[1:]:
        raise ValueError(f"{file}: shape must be whole numbers, got {_brief(shape)}: restore it from a copy")
    for chunks in _chunk_shapes(content, file):
        _check_sizes(shape, chunks, width, file)


def _codec_lists(content: dict[str, Any], file: Path) -> Iterator[list[dict[str, Any]]]:
    """The codecs of a description in order, as {"name": ..., "configuration": {...}}, then those within shards."""
    if file.name == ".zarray":
        entries = [*_list(content.get("filters") or [], file), content.get("compressor")]
        yield [
            {"name": entry.get("id"), "configuration": entry} if isinstance(entry, dict) else _named(entry, file)
            for entry in entries
            if entry is not None
        ]
        return
    waiting = [content.get("codecs")]
    while waiting:
        codecs = [_named(entry, file) for entry in _list(waiting.pop(), file)]
        yield codecs
        for codec in codecs:
            waiting += [codec["configuration"].get(key, []) for key in ("codecs", "index_codecs")]


def _named(entry: Any, file: Path) -> dict[str, Any]:
    """A codec of version 3, which may be a name alone."""
    codec = entry if isinstance(entry, dict) else {"name": entry}
    configuration = codec.get("configuration") or {}
    if not isinstance(configuration, dict):
        raise ValueError(f"{file}: the codec {_brief(entry)} is damaged: restore it from a copy")
    return {"name": codec.get("name"), "configuration": configuration}


def _check_order(names: list[str], file: Path, *, is_first: bool) -> None:
    """Raise ValueError unless the size of every chunk can be known before it is decompressed."""
    compressed = [index for index, name in enumerate(names) if name in COMPRESSORS]
    if len(compressed) > 1 or set(names[compressed[0] + 1 if compressed else len(names) :]) - {"crc32c"}:
        raise ValueError(
            f"{file}: codecs must be at most one of {', '.join(COMPRESSORS)}, and after it only a checksum, got "
            f"{_brief(names)}: write the array with one compressor"
        )
    if SHARDS in names and not (is_first and len(names) == 1):
        raise ValueError(
            f"{file}: {SHARDS} must be the only codec and not be nested, got {_brief(names)}: write the array without "
            "the others"
        )


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
    if name in ("lzma", "numcodecs.lzma") and codec["configuration"].get("format", 1) not in (0, 1, 2):
        raise ValueError(f"{file}: lzma must have format 0, 1 or 2, which say how much memory they need: write it so")
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
    shapes = [codec["configuration"].get("chunk_shape") for codecs in _codec_lists(content, file) for codec in codecs]
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
