"""Rows of one column of parquet files, in order, without loading more than a batch."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .pictures import decoded

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_BYTES = 2**22
"""Rows are read in batches of about so many bytes after decoding."""

BATCH_ROWS = 8192
"""Most rows in a batch."""


def require_packages() -> None:
    """Raises ValueError, naming the extra, if a package that reads tables or videos is not installed."""
    for package in ("pyarrow.parquet", "av"):
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(f"data sets of LeRobot need {package}: pip install 'recede[lerobot]'") from error


@contextmanager
def reading(file: Path, what: str = "") -> Generator[None]:
    """Errors of a damaged parquet file in the block become a ValueError that names it. what: is read, for messages."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = f", {what}," if what else ""
        raise ValueError(f"{file}{what} is damaged ({_line(error)}): restore it from a copy") from error


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def open_parquet(file: Path) -> pq.ParquetFile:
    """A parquet file, of which pages are read as they are needed.

    Raises ValueError if it is no whole one, or if it has two columns of one name.
    """
    import pyarrow.parquet as pq

    with reading(file):
        opened = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    names = opened.schema_arrow.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{file} has two columns {twice[0]!r}: write the file again without one of them")
    return opened


def batches(
    opened: pq.ParquetFile, columns: list[str], rows: int, *, first: int = 0
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of some columns, each with the number of its first row, from the row group on that holds row `first`.

    rows: most in a batch.
    """
    meta, start, group = opened.metadata, 0, 0
    while group < meta.num_row_groups - 1 and start + meta.row_group(group).num_rows <= first:
        start += meta.row_group(group).num_rows
        group += 1
    groups = list(range(group, meta.num_row_groups))
    for batch in opened.iter_batches(batch_size=rows, row_groups=groups, columns=columns, use_threads=False):
        yield start, batch
        start += batch.num_rows


class ColumnRows:
    """The rows of one column, file by file. A read that goes on where the last one ended decodes no row twice.

    size, dtype: of a row, as `info.json` describes it; an image has (H, W, C). is_image: whether rows are files.
    """

    def __init__(self, key: str, shape: tuple[int, ...], dtype: str, *, is_image: bool) -> None:
        self.key, self.shape, self.dtype, self._is_image = key, shape, dtype, is_image
        row_bytes = math.prod(shape) * 8
        self._most = min(max(BATCH_BYTES // max(row_bytes, 1), 1), BATCH_ROWS)
        self._file: Path | None = None
        self._opened: pq.ParquetFile | None = None
        self._batches: Iterator[tuple[int, Any]] = iter(())
        self._held: tuple[int, Any] | None = None

    def read(self, file: Path, start: int, stop: int, place: str) -> NDArray[Any]:
        """Rows start .. stop of a file: (stop - start, *shape). place: the episode, for messages.

        Raises ValueError, naming the file, if they are damaged or not as described.
        """
        pieces = [np.empty((0, *self.shape), self.dtype)]
        with reading(file, place):
            pieces += [self._decoded(values, f"{file}, {place},") for values in self._ranges(file, start, stop)]
        rows = pieces[1] if len(pieces) == 2 else np.concatenate(pieces)
        if len(rows) != stop - start:
            raise ValueError(
                f"{file}, {place}, must have rows {start} .. {stop}, got {len(rows)} of them: restore it from a copy"
            )
        return rows

    def _ranges(self, file: Path, start: int, stop: int) -> Iterator[Any]:
        """The arrays of pyarrow that hold rows start .. stop in turn."""
        if self._file != file or self._held is None or start < self._held[0]:
            self._open(file, start)
        position = start
        while position < stop and self._held is not None:
            first, values = self._held
            if position >= first + len(values):
                self._advance()
                continue
            piece = values.slice(position - first, min(stop, first + len(values)) - position)
            position += len(piece)
            yield piece

    def _open(self, file: Path, start: int) -> None:
        if self._file != file or self._opened is None:
            if self._opened is not None:
                self._opened.close()
            self._file, self._opened = file, open_parquet(file)
        self._batches = batches(self._opened, [self.key], self._most, first=start)
        self._advance()

    def _advance(self) -> None:
        following = next(self._batches, None)
        self._held = None if following is None else (following[0], following[1].column(0))

    def _decoded(self, values: Any, place: str) -> NDArray[Any]:
        if self._is_image:
            return np.stack([image(row, self.shape, place) for row in values.to_pylist()])
        return numbers(values, self.shape, self.dtype, place)


def numbers(values: Any, shape: tuple[int, ...], dtype: str, place: str) -> NDArray[Any]:
    """The rows (n, *shape) of a column of numbers, or of lists of them in any depth.

    Raises ValueError if one is empty, has another shape, or does not fit the dtype.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    count, sizes = len(values), list[int]()
    while True:
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if values.null_count:
            raise ValueError(f"{place} has an empty entry: restore it from a copy")
        if not pa.types.is_nested(values.type) or pa.types.is_struct(values.type):
            break
        lengths = pc.call_function("list_value_length", [values]).unique().to_pylist()
        sizes.append(lengths[0] if len(lengths) == 1 else -1)
        values = values.flatten()
    if math.prod(sizes) != math.prod(shape) or min(sizes, default=1) < 0:
        raise ValueError(f"{place} must have rows of {shape}, got rows of {tuple(sizes)}: restore it from a copy")
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise ValueError(f"{place} must hold {dtype}, got {values.type}: restore it from a copy")
    flat = values.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, or as a value that is not finite
        rows = flat.astype(dtype).reshape(count, *shape)
    if np.dtype(dtype).kind != "f" and not np.array_equal(rows.reshape(-1), flat):
        raise ValueError(f"{place} must hold {dtype}, got {values.type} with values that it lacks: correct info.json")
    return rows


def image(row: Any, shape: tuple[int, ...], place: str) -> NDArray[np.uint8]:
    """The image (H, W, C) in a row, PNG or JPEG. Raises ValueError if it is damaged or of another shape."""
    content = row.get("bytes") if isinstance(row, dict) else None
    if not isinstance(content, bytes):
        raise ValueError(f"{place} must hold the bytes of an image, got {row!r:.100}: embed the images in the table")
    return decoded(content, place.removesuffix(","), shape=shape)
