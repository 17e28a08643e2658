"""Write demonstrations as a data set of LeRobot v3.0.

    stream `x`                 observation.x; an image: observation.images.x
    the action                 action
    the sentence of an episode its task; without one, the name of the task
    the outcome                next.success, true on the last step of a success; left out if no outcome is known

Whatever has no place there stands in `meta/recede.json`: units, limits and the rest of the specification as a mapping
that reads the data set back, and the seed and the facts of each episode. Images are PNG in the tables, which is
lossless, or H.264 videos. The folder appears when it is whole.

Memory: a piece of an episode (`copying.PIECE_BYTES`), what an encoder holds, a sample of each vector for the quantiles,
and the tables of the episodes.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import whole_folder, write_json, writing
from ...progress import watched
from ...specification import Specification, Stream
from ..copying import pieces
from ..demonstrations import Demonstrations
from ..facts import INPUT
from ..mapping import LARGEST_VECTOR, ActionMapping, DatasetMapping, StreamMapping
from .lerobot import SIDECAR, SUCCESS, LeRobot
from .lerobot_comparison import Agreement, compare
from .lerobot_files import CHUNK_FILES, RollingTables, RollingVideo
from .lerobot_layout import INFO
from .lerobot_rows import require_packages
from .lerobot_statistics import STATISTICS, ImageStatistics, VectorStatistics
from .video_frames import FORMATS

DATA_MB, VIDEO_MB = 100.0, 200.0
"""Sizes after which a new file begins."""

CASTS = {"float16": "float32", "uint16": "int32", "uint32": "int64"}
"""dtype of a stream -> the one in which its values are written, exactly, because few tools support the first."""

EPISODES_AT_ONCE = 256
"""Episodes whose statistics are written together."""


@dataclass(frozen=True)
class Feature:
    """How a stream is written."""

    stream: Stream
    key: str
    dtype: str
    """image, video, or of numbers."""

    def described(self, video: RollingVideo | None, rate: float) -> dict[str, Any]:
        """Its entry in `info.json`."""
        names = ["height", "width", "channels"] if self.stream.is_image else list(self.stream.labels) or None
        entry = {"dtype": self.dtype, "shape": list(self.stream.shape), "names": names}
        if video is None:
            return entry
        height, width, channels = self.stream.shape
        noted = {
            "height": height, "width": width, "codec": "h264", "pix_fmt": video.pixel_format, "fps": rate,
            "channels": channels, "is_depth_map": False,
        }  # fmt: skip
        return entry | {"info": {f"video.{name}": value for name, value in noted.items()} | {"has_audio": False}}


def exported(specification: Specification, *, video: bool) -> list[Feature]:
    """How each stream is written. Raises ValueError for one that LeRobot cannot hold."""
    features = list[Feature]()
    for stream in specification.streams:
        key = "action" if stream.name == "action" else f"observation.{'images.' * stream.is_image}{stream.name}"
        dtype = ("video" if video else "image") if stream.is_image else CASTS.get(stream.dtype, stream.dtype)
        if stream.is_image and (stream.shape[2] not in FORMATS or stream.size <= LARGEST_VECTOR):
            raise ValueError(
                f"stream {stream.name!r}: an image must have 1 or 3 channels and more than {LARGEST_VECTOR} values for "
                f"LeRobot, got {stream.shape}: leave it out with recede edit"
            )
        if dtype == "uint64":
            raise ValueError(f"stream {stream.name!r}: tensors have no uint64: convert it to int64 with another store")
        features.append(Feature(stream, key, dtype))
    if video and not any(feature.dtype == "video" for feature in features):
        raise ValueError("video=true is for stores with images, and there are none: leave it out")
    return features


def frames_a_second(control_dt: float) -> float:
    """The rate whose inverse is the control period, if a float has it; a whole number if there is one."""
    rate = 1 / control_dt
    options = (round(rate), rate, math.nextafter(rate, 0), math.nextafter(rate, math.inf))
    return next((option for option in options if option and 1 / option == control_dt), rate)


def export(
    demonstrations: Demonstrations, path: Path, *, video: bool, provenance: Mapping[str, Any]
) -> list[Agreement]:
    """Write a new data set at `path`, whole or not at all, and compare every value with the demonstrations.

    Returns the agreement of each camera that is a video. provenance: what decides the data set, as JSON.

    Raises ValueError if a stream cannot be held, if a value does not come back, or if a package is not installed;
    FileExistsError if `path` exists and is not empty.
    """
    features = exported(demonstrations.specification, video=video)
    require_packages()
    with whole_folder(path, replace=False) as partial, writing(path):
        writer = _Writer(partial, demonstrations, features)
        for index in watched(range(len(demonstrations)), "export", unit="episodes"):
            writer.add(index)
        writer.finish(provenance)
        return compare(demonstrations, partial)


class _Writer:
    """A data set that is being written, an episode after the other."""

    def __init__(self, root: Path, demonstrations: Demonstrations, features: list[Feature]) -> None:
        self._root, self._demonstrations, self._features = root, demonstrations, features
        self._rate = frames_a_second(demonstrations.specification.control_dt)
        self._facts = demonstrations.episode_facts
        self._has_outcome = any(facts.outcome != "unknown" for facts in self._facts)
        self._tasks = dict[str, int]()
        self._table_features = self._described_columns()
        self._data = RollingTables(root / "data", DATA_MB * 2**20, self._schema())
        self._videos = {
            feature.key: RollingVideo(root / "videos" / feature.key, VIDEO_MB * 2**20, feature.stream.shape, self._rate)
            for feature in features
            if feature.dtype == "video"
        }
        self._episodes = RollingTables(root / "meta/episodes", DATA_MB * 2**20, self._episode_schema())
        self._pending = list[dict[str, Any]]()
        self._statistics = self._new_statistics()

    def _described_columns(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Column of the table -> dtype and shape of a row."""
        columns = {
            feature.key: (feature.dtype, feature.stream.shape) for feature in self._features if feature.dtype != "video"
        }
        if self._has_outcome:
            columns[SUCCESS] = ("bool", (1,))
        return (
            columns
            | {"timestamp": ("float32", (1,))}
            | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), ("int64", (1,)))
        )

    def _schema(self) -> Any:
        """The schema of the tables, with the features as the library datasets describes them."""
        import pyarrow as pa

        fields, noted = list[Any](), dict[str, Any]()
        for key, (dtype, shape) in self._table_features.items():
            if dtype == "image":
                fields.append(pa.field(key, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
                noted[key] = {"_type": "Image"}
                continue
            kind, value = pa.from_numpy_dtype(dtype), {"dtype": dtype, "_type": "Value"}
            fields.append(pa.field(key, kind if shape == (1,) else pa.list_(kind, shape[0])))
            noted[key] = value if shape == (1,) else {"feature": value, "length": shape[0], "_type": "List"}
        return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": noted}})})

    def _episode_schema(self) -> Any:
        """The schema of the tables of episodes."""
        import pyarrow as pa

        whole, real = pa.int64(), pa.float64()
        fields = {"episode_index": whole, "tasks": pa.list_(pa.string()), "length": whole}
        fields |= {f"data/{name}": whole for name in ("chunk_index", "file_index")}
        fields |= dict.fromkeys(("dataset_from_index", "dataset_to_index"), whole)
        for key in self._videos:
            fields |= {f"videos/{key}/{name}": whole for name in ("chunk_index", "file_index")}
            fields |= {f"videos/{key}/{name}": real for name in ("from_timestamp", "to_timestamp")}
        for key in self._new_statistics():
            is_image = any(feature.key == key and feature.stream.is_image for feature in self._features)
            values = pa.list_(pa.list_(pa.list_(real))) if is_image else pa.list_(real)
            fields |= {f"stats/{key}/{name}": pa.list_(whole) if name == "count" else values for name in STATISTICS}
        fields |= {f"meta/episodes/{name}": whole for name in ("chunk_index", "file_index")}
        return pa.schema(list(fields.items()))

    def _new_statistics(self) -> dict[str, VectorStatistics | ImageStatistics]:
        images = {feature.key: feature.stream.shape[2] for feature in self._features if feature.stream.is_image}
        vectors = {key: shape[0] for key, (dtype, shape) in self._table_features.items() if dtype != "image"}
        return {key: ImageStatistics(channels) for key, channels in images.items()} | {
            key: VectorStatistics(size) for key, size in vectors.items()
        }

    def add(self, index: int) -> None:
        """Append an episode."""
        (start, stop), facts = self._demonstrations.bounds(index), self._facts[index]
        task = facts.sentence or facts.task
        number = self._tasks.setdefault(task, len(self._tasks))
        statistics = self._new_statistics()
        for rolling in (self._data, *self._videos.values()):
            rolling.begin(stop - start)
        begun = {key: video.rows for key, video in self._videos.items()}
        step = start
        for piece in pieces(self._demonstrations, index):
            columns = self._columns(piece, step - start, stop - start, index=index, start=start, task=number)
            step += len(piece["action"])
            for key, rows in columns.items():
                for counted in (statistics[key], self._statistics[key]):
                    counted.add(rows)
            self._write(columns)
        self._note(index, task, begun, {key: counted.result() for key, counted in statistics.items()})

    def _columns(
        self, piece: Mapping[str, NDArray[Any]], first: int, length: int, *, index: int, start: int, task: int
    ) -> dict[str, NDArray[Any]]:
        """All columns of a piece of an episode, whose first step is `first`: key -> (L, *shape)."""
        columns = {
            feature.key: piece[feature.stream.name].astype(
                "uint8" if feature.stream.is_image else feature.dtype, copy=False
            )
            for feature in self._features
        }
        steps = np.arange(first, first + len(piece["action"]))
        if self._has_outcome:
            columns[SUCCESS] = (steps == length - 1) & (self._facts[index].outcome == "success")
        counted = {
            "timestamp": (steps / self._rate).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full_like(steps, index),
            "index": start + steps,
            "task_index": np.full_like(steps, task),
        }
        return (
            columns
            | {name: values.reshape(len(steps), -1) for name, values in counted.items()}
            | {name: columns[name].reshape(len(steps), -1) for name in columns if name == SUCCESS}
        )

    def _write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows to the table and the videos."""
        import pyarrow as pa

        arrays, count = dict[str, Any](), 0
        for key, rows in columns.items():
            count = len(rows)
            if key in self._videos:
                self._videos[key].write(rows)
            elif self._table_features[key][0] == "image":
                kind = self._data.schema.field(key).type
                arrays[key] = pa.array([{"bytes": _png(image), "path": None} for image in rows], kind)
            else:
                flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
                size = rows.shape[1]
                arrays[key] = flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)
        self._data.write({name: arrays[name] for name in self._data.schema.names}, count)

    def _note(
        self, index: int, task: str, begun: Mapping[str, int], statistics: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Keep the row of an episode for its table, and write the kept ones now and then."""
        start, stop = self._demonstrations.bounds(index)
        row: dict[str, Any] = {"episode_index": index, "tasks": [task], "length": stop - start}
        row |= dict(zip(("data/chunk_index", "data/file_index"), self._data.place, strict=True))
        row |= {"dataset_from_index": start, "dataset_to_index": stop}
        for key, video in self._videos.items():
            row |= {f"videos/{key}/chunk_index": video.place[0], f"videos/{key}/file_index": video.place[1]}
            row |= {f"videos/{key}/from_timestamp": begun[key] / self._rate}
            row |= {f"videos/{key}/to_timestamp": video.rows / self._rate}
        for key, values in statistics.items():
            row |= {f"stats/{key}/{name}": value for name, value in values.items()}
        self._pending.append(row)
        if len(self._pending) == EPISODES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Write the kept rows of episodes."""
        if not self._pending:
            return
        self._episodes.begin(len(self._pending))
        chunk, file = self._episodes.place
        for row in self._pending:
            row |= {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
        names = self._episodes.schema.names
        self._episodes.write({name: [row[name] for row in self._pending] for name in names}, len(self._pending))
        self._pending.clear()

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Complete all files, and write those of `meta/`."""
        self._flush()
        for rolling in (self._data, self._episodes, *self._videos.values()):
            rolling.close()
        _write_tasks(self._root / "meta/tasks.parquet", list(self._tasks))
        write_json(self._root / "meta/stats.json", {key: counted.result() for key, counted in self._statistics.items()})
        write_json(self._root / INFO, self._info())
        seeds, lengths = self._demonstrations.episode_seeds.tolist(), self._demonstrations.episode_lengths.tolist()
        episodes = [
            {"steps": steps, "seed": seed, "facts": facts.to_json()}
            for steps, seed, facts in zip(lengths, seeds, self._facts, strict=True)
        ]
        mapping = noted_mapping(self._demonstrations, self._features, self._rate)
        content = {"format": 1, "provenance": provenance, "mapping": mapping.to_json(), "episodes": episodes}
        write_json(self._root / SIDECAR, content)

    def _info(self) -> dict[str, Any]:
        """The content of `info.json`."""
        features = {
            feature.key: feature.described(self._videos.get(feature.key), self._rate) for feature in self._features
        }
        features |= {
            key: {"dtype": dtype, "shape": list(shape), "names": None}
            for key, (dtype, shape) in self._table_features.items()
            if key not in features
        }
        name = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._demonstrations),
            "total_frames": self._demonstrations.num_steps,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": round(DATA_MB),
            "video_files_size_in_mb": round(VIDEO_MB),
            "fps": self._rate,
            "splits": {"train": f"0:{len(self._demonstrations)}"},
            "data_path": f"data/{name}.parquet",
            "video_path": f"videos/{{video_key}}/{name}.mp4" if self._videos else None,
            "features": features,
        }


def _png(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, C) in PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(content, "PNG", compress_level=1)
    return content.getvalue()


def _write_tasks(file: Path, tasks: list[str]) -> None:
    """Write the tasks, with the note by which pandas makes their text the index of the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, (kind, dtype) in kinds.items()
    ]
    of_columns = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    of_columns["metadata"] = {"encoding": "UTF-8"}  # type: ignore[assignment]
    noted = {"index_columns": ["task"], "column_indexes": [of_columns], "columns": columns, "pandas_version": "2.2.3"}
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(noted)})
    pq.write_table(pa.table({"task_index": list(range(len(tasks))), "task": tasks}, schema=schema), file)


def noted_mapping(demonstrations: Demonstrations, features: list[Feature], rate: float) -> DatasetMapping:
    """The mapping that reads a data set back into the streams of the demonstrations."""
    mapped = {feature.stream.name: _stream_entries(feature) for feature in features}
    hold, notes = demonstrations.specification.action.hold, [facts.notes for facts in demonstrations.episode_facts]
    meanings = ["difference" if held == "zero" else "target" for held in hold]
    is_led = bool(notes) and all(note.get("action") == INPUT for note in notes)
    action = ActionMapping(**mapped.pop("action"), meaning=meanings or "target", of="leader" if is_led else "robot")
    observations = {name: StreamMapping(**entries) for name, entries in mapped.items()}
    return DatasetMapping(kind=LeRobot.kind, rate=rate, observations=observations, action=action)


def _stream_entries(feature: Feature) -> dict[str, Any]:
    stream = feature.stream
    lists = {name: list(getattr(stream, name)) for name in ("units", "labels", "kinds", "low", "high")}
    return {"key": feature.key, "context": stream.context, "dtype": stream.dtype, **lists}
