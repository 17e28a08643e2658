"""Replay buffers in the layout of Diffusion Policy (Chi et al. 2023), read as they were published.

Such a folder is a zarr group, v2 or v3, with `data/<key>` (N, ...) for N steps of all episodes in turn, and
`meta/episode_ends` (n,), the first step after each of n episodes. It says nothing of units, limits or the control rate,
so it is read through a specification and, for each of its streams, a source: a key and a function of that key's rows.

Its Blosc chunks carry no checksum: a chunk that is cut off or cannot be decompressed is found, a flipped bit mostly is
not. A missing chunk is one of zeros by zarr's own rule, because some writers leave such chunks out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import Source, Specification, nearest
from ..arrays import ZarrArray, check_length, open_array, open_group, read_rows
from ..demonstrations import Demonstrations, check_episode_ends, check_finite


class ReplayBuffer(Demonstrations):
    """A replay buffer as demonstrations; it is only read. No episode's seed is known.

    sources: for each stream of the specification, where its rows come from.

    Raises FileNotFoundError where nothing is at `path`, and ValueError where it is not of this layout, lacks a key, is
    inconsistent, or where the sources do not cover the specification.
    """

    def __init__(self, path: str | Path, specification: Specification, sources: Mapping[str, Source]) -> None:
        self.path = Path(path)
        self.specification = specification
        self._group = open_group(self.path)
        ends = open_array(self._group, "meta/episode_ends", self.path)
        if ends.ndim != 1 or ends.dtype.kind not in "iu":
            raise ValueError(
                f"{self.path}: meta/episode_ends must be a vector of integers, got {ends.dtype} of shape {ends.shape}"
            )
        self.episode_ends = read_rows(ends, 0, ends.shape[0]).astype(np.int64)
        self.episode_seeds = np.full(len(self.episode_ends), -1, dtype=np.int64)
        check_episode_ends(self.episode_ends, f"{self.path}: meta/episode_ends")
        self._sources = self._covering(sources)
        self._arrays = {key: self._open(key) for key in sorted({key for key, _ in self._sources.values()})}

    @property
    def keys(self) -> list[str]:
        """The keys that lie under `data`."""
        descriptions = [*self.path.glob("data/*/.zarray"), *self.path.glob("data/*/zarr.json")]
        return sorted({description.parent.name for description in descriptions})

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape), in the stream's dtype.

        Raises ValueError for a stream or a step that does not exist, for rows that its source does not turn into steps
        of the stream, for NaN and infinity, for float images of other than whole numbers, and for a damaged chunk.
        """
        stream = self.stream(name)
        start, stop = self.step_range(start, stop)
        key, convert = self._sources[name]
        rows = np.asarray(convert(self.foreign_rows(key, start, stop)))
        place = f"{self.path}: data/{key}"
        if stream.is_image:
            rows = as_bytes(rows, place)
        shape = (stop - start, *stream.shape)
        if rows.shape != shape or not np.can_cast(rows.dtype, stream.dtype, "same_kind"):
            raise ValueError(
                f"{place}: its rows must become steps of stream {name!r}, {shape} in {stream.dtype}, "
                f"got {rows.shape} in {rows.dtype}: check the source of that stream"
            )
        check_finite(rows, stream, place, first=start)
        return rows.astype(stream.dtype, copy=False)

    def foreign_rows(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of `data/<key>` as they are stored, whether a stream comes from it or not.

        Raises ValueError for a key or a step that does not exist, and for a damaged chunk.
        """
        start, stop = self.step_range(start, stop)
        array = self._arrays[key] if key in self._arrays else self._open(key)
        return read_rows(array, start, stop)

    def _covering(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        names = [stream.name for stream in self.specification.streams]
        for name in sources:
            if name not in names:
                raise ValueError(
                    f"{self.path}: sources must be of the specification's streams, got {name!r}: {nearest(name, names)}"
                )
        if missing := [name for name in names if name not in sources]:
            raise ValueError(f"{self.path}: every stream must have a source, {missing} have none")
        return dict(sources)

    def _open(self, key: str) -> ZarrArray:
        if key not in self.keys:
            raise ValueError(f"{self.path}: there is no data/{key}: {nearest(key, self.keys)}")
        array = open_array(self._group, f"data/{key}", self.path)
        check_length(array, self.num_steps, self.path)
        return array


def as_bytes(images: NDArray[Any], place: str) -> NDArray[Any]:
    """Images whose floating-point numbers are whole, from 0 to 255, as uint8, exactly; others are left as they are."""
    if images.dtype.kind != "f":
        return images
    with np.errstate(invalid="ignore"):  # NaN and what is out of range is found below
        whole = images.astype(np.uint8)
    if not np.array_equal(whole, images):
        wrong = images[whole != images].flat[0]
        raise ValueError(
            f"{place}: images in floating point must hold whole numbers from 0 to 255, got {wrong}: store them as uint8"
        )
    return whole
