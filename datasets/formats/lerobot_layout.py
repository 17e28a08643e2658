"""What `meta/` of a LeRobot data set says: its features, and the files and rows of each episode (v2.0, v2.1, v3.0).

In v3.0 many episodes share a file of rows, and another of each camera. In v2.x each episode has files of its own.
Nothing of LeRobot is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...specification import nearest
from .lerobot_rows import open_parquet, reading

VERSIONS = ("v3.0", "v2.1", "v2.0")
"""The versions that are read."""

INFO = "meta/info.json"

UNNAMED = "__index_level_0__"
"""What pandas calls the texts of the tasks if they are an index without a name, as in some versions of LeRobot."""

TEXTS = (UNNAMED, "task", "tasks")
"""The columns of tables in `meta/` that hold no numbers."""


@dataclass(frozen=True)
class Part:
    """Where the frames of an episode lie in a file."""

    file: Path
    first: int
    """The row or the frame of the file with which the episode begins."""


@dataclass(frozen=True)
class Episode:
    """One episode, as `meta/` describes it."""

    index: int
    length: int
    start: int
    """Its first step, counted over all episodes."""
    tasks: tuple[str, ...]
    data: Part
    videos: Mapping[str, Part] = field(default_factory=dict)
    """Camera -> its frames."""


@dataclass(frozen=True)
class Layout:
    """Everything that `meta/` says of the episodes."""

    root: Path
    info: Mapping[str, Any]
    tasks: Mapping[int, str]
    episodes: tuple[Episode, ...]
    files: tuple[Path, ...]
    """The files of `meta/` that this depends on."""

    @property
    def features(self) -> Mapping[str, Any]:
        """Key -> its description."""
        return self.info["features"]


def read_layout(root: Path) -> Layout:
    """Read `meta/`. Raises ValueError, naming the file, if something is missing, damaged or contradicts the rest."""
    info = _read_info(root)
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    read = _read_v3 if info["codebase_version"] == "v3.0" else _read_v2
    tasks, episodes, files = read(root, info, cameras)
    for name, count in {
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(tasks),
    }.items():
        if info.get(name, count) != count:
            raise ValueError(
                f"{root / INFO}: {name} is {info[name]}, but {root / 'meta'} lists {count}: restore meta/ from a copy"
            )
    if not episodes:
        raise ValueError(f"{root}: there must be an episode or more, got none: record some")
    return Layout(root, info, tasks, episodes, (root / INFO, *files))


def read_json(file: Path) -> Any:
    """The content of a file of JSON. Raises ValueError if it is missing, damaged, or has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"key {twice[0]!r} stands twice")
        return dict(pairs)

    try:
        return json.loads(require(file).read_text(encoding="utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no whole JSON ({error}): restore it from a copy") from error


def require(file: Path, of: str = "the data set") -> Path:
    """The file, which must exist. Raises ValueError, naming what it belongs to, if it does not."""
    if not file.is_file():
        raise ValueError(f"{file} is missing, which belongs to {of}: restore it from a copy, or download it again")
    return file


def _read_info(root: Path) -> dict[str, Any]:
    """`meta/info.json`. Raises ValueError if it lacks an entry, or has an impossible one."""
    file = root / INFO
    info = read_json(file)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in VERSIONS:
        raise ValueError(
            f"{file}: codebase_version must be one of {', '.join(VERSIONS)}, got {version!r}: convert the data set to "
            "v3.0 with LeRobot"
        )
    features, fps = info.get("features"), info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise ValueError(f"{file}: fps must be frames a second above 0, got {fps!r}: write the rate of the recording")
    if not isinstance(features, dict) or not features:
        raise ValueError(f"{file}: features must describe the columns, got {features!r}: restore it from a copy")
    for key, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        is_shape = isinstance(shape, list | tuple) and all(type(size) is int and size > 0 for size in shape)
        if not (is_shape and isinstance(feature.get("dtype"), str)):
            raise ValueError(
                f"{file}: feature {key!r} must have a dtype and a shape, got {feature!r}: restore it from a copy"
            )
    return info


def _read_v2(
    root: Path, info: Mapping[str, Any], cameras: list[str]
) -> tuple[dict[int, str], tuple[Episode, ...], list[Path]]:
    """Tasks, episodes and files of v2.0 and v2.1: a line of JSON for each, and files for each episode."""
    task_file, episode_file = root / "meta/tasks.jsonl", root / "meta/episodes.jsonl"
    tasks = _numbered(task_file, {int(row["task_index"]): str(row["task"]) for row in _lines(task_file, "task")})
    episodes, start = list[Episode](), 0
    for index, row in enumerate(sorted(_lines(episode_file, "length"), key=lambda row: int(row["episode_index"]))):
        place = f"{episode_file}: episode {row['episode_index']}"
        length = _checked_length(row, index, place)
        chunk = index // _chunk_size(root, info)
        names = {"episode_index": index, "episode_chunk": chunk}
        data = Part(_located(root, info, "data_path", **names), 0)
        videos = {key: Part(_located(root, info, "video_path", video_key=key, **names), 0) for key in cameras}
        episodes.append(Episode(index, length, start, _texts(row.get("tasks")), data, videos))
        start += length
    return tasks, tuple(episodes), [task_file, episode_file]


def _lines(file: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects in a file of a line of JSON each. Raises ValueError if one lacks its index or the key."""
    index = "task_index" if key == "task" else "episode_index"
    with require(file).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if not line.strip():
                    continue
                row = json.loads(line)
                row = {**row, index: int(row[index]), key: row[key]}
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{file}, line {number} must be JSON with {index} and {key} ({error!r}): restore it from a copy"
                ) from error
            yield row


def _chunk_size(root: Path, info: Mapping[str, Any]) -> int:
    size = info.get("chunks_size")
    if type(size) is not int or size < 1:
        raise ValueError(f"{root / INFO}: chunks_size must be a whole number of at least 1, got {size!r}: restore it")
    return size


def _read_v3(
    root: Path, info: Mapping[str, Any], cameras: list[str]
) -> tuple[dict[int, str], tuple[Episode, ...], list[Path]]:
    """Tasks, episodes and files of v3.0: tables in parquet, whose rows name files and places in them."""
    task_file = root / "meta/tasks.parquet"
    text = UNNAMED if UNNAMED in _columns(task_file) else "task"
    tasks = {int(row["task_index"]): str(row[text]) for row in _table(task_file, ["task_index", text])}
    tasks = _numbered(task_file, tasks)
    if not (files := sorted((root / "meta/episodes").glob("*/*.parquet"))):
        raise ValueError(f"{root / 'meta/episodes'} must hold tables of the episodes, got none: restore them")
    of_video = [f"videos/{key}/{name}" for key in cameras for name in ("chunk_index", "file_index", "from_timestamp")]
    of_data = ["data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index"]
    columns = ["episode_index", "length", "tasks", *of_data, *of_video]
    rows = [(row, file) for file in files for row in _table(file, columns)]
    episodes, start, begun = list[Episode](), 0, dict[Path, int]()
    for index, (row, file) in enumerate(sorted(rows, key=lambda row: row[0]["episode_index"])):
        place = f"{file}: episode {row['episode_index']}"
        length = _checked_length(row, index, place)
        if (row["dataset_from_index"], row["dataset_to_index"]) != (start, start + length):
            raise ValueError(
                f"{place} must hold the steps {start} .. {start + length} of the data set, got "
                f"{row['dataset_from_index']} .. {row['dataset_to_index']}: restore meta/ from a copy"
            )
        data = _located(root, info, "data_path", **_numbers(row, "data"))
        part = Part(data, begun.setdefault(data, 0))
        begun[data] += length
        videos = {key: _video(root, info, row, key) for key in cameras}
        episodes.append(Episode(index, length, start, _texts(row["tasks"]), part, videos))
        start += length
    return tasks, tuple(episodes), [task_file, *files]


def _numbers(row: Mapping[str, Any], of: str) -> dict[str, int]:
    return {name: int(row[f"{of}/{name}"]) for name in ("chunk_index", "file_index")}


def _video(root: Path, info: Mapping[str, Any], row: Mapping[str, Any], key: str) -> Part:
    """The frames of an episode: its time in the file becomes the number of a frame, once and for all."""
    file = _located(root, info, "video_path", video_key=key, **_numbers(row, f"videos/{key}"))
    time = row[f"videos/{key}/from_timestamp"]
    if not 0 <= time < 1e9:
        raise ValueError(
            f"{root / 'meta'}: episode {row['episode_index']} must begin in {file} at 0 s or later, got {time}"
        )
    return Part(file, round(time * info["fps"]))


def _columns(file: Path) -> list[str]:
    """The names of the columns of a table."""
    with open_parquet(require(file)) as table:
        return table.schema_arrow.names


def _table(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table, all columns of numbers but the texts. Raises ValueError for one that is damaged.

    It lacks a column, or it has an entry that is empty or of another type.
    """
    if missing := [name for name in columns if name not in _columns(file)]:
        raise ValueError(f"{file} has no column {missing[0]!r}: restore it from a copy")
    with open_parquet(file) as table, reading(file):
        for batch in table.iter_batches(columns=columns, batch_size=1024):
            for row in batch.to_pylist():
                if empty := [name for name in columns if row[name] is None]:
                    raise ValueError(f"{file}: {empty[0]!r} is empty in a row: restore it from a copy")
                wrong = [name for name in columns if name not in TEXTS and not isinstance(row[name], int | float)]
                if wrong:
                    raise ValueError(
                        f"{file}: {wrong[0]!r} must be a number, got {row[wrong[0]]!r:.40}: restore it from a copy"
                    )
                yield row


def _checked_length(row: Mapping[str, Any], index: int, place: str) -> int:
    """The length of an episode. Raises ValueError unless the episode is the next one, and has a step or more."""
    if int(row["episode_index"]) != index:
        raise ValueError(f"{place} must be episode {index}, because each is listed once: restore meta/ from a copy")
    if type(row["length"]) is not int or row["length"] < 1:
        raise ValueError(f"{place} must have a length of at least 1, got {row['length']!r}: restore it from a copy")
    return row["length"]


def _texts(tasks: Any) -> tuple[str, ...]:
    return tuple(map(str, tasks)) if isinstance(tasks, list) else ()


def _numbered(file: Path, tasks: dict[int, str]) -> dict[int, str]:
    if sorted(tasks) != list(range(len(tasks))):
        raise ValueError(f"{file}: the tasks must be numbered from 0, got {sorted(tasks)[:9]}: restore it from a copy")
    return tasks


def _located(root: Path, info: Mapping[str, Any], name: str, **values: Any) -> Path:
    """The file that a template of `info.json` names. Raises ValueError if it is none, or leads out of the data set."""
    template = info.get(name)
    entries = re.findall(r"\{(.*?)\}", template) if isinstance(template, str) else [""]
    for entry in entries:
        word = re.fullmatch(r"(\w+)(:0\dd)?", entry)
        if word is None or word[1] not in values:
            remedy = nearest(entry, values)
            raise ValueError(
                f"{root / INFO}: {name} must name a file by {', '.join(values)}, got {template!r}: {remedy}"
            )
    path = PurePosixPath(str(template).format(**values))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{root / INFO}: {name} must stay within the data set, got {path}: restore it from a copy")
    return root / path
