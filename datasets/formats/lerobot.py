"""Data sets of LeRobot, v3.0, v2.1 and v2.0, with images in the tables or in videos. LeRobot need not be installed.

Opening reads `meta/`, the headers of all videos, and those columns of all tables that number steps and episodes. Every
file must agree with `meta/`. A frame of a camera is read by its number (`video_frames`), never by a time: it is the
frame from_timestamp x fps, rounded once for each episode, plus the row in the episode. The frames of all episodes in a
file must follow one another without a gap, and end with the file.

`meta/recede.json`, which `recede convert to=lerobot` writes, brings back the mapping, the seeds and the facts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...progress import watched
from ..facts import EpisodeFacts
from .interface import ACTION, OBSERVATION, Column, ForeignDataset
from .lerobot_layout import INFO, Episode, Layout, read_json, read_layout, require
from .lerobot_rows import BATCH_ROWS, ColumnRows, batches, open_parquet, reading, require_packages
from .video_frames import FORMATS, VideoFrames, described

SIDECAR = "meta/recede.json"
"""What a store holds and LeRobot has no place for."""

SUCCESS = "next.success"

COUNTED = ("episode_index", "frame_index", "index", "task_index")
"""The columns that number episodes, their steps, all steps, and tasks."""

LEFT_OUT = {
    "timestamp": "the time of a step is its number over fps",
    "frame_index": "it numbers the steps of an episode",
    "episode_index": "it numbers the episodes",
    "index": "it numbers all steps",
    "task_index": "the task is noted as the sentence of an episode",
    SUCCESS: "it is noted as the outcome of an episode",
}
"""Column -> why it is no observation."""

IN_INFO = {"codebase_version", "features", "fps", "chunks_size", "data_path", "video_path", "splits"}
"""Entries of `info.json` that say nothing about the recording; nor do totals and limits of files."""


class LeRobot(ForeignDataset):
    """A data set in the layout of LeRobot.

    Raises ValueError, naming file, episode and camera, for whatever is missing, truncated or contradicts the rest.
    """

    kind = "lerobot"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this is a folder with `meta/info.json`."""
        return (path / INFO).is_file()

    def __init__(self, path: str | Path) -> None:
        require_packages()
        self.path = Path(path)
        self._layout = read_layout(self.path)
        info = self._layout.info
        self.version, self.rate = str(info["codebase_version"]), float(info["fps"])
        self.episode_lengths = np.array([episode.length for episode in self._layout.episodes], dtype=np.int64)
        self.columns = tuple(_column(key, feature, self._layout) for key, feature in self._layout.features.items())
        self.metadata = {
            name: value
            for name, value in info.items()
            if value is not None and name not in IN_INFO and not name.startswith("total_") and "_size_in_" not in name
        }
        self._cameras = [key for key, feature in self._layout.features.items() if feature["dtype"] == "video"]
        self._is_success = _check_tables(
            self._layout, [key for key in self._layout.features if key not in self._cameras]
        )
        for key in self._cameras:
            _check_videos(self._layout, key)
        self._sidecar = self._read_sidecar()
        self._readers = dict[str, ColumnRows | VideoFrames]()

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop of a column in an episode: (stop - start, *shape).

        Raises ValueError, naming file and episode, if the rows are damaged or not as `info.json` describes them.
        """
        column, described = self.column(key), self._layout.episodes[episode]
        part = described.videos.get(key, described.data)
        reader = self._readers.get(key) or self._reader(column)
        self._readers[key] = reader
        return reader.read(part.file, part.first + start, part.first + stop, f"episode {episode}, {key!r}")

    def is_video(self, key: str) -> bool:
        """Whether a column is a camera's video, which need not be lossless."""
        return key in self._cameras

    def _reader(self, column: Column) -> ColumnRows | VideoFrames:
        try:
            dtype = np.dtype(column.dtype)
        except TypeError as error:
            raise ValueError(f"{self.path}: column {column.key!r} holds {column.dtype}: leave it out") from error
        if column.key in self._cameras:
            return VideoFrames(column.shape)
        is_image = self._layout.features[column.key]["dtype"] == "image"
        return ColumnRows(column.key, column.shape, dtype.name, is_image=is_image)

    def files(self) -> Iterable[Path]:
        """The files of `meta/`, the tables and the videos."""
        yield from self._layout.files
        if (self.path / SIDECAR).is_file():
            yield self.path / SIDECAR
        for episode in self._layout.episodes:
            yield episode.data.file
            yield from (part.file for part in episode.videos.values())

    @property
    def noted_mapping(self) -> Mapping[str, Any] | None:
        """The mapping in `meta/recede.json`, if there is one."""
        return self._sidecar.get("mapping")

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the sentence of each episode, and its outcome if `next.success` is ever true; or what was noted."""
        if "episodes" in self._sidecar:
            return [EpisodeFacts.from_json(noted["facts"]) for noted in self._sidecar["episodes"]]
        return [_facts(episode, self._is_success) for episode in self._layout.episodes]

    @property
    def episode_seeds(self) -> NDArray[np.int64]:
        """(n,): the seeds that were noted, otherwise -1."""
        if "episodes" in self._sidecar:
            return np.array([noted["seed"] for noted in self._sidecar["episodes"]], dtype=np.int64)
        return super().episode_seeds

    def _read_sidecar(self) -> Mapping[str, Any]:
        """`meta/recede.json`, empty if there is none. Raises ValueError if it is of other episodes."""
        if not (file := self.path / SIDECAR).is_file():
            return {}
        content = read_json(file)
        remedy = "restore it from a copy, or delete it to use what LeRobot notes"
        try:
            lengths = [int(noted["steps"]) for noted in content["episodes"]]
            for noted in content["episodes"]:
                EpisodeFacts.from_json(noted["facts"])
                np.int64(noted["seed"])
            dict(content["mapping"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{file} is not as recede convert writes it ({error!r}): {remedy}") from error
        if lengths != self.episode_lengths.tolist():
            raise ValueError(f"{file} is of other episodes than the data set, which was changed since: {remedy}")
        return content


def _column(key: str, feature: Mapping[str, Any], layout: Layout) -> Column:
    """The column that a feature describes."""
    shape, dtype, names = tuple(feature["shape"]), str(feature["dtype"]), feature.get("names")
    if dtype not in ("image", "video"):
        shape = () if shape == (1,) else shape
        labels = _labels(names)
        is_number = dtype not in ("string", "language")
        labels = labels if len(labels) == math.prod(shape) else ()
        return Column(key, shape, dtype if is_number else "text", labels, role=_role(key, layout.features))
    if _channels_first(shape, names):
        shape = (shape[1], shape[2], shape[0])
    more = [feature[name] for name in ("info", "video_info") if isinstance(feature.get(name), Mapping)]
    noted = {name: value for entries in (feature, *more) for name, value in entries.items()}
    is_depth = bool(noted.get("is_depth_map") or noted.get("video.is_depth_map"))
    if is_depth or len(shape) != 3 or shape[2] not in FORMATS:
        reason = "it is a depth map" if is_depth else f"images of shape {shape} are not read"
        return Column(key, shape, "uint8", role=f"{reason}, and cameras have 8 bits and 1 or 3 channels", note=dtype)
    _check_rate(key, noted, layout)
    codec = noted.get("video.codec", "")
    return Column(key, shape, "uint8", role=_role(key, layout.features), note=f"{dtype} {codec}".strip())


def _role(key: str, features: Iterable[str]) -> str:
    """What is proposed for a column."""
    if key in LEFT_OUT:
        return LEFT_OUT[key]
    if key.startswith("next."):
        return "it tells what followed the step, which no policy can observe"
    if key.split(".")[0] == "action":
        return ACTION if key == "action" or "action" not in features else "action is taken for the action"
    is_observed = key.split(".")[0] in ("observation", "observations")
    return OBSERVATION if is_observed else "its key does not begin with observation, so LeRobot's policies ignore it"


def _channels_first(shape: tuple[int, ...], names: Any) -> bool:
    if isinstance(names, list) and len(names) == 3:
        return str(names[0]).startswith("channel")
    return len(shape) == 3 and shape[0] <= 4 < shape[2]


def _labels(names: Any) -> tuple[str, ...]:
    """The names of dimensions in any form that occurs: a list, lists by the names of groups, or name -> number."""
    if isinstance(names, Mapping):
        if names and all(type(value) is int for value in names.values()):
            return tuple(str(name) for name, _ in sorted(names.items(), key=lambda pair: pair[1]))
        names = list(names.values())
    if isinstance(names, list):
        return tuple(label for name in names for label in ((name,) if isinstance(name, str) else _labels(name)))
    return ()


def _check_rate(key: str, noted: Mapping[str, Any], layout: Layout) -> None:
    """Raises ValueError if a camera has another rate than the data set."""
    fps, rate = layout.info["fps"], noted.get("video.fps")
    if isinstance(rate, int | float) and abs(rate - fps) > 0.01 * fps:
        raise ValueError(
            f"{layout.root / INFO}: fps is {fps}, but camera {key!r} has {rate} frames a second: data sets of several "
            "rates are not read; record or resample them at one"
        )


def _facts(episode: Episode, is_success: Mapping[int, bool]) -> EpisodeFacts:
    """The facts of an episode. Several tasks have no order, so they become a note instead of a sentence."""
    facts = EpisodeFacts(sentence=episode.tasks[0]) if len(episode.tasks) == 1 else EpisodeFacts()
    if len(episode.tasks) > 1:
        facts = replace(facts, notes={"tasks": list(episode.tasks)})
    if not any(is_success.values()):  # nobody noted it, or nobody succeeded: which of the two cannot be said
        return facts
    return replace(facts, outcome="success" if is_success[episode.index] else "failure")


def _check_tables(layout: Layout, keys: list[str]) -> dict[int, bool]:
    """Check the numbers in all tables; returns whether each episode succeeded, if that is a column.

    Raises ValueError, naming file and episode, if a table is missing or damaged, lacks a column, or has other rows.
    """
    is_success = dict[int, bool]()
    by_file = [(file, list(episodes)) for file, episodes in groupby(layout.episodes, lambda episode: episode.data.file)]
    for file, episodes in watched(by_file, "check", unit="files", delay_s=2):
        first, last = episodes[0].index, episodes[-1].index
        of = f"episode {first}" if first == last else f"episodes {first} .. {last}"
        with open_parquet(require(file, of)) as table:
            names = table.schema_arrow.names
            if missing := [key for key in [*COUNTED, *keys] if key not in names]:
                raise ValueError(f"{file} ({of}) has no column {missing[0]!r}, which {INFO} lists: restore it")
            rows = sum(episode.length for episode in episodes)
            if table.metadata.num_rows != rows or episodes[0].data.first:
                raise ValueError(f"{file} must have {rows} rows for {of}, got {table.metadata.num_rows}: restore it")
            with reading(file, of):
                for episode, success in _checked_rows(table, file, episodes, layout):
                    is_success[episode] = is_success.get(episode, False) or success
    return is_success


def _checked_rows(table: Any, file: Path, episodes: list[Episode], layout: Layout) -> Iterator[tuple[int, bool]]:
    """Check a table batch by batch; yields whether an episode succeeded in a batch, if that is a column."""
    starts = np.array([episode.data.first for episode in episodes])
    has_success = SUCCESS in layout.features
    for first, batch in batches(table, [*COUNTED, *([SUCCESS] if has_success else [])], BATCH_ROWS):
        rows = np.arange(first, first + batch.num_rows)
        place = np.searchsorted(starts, rows, side="right") - 1
        frames = rows - starts[place]
        numbers = np.array([episode.index for episode in episodes])[place]
        begins = np.array([episode.start for episode in episodes])[place]
        columns = {name: batch.column(name) for name in COUNTED}
        expected = {"episode_index": numbers, "frame_index": frames, "index": begins + frames}
        for name, values in expected.items():
            got = columns[name].to_numpy(zero_copy_only=False)
            if len(wrong := np.flatnonzero(got != values)):
                row = int(wrong[0])
                raise ValueError(
                    f"{file}, episode {numbers[row]}, step {frames[row]}: {name} must be {values[row]}, got "
                    f"{got[row]}: its rows and meta/ contradict each other, restore both from one copy"
                )
        tasks = columns["task_index"].to_numpy(zero_copy_only=False)
        if len(wrong := np.flatnonzero(~np.isin(tasks, list(layout.tasks)))):
            row = int(wrong[0])
            raise ValueError(
                f"{file}, episode {numbers[row]}, step {frames[row]}: there is no task {tasks[row]}: restore meta/"
            )
        if has_success:
            successes = np.asarray(batch.column(SUCCESS).to_pylist(), dtype=bool).reshape(len(rows), -1)
            for number in np.unique(numbers).tolist():
                yield number, bool(np.any(successes[numbers == number]))


def _check_videos(layout: Layout, key: str) -> None:
    """Raises ValueError if a video of a camera is missing or damaged, or has other frames than its episodes."""
    feature = layout.features[key]
    by_file = dict[Path, list[Episode]]()
    for episode in layout.episodes:
        by_file.setdefault(episode.videos[key].file, []).append(episode)
    for file, episodes in watched(by_file.items(), f"check {key}", unit="files", delay_s=2):
        episodes.sort(key=lambda episode: episode.videos[key].first)
        frames, rate, size = described(require(file, f"camera {key!r} of episode {episodes[0].index}"))
        stop = 0
        for episode in episodes:
            if (first := episode.videos[key].first) != stop:
                raise ValueError(
                    f"{file}: episode {episode.index} of camera {key!r} must begin at frame {stop}, where the one "
                    f"before it ends, got frame {first} by its from_timestamp: restore meta/episodes from a copy"
                )
            stop += episode.length
        if frames != stop:
            raise ValueError(
                f"{file}: camera {key!r} must have {stop} frames for its episodes ({episodes[0].index} .. "
                f"{episodes[-1].index}), got {frames}: restore it from a copy, or leave out these episodes in LeRobot"
            )
        if (fps := layout.info["fps"]) and abs(rate - fps) > 0.01 * fps:
            raise ValueError(
                f"{file}: camera {key!r} must have {fps} frames a second as {INFO} says, got {rate:g}: record or "
                "resample all streams at one rate"
            )
        if not set(size) <= set(feature["shape"]):
            raise ValueError(f"{file}: camera {key!r} must have shape {feature['shape']}, got {size}: correct {INFO}")
