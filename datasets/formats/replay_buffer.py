"""Read replay buffers in the layout of Diffusion Policy (Chi et al. 2023), as they were published.

A replay buffer is a zarr group, v2 or v3, with `data/<key>` (N, ...) for N steps of all episodes in turn, and
`meta/episode_ends` (n,), the first step after each of n episodes. It has no units, limits or control rate, so a
specification describes its streams and a source locates each of them: a key, and a function of that key's rows.

Its Blosc chunks have no checksum: a chunk that is truncated or cannot be decompressed is detected, most flipped bits
are not. A missing chunk counts as zeros, as zarr specifies, because some writers leave such chunks out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ...specification import Source, Specification, nearest
from ..arrays import ZarrArray, check_length, files_digest, open_array, open_group, read_rows, require_chunks
from ..code_digest import code_digest
from ..demonstrations import Demonstrations, cast_unclipped, check_episode_ends, check_finite


class ReplayBuffer(Demonstrations):
    """A replay buffer as read-only demonstrations; the seeds of its episodes are unknown.

    sources: stream name -> its source, for every stream of the specification.

    Raises FileNotFoundError if `path` does not exist, and ValueError if it has another layout, lacks a key or is
    inconsistent, or if a stream has no source.
    """

    def __init__(self, path: str | Path, specification: Specification, sources: Mapping[str, Source]) -> None:
        self.path = Path(path)
        self.specification = specification
        self._group = open_group(self.path)
        self.episode_ends = read_ends(self._group, self.path)
        self.episode_seeds = np.full(len(self.episode_ends), -1, dtype=np.int64)
        self._sources = self._checked_sources(sources)
        self._arrays = {key: self._open(key) for key in sorted({key for key, _ in self._sources.values()})}

    @property
    def keys(self) -> list[str]:
        """The keys of the arrays directly in `data`, sorted."""
        return data_keys(self.path)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape), in the stream's dtype.

        Raises ValueError if the stream or a step does not exist, if its source returns another shape or kind of number,
        for NaN and infinity, for float images with values that are not whole numbers, and for a damaged chunk.
        """
        stream = self.stream(name)
        start, stop = self.step_range(start, stop)
        key, convert = self._sources[name]
        rows = np.asarray(convert(self.foreign_rows(key, start, stop)))
        place = f"{self.path}: data/{key}"
        if stream.is_image:
            rows = to_uint8(rows, place)
        shape = (stop - start, *stream.shape)
        if rows.shape != shape or not np.can_cast(rows.dtype, stream.dtype, "same_kind"):
            raise ValueError(
                f"{place}: its rows must become steps of stream {name!r}, {shape} in {stream.dtype}, "
                f"got {rows.shape} in {rows.dtype}: check the source of that stream"
            )
        check_finite(rows, stream, place, first=start)
        return cast_unclipped(rows, stream, place)

    def content(self, name: str) -> str | None:
        """A digest of the chunk files of a stream and of the code of its source; None if the source has none."""
        key, convert = self._sources[self.stream(name).name]
        code = code_digest(convert)
        if code is None:
            return None
        return f"{files_digest(self._arrays[key], self.num_steps)} {code}"

    def foreign_rows(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of `data/<key>` as stored; any key may be read, also one that no stream uses.

        Raises ValueError if the key or a step does not exist, and for a damaged chunk.
        """
        start, stop = self.step_range(start, stop)
        array = self._arrays[key] if key in self._arrays else self._open(key)
        return read_rows(array, start, stop)

    def _checked_sources(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        names = [stream.name for stream in self.specification.streams]
        for name in sources:
            if name not in names:
                raise ValueError(
                    f"{self.path}: sources must name streams of the specification, got {name!r}: {nearest(name, names)}"
                )
        if missing := [name for name in names if name not in sources]:
            raise ValueError(f"{self.path}: every stream must have a source, {missing} have none")
        return dict(sources)

    def _open(self, key: str) -> ZarrArray:
        if key not in self.keys:
            if (self.path / "data" / key).is_dir():
                raise ValueError(
                    f"{self.path}: data/{key} lies in a group or is one, and only arrays directly in data/ are read: "
                    "write it to data/ under a name without '/', and name that in the source"
                )
            raise ValueError(f"{self.path}: there is no data/{key}: {nearest(key, self.keys)}")
        array = open_array(self._group, f"data/{key}", self.path)
        check_length(array, self.num_steps, self.path)
        return array


def read_ends(group: zarr.Group, path: Path) -> NDArray[np.int64]:
    """(n,): the first step after each episode. path: of the buffer.

    Raises ValueError if they are missing or damaged, are no vector of integers, or do not ascend.
    """
    ends = open_array(group, "meta/episode_ends", path)
    if ends.ndim != 1 or ends.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: meta/episode_ends must be a vector of integers, got {ends.dtype} of shape {ends.shape}"
        )
    require_chunks(ends, 0, ends.shape[0])
    values = read_rows(ends, 0, ends.shape[0]).astype(np.int64)
    check_episode_ends(values, f"{path}: meta/episode_ends")
    return values


def data_keys(path: Path) -> list[str]:
    """The keys of the arrays directly in `data` of a buffer, sorted."""
    descriptions = [*path.glob("data/*/.zarray"), *path.glob("data/*/zarr.json")]
    groups = {description.parent.parent for description in path.glob("data/*/*/zarr.json")}
    return sorted({description.parent.name for description in descriptions if description.parent not in groups})


def to_uint8(images: NDArray[Any], place: str) -> NDArray[Any]:
    """Convert floating-point images to uint8, exactly; other dtypes are returned unchanged.

    Raises ValueError for a value that is not a whole number from 0 to 255.
    """
    if images.dtype.kind != "f":
        return images
    with np.errstate(invalid="ignore"):  # NaN and values out of range are refused below
        whole = images.astype(np.uint8)
    if not np.array_equal(whole, images):
        wrong = images[whole != images].flat[0]
        raise ValueError(
            f"{place}: images in floating point must hold whole numbers from 0 to 255, got {wrong}: store them as uint8"
        )
    return whole
