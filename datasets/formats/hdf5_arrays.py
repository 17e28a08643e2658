"""Arrays in HDF5 files that others wrote. Nothing outside the file is read, and no filter but those of h5py is run.

HDF5 keeps a checksum of values only if the writer chose the filter fletcher32. Without it, a changed value is read as
it is; changes in the structure of a file are mostly noticed, and values that were cut off always.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..declared_sizes import DEFLATED, SIZES, SLACK
from .pictures import decoded, picture_format, picture_shape

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first bytes of a file."""

SUFFIXES = (".hdf5", ".h5", ".hdf")
"""Of the names of files."""

DEEPEST, MOST_ARRAYS = 12, 2000
"""Groups within one another, and arrays of an episode."""

LARGEST_CHUNK = 2**30
"""Bytes of a compressed chunk, which is decompressed as a whole."""

LONGEST_TEXT = 20_000
"""Characters of an attribute that is kept. Models of a scene are longer."""

SMALLEST_PICTURE = 64
"""Bytes of an image file; shorter rows are vectors."""

PLUGINS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2"}
"""Registered numbers of filters that h5py lacks -> their names, which a file may leave out."""

DAMAGE = (
    *(OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError),
    *(ArithmeticError, MemoryError, NotImplementedError, RecursionError, EOFError),
)
"""Errors of h5py about damaged content."""


class Refusal(ValueError):
    """An error that names its place already."""


@dataclass(frozen=True)
class Stored:
    """How an array over time lies in a file."""

    rows: int
    shape: tuple[int, ...]
    """Of a row, decoded."""
    dtype: str
    """A numpy dtype, or a word for what is no number, such as "text"."""
    pictures: str = ""
    """jpeg or png, if each row is the file of an image."""

    @property
    def kind(self) -> str:
        """Dtype, shape and compression of a row, which are the same in all episodes."""
        return f"{self.dtype} {self.shape} {self.pictures}".rstrip()


def is_hdf5(path: Path) -> bool:
    """Whether a file is of HDF5, by its name or its first bytes."""
    if not path.is_file() or path.suffix in SUFFIXES:
        return path.is_file()
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """The root group of a file, for reading.

    Raises ValueError, naming the file, if it is damaged, truncated or being written; also for what damage raises below.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs h5py to be read: pip install 'recede[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except Refusal:
        raise
    except DAMAGE as error:
        raise Refusal(f"{path} {_fault(error)}") from error


def _fault(error: BaseException) -> str:
    """What an error of h5py says of a file, and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, BlockingIOError) or "already open for" in text:
        return (
            "is open in a program that writes it, or that died while it wrote: end that program, or clear the mark "
            "with h5clear -s"
        )
    if isinstance(error, PermissionError):
        return f"cannot be read ({text}): allow it"
    return f"is no whole HDF5 file ({text[:200]}): restore it from a copy"


def child(group: Any, name: str) -> Any:
    """A group or an array directly in a group. Raises ValueError if it is a link to elsewhere."""
    from h5py.h5l import TYPE_HARD

    if group.id.links.get_info(name.encode(errors="surrogateescape")).type != TYPE_HARD:
        raise Refusal(
            f"{group.file.filename}: {_name(group, name)} is a link, and links are not followed: copy what it names to "
            "its place (h5py: Group.copy with expand_soft=True, expand_external=True)"
        )
    return group[name]


def at(group: Any, name: str) -> Any:
    """A group or an array below a group, by its path. Raises ValueError if it is a link, or if there is none."""
    for part in filter(None, name.split("/")):
        if part not in group:
            raise Refusal(f"{group.file.filename}: {_name(group, part)} is missing: restore the file from a copy")
        group = child(group, part)
    return group


def _name(group: Any, name: str) -> str:
    return f"{group.name.rstrip('/')}/{name}".lstrip("/")


def is_group(value: Any) -> bool:
    """Whether this is a group."""
    import h5py

    return isinstance(value, h5py.Group)


def arrays(group: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Key such as "obs/joint_pos" -> array, of all arrays over time below a group.

    Single values, which have no rows, are left out. Raises ValueError for links, for arrays whose values lie in other
    files or need a filter that h5py does not have, and for more than `MOST_ARRAYS`.
    """
    import h5py

    result = dict[str, Any]()
    for name in group:
        value = child(group, name)
        if isinstance(value, h5py.Dataset):
            if value.shape:
                _require_readable(value)
                result[f"{prefix}{name}"] = value
        elif isinstance(value, h5py.Group):
            if depth == DEEPEST:
                raise Refusal(f"{group.file.filename}: {value.name} lies more than {DEEPEST} groups deep: flatten it")
            result |= arrays(value, f"{prefix}{name}/", depth + 1)
        if len(result) > MOST_ARRAYS:
            raise Refusal(
                f"{group.file.filename}: {group.name} holds more than {MOST_ARRAYS} arrays: is it an episode?"
            )
    return result


def _require_readable(array: Any) -> None:
    """Raises ValueError if the values lie in other files, or need a filter that is not there."""
    import h5py

    if array.is_virtual or array.external:
        raise Refusal(f"{_place(array)} takes its values from other files, which are not read: copy them into this one")
    if array.chunks is None:
        return
    properties = array.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(index)
        if not h5py.h5z.filter_avail(code):
            title = PLUGINS.get(code) or name.decode(errors="replace") or "without a name"
            raise Refusal(
                f"{_place(array)} is compressed by the filter {title} ({code}), which h5py does not have: write it "
                "anew with gzip where the filter is (h5repack -f GZIP=4)"
            )
    if math.prod(array.chunks) * array.dtype.itemsize > LARGEST_CHUNK:
        raise Refusal(
            f"{_place(array)} has chunks of {array.chunks}, more than {LARGEST_CHUNK} bytes each: write it anew with "
            "smaller ones"
        )


def _place(array: Any) -> str:
    """The file and the path of an array, for messages. h5py takes a moment for it."""
    return f"{array.file.filename}: {array.name}"


def stored(array: Any) -> Stored:
    """How an array over time is stored. Reads its first row if that may be the file of an image."""
    import h5py

    (rows, *shape), dtype = array.shape, array.dtype
    may_be_pictures = (
        (dtype == np.uint8 and len(shape) == 1 and shape[0] >= SMALLEST_PICTURE)
        or (dtype.kind == "S" and not shape and dtype.itemsize >= SMALLEST_PICTURE)
        or (h5py.check_vlen_dtype(dtype) == np.uint8 and not shape)
    )
    if may_be_pictures and rows and (name := picture_format(first := _bytes(values(array, 0, 1)[0]))):
        return Stored(rows, _refused(picture_shape, first, f"{_place(array)}, row 0"), "uint8", name)
    return Stored(rows, tuple(shape), _dtype(dtype))


def _dtype(dtype: Any) -> str:
    """The numpy dtype of numbers, or a word for anything else."""
    import h5py

    if h5py.check_string_dtype(dtype) is not None or dtype.kind in "SU":
        return "text"
    if h5py.check_ref_dtype(dtype) is not None:
        return "a reference"
    if h5py.check_vlen_dtype(dtype) is not None:
        return "a list of changing length"
    if dtype.names:
        return "a compound"
    return dtype.name if dtype.kind in "biufc" else "an object"


def _bytes(row: Any) -> bytes:
    return row if isinstance(row, bytes) else np.asarray(row).tobytes()


def _refused(function: Any, *arguments: Any, **options: Any) -> Any:
    """What a function returns that names places itself."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise Refusal(str(error)) from error


def read(array: Any, kind: Stored, start: int, stop: int) -> NDArray[Any]:
    """Rows start .. stop of an array: (stop - start, *shape). Raises ValueError if they are damaged or not there."""
    _require_readable(array)
    place = _place(array)
    if stop > array.shape[0]:
        raise Refusal(f"{place} must have {stop} rows or more, got {array.shape[0]}: restore the file from a copy")
    try:
        rows = values(array, start, stop)
    except Refusal:
        raise
    except DAMAGE as error:
        text = " ".join(str(error).split())
        raise Refusal(f"{place}, rows {start} .. {stop} are damaged ({text}): restore the file from a copy") from error
    if not kind.pictures:
        return np.ascontiguousarray(rows, dtype=kind.dtype)
    images = np.empty((stop - start, *kind.shape), dtype=np.uint8)
    for index, row in enumerate(rows):
        images[index] = _refused(decoded, _bytes(row), f"{place}, row {start + index}", shape=kind.shape)
    return images


def values(array: Any, start: int, stop: int) -> NDArray[Any]:
    """Rows start .. stop as they are stored. Raises ValueError for a chunk that would fill the memory."""
    _require_no_bomb(array, start, stop)
    return array[start:stop]


def _require_no_bomb(array: Any, start: int, stop: int) -> None:
    """Raises ValueError if a chunk of these rows would decompress to more than a chunk.

    gzip alone can: HDF5 inflates a chunk to whatever it becomes. The other filters of h5py are told its size.
    """
    if array.compression != "gzip":
        return
    most = math.prod(array.chunks) * array.dtype.itemsize
    begin = start - start % array.chunks[0]
    ranges = [range(begin, stop, array.chunks[0])]
    ranges += [range(0, size, step) for size, step in zip(array.shape[1:], array.chunks[1:], strict=True)]
    for corner in itertools.product(*ranges):
        if array.id.get_chunk_info_by_coord(corner).size * DEFLATED <= most + SLACK:
            continue
        if SIZES["Zlib"](array.id.read_direct_chunk(corner)[1], most) > most:
            raise Refusal(
                f"{_place(array)}, row {corner[0]} is damaged (a chunk has {most} bytes, and this one becomes more): "
                "restore the file from a copy"
            )


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a group that JSON holds: numbers, texts, which are parsed if they are JSON, and short lists.

    Texts of more than `LONGEST_TEXT` characters and other values are left out.
    """
    result = dict[str, Any]()
    for name in holder.attrs:
        kind = holder.attrs.get_id(name)
        if (
            kind.shape is not None
            and math.prod(kind.shape) <= 100
            and (_dtype(kind.dtype) == "text" or not kind.dtype.hasobject)
        ):
            value = _plain(holder.attrs[name])
            if value is not None:
                result[str(name)] = value
    return result


def _plain(value: Any) -> Any:
    """A value as JSON holds it; None if it holds none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return parsed(value) if len(value) <= LONGEST_TEXT else None
    if isinstance(value, np.ndarray):
        entries = [_plain(entry) for entry in value.ravel()]
        return None if None in entries else entries
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value) if math.isfinite(value) else str(value)
    return None


def parsed(text: str) -> Any:
    """The value of a text of JSON, in which NaN and infinity become texts; any other text as it is."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def number(values: Mapping[str, Any], *names: str) -> float | None:
    """The first finite number above 0 of these names."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
    return None
