"""A data set of another library as demonstrations, under a mapping."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..progress import watched
from .demonstrations import Demonstrations, cast_unclipped, check_episode_ends, check_finite
from .facts import EpisodeFacts
from .formats.interface import ForeignDataset
from .mapping import MAKERS, DatasetMapping, StreamMapping, image_shape, is_channels_first


def as_json(value: Any) -> Any:
    """A value of a file of another library as JSON: NaN and infinity become texts, and half a letter a question mark.

    >>> as_json({"rate": float("nan"), "task": "lift \\ud83d"})
    {'rate': 'NaN', 'task': 'lift ?'}
    """
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"), parse_constant=str)


class Converted(Demonstrations):
    """The episodes of a data set whose steps are even, in the streams of a mapping. A read decodes its steps alone.

    If the action is an observation of the next step, each episode ends a step earlier.

    Raises ValueError if a column does not exist or cannot become its stream, or for an episode that is too short.
    """

    def __init__(self, dataset: ForeignDataset, mapping: DatasetMapping) -> None:
        if mapping.kind != dataset.kind:
            raise ValueError(
                f"{dataset.path} is {dataset.kind}, and the mapping is for {mapping.kind}: use one of this data set"
            )
        self.path, self.dataset, self.mapping = dataset.path, dataset, mapping
        self.specification = mapping.specification(dataset)
        self.episode_ends = np.cumsum(dataset.episode_lengths - int(mapping.action.is_next), dtype=np.int64)
        self.episode_seeds = np.asarray(dataset.episode_seeds)
        check_episode_ends(self.episode_ends, f"{self.path}: the ends of the episodes")

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of each episode, which also note what the action is, unless that was noted before."""
        action = MAKERS[self.mapping.action.of]
        noted = [replace(facts, notes={"action": action, **facts.notes}) for facts in self.dataset.episode_facts]
        return [EpisodeFacts.from_json(as_json(facts.to_json())) for facts in noted]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape), in the stream's dtype.

        Raises ValueError, naming the episode, for rows that are missing, damaged or not finite, or that do not fit.
        """
        stream = self.stream(name)
        start, stop = self.step_range(start, stop)
        pieces = [np.empty((0, *stream.shape), stream.dtype)]
        if start < stop:
            episodes = range(int(self.episode_of(start)), int(self.episode_of(stop - 1)) + 1)
            pieces = [self._rows(name, episode, start, stop) for episode in episodes]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _rows(self, name: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Those of the steps start .. stop of all episodes that lie in one of them."""
        stream, (first, end) = self.stream(name), self.bounds(episode)
        shift = int(name == "action" and self.mapping.action.is_next)
        begin, last = max(start, first) - first, min(stop, end) - first
        columns = [
            self._checked(key, episode, begin + shift, last + shift, is_image=stream.is_image)
            for key in self.mapping.streams[name].keys
        ]
        rows = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        place = f"{self.path}: {self.dataset.episode_name(episode)}"
        check_finite(rows, stream, place, first=begin)
        return cast_unclipped(rows, stream, place)

    def _checked(self, key: str, episode: int, start: int, stop: int, *, is_image: bool) -> NDArray[Any]:
        """Rows of a column as those of a stream: vectors are flat, and the channels of images come last."""
        column, rows = self.dataset.column(key), self.dataset.read(key, episode, start, stop)
        shape = (stop - start, *column.shape)
        if rows.shape != shape or rows.dtype != column.dtype:
            raise ValueError(
                f"{self.path}: {self.dataset.episode_name(episode)}, column {key!r}: rows {start} .. {stop} must be "
                f"{column.dtype} {shape}, got {rows.dtype} {rows.shape}: restore the episode from a copy"
            )
        if not is_image:
            return rows.reshape(len(rows), math.prod(column.shape))
        turned = np.moveaxis(rows, 1, -1) if is_channels_first(column.shape) else rows
        return turned.reshape(len(rows), *image_shape(column.shape))

    def content(self, name: str) -> str:
        """A digest of all files of the data set, and of where the stream comes from."""
        mapped: StreamMapping = self.mapping.streams[self.stream(name).name]
        return f"{self._files_digest} {json.dumps([mapped.keys, self.stream(name).dtype])}"

    @cached_property
    def _files_digest(self) -> str:
        """SHA-256 of the names and the bytes of all files. Reads them once."""
        folder = self.path if self.path.is_dir() else self.path.parent
        digest, files = hashlib.sha256(), sorted(set(self.dataset.files()))
        for file in watched(files, "SHA-256 of the source", unit="files", delay_s=2):
            digest.update(f"\n{file.relative_to(folder)} ".encode(errors="surrogateescape"))
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()
