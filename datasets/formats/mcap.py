"""Recordings of ROS 2 in MCAP: `.mcap` files and the folders of rosbag2, without an installation of ROS.

A file is an episode, and so is a folder of rosbag2 with its `metadata.yaml`, whatever the number of files in it. The
columns are the topics of the types in `ros2_messages`. A message was taken at the time in its header. Where a type has
no header, or where a header of the topic has the time 0, it was taken when it was recorded (its log time).

Joints are in the order of the first message in the data set, whatever their order in others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from datetime import UTC, datetime
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...progress import watched
from ..facts import EpisodeFacts
from .interface import ACTION, OBSERVATION, Column, ForeignDataset
from .mcap_recording import HEADER, NANOSECONDS, Chunks, Recording, Topic
from .numpy_files import natural
from .ros2_messages import TYPES, Row

ACTIONS = ("command", "cmd", "target", "action", "leader", "goal")
"""A topic is proposed as the action if a word of its name begins so, unless it shows images."""

VELOCITIES = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped")
"""Types whose commands are proposed as velocities."""

LONGEST_DELAY_S = 60.0
"""Clocks that differ by more are not of one kind, and their difference is no delay."""

METADATA = "metadata.yaml"
"""What rosbag2 writes beside the files of a recording."""


class Mcap(ForeignDataset):
    """Recordings in MCAP, in the order of their names, numbers in them counting as numbers."""

    kind = "mcap"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this is an `.mcap` file, a folder of rosbag2, or a folder of either."""
        return bool(_episodes(path))

    def __init__(self, path: str | Path) -> None:
        if missing := [name for name in ("mcap", "mcap_ros2") if find_spec(name) is None]:
            raise ValueError(f"{path} needs {missing[0]} to be read: pip install 'recede[mcap]'")
        self.path, self.rate, self._chunks = Path(path), None, Chunks()
        self._episodes = _episodes(self.path)
        self._names = [episode.resolve().name for episode in self._episodes]
        has_header = {name: kind.has_header for name, kind in TYPES.items()}
        self._recordings = [
            Recording(_files(episode), has_header, self._chunks)
            for episode in watched(self._episodes, "messages", unit="recordings", delay_s=2)
        ]
        self._decoders = dict[tuple[str, bytes], Callable[[bytes], Any]]()
        self._places = dict[str, tuple[str, str]]()
        self.columns = tuple(column for name in self._topics() for column in self._columns(name))
        if not self._places:
            topics = ", ".join(f"{column.key} ({column.role})" for column in self.columns) or "none"
            raise ValueError(f"{self.path} has no topic that can be read: {topics}")
        self.metadata = {}
        self.episode_lengths = np.array(
            [max(len(self._topic(key, index).times) for key in self._places) for index in range(len(self._recordings))],
            dtype=np.int64,
        )
        first = next((column.key for column in self.columns if column.role == ACTION), None)
        if first is not None and self._topic(first, 0).type in VELOCITIES:
            self.action_meaning = "velocity"

    def _topics(self) -> list[str]:
        """The topics of all recordings, in the order of their names."""
        return sorted({name for recording in self._recordings for name in recording.topics})

    def _topic(self, key: str, episode: int) -> Topic:
        return self._recordings[episode].topics[self._places[key][0]]

    def _columns(self, name: str) -> list[Column]:
        """The columns of a topic, or one that says why it is left out."""
        topics = [recording.topics.get(name) for recording in self._recordings]
        described = next(topic for topic in topics if topic is not None)
        reason, rows = _unreadable(described), dict[str, Row]()
        for topic, episode in zip(topics, self._names, strict=True):
            if topic is not None and topic.type != described.type:
                reason = reason or f"it has the types {described.type} and {topic.type}"
            elif topic is None or not len(topic.places):
                reason = reason or f"{episode} has no message of it"
        try:
            rows = {} if reason else self._rows(name, 0, 0)
        except ValueError as error:
            reason = str(error)
        if not rows:
            return [Column(name, (), "message", role=reason or "its messages are empty", note=described.type)]
        return [self._column(name, end, row) for end, row in rows.items()]

    def _column(self, name: str, end: str, row: Row) -> Column:
        """The column of one part of a topic's messages."""
        topics = [recording.topics[name] for recording in self._recordings]
        self._places[name + end] = (name, end)
        is_action = row.values.ndim == 1 and any(word.startswith(ACTIONS) for word in re.split("[^a-z]+", name.lower()))
        rate = np.mean([(len(topic.times) - 1) / max(float(np.ptp(topic.times)), 1e-9) for topic in topics])
        clocks = " or ".join(sorted({topic.clock for topic in topics}))
        notes = [topics[0].type, row.note, f"{rate:.4g} Hz", clocks]
        return Column(
            name + end,
            row.values.shape,
            row.values.dtype.name,
            labels=row.labels,
            units=row.units,
            kinds=row.kinds,
            role=ACTION if is_action else OBSERVATION,
            note=", ".join(filter(None, notes)),
        )

    def _rows(self, name: str, episode: int, index: int) -> Mapping[str, Row]:
        """What a message holds for each column of its topic. Raises ValueError, naming the message, if it is none."""
        topic = self._recordings[episode].topics[name]
        payload, place = self._recordings[episode].message(name, index)
        try:
            return TYPES[topic.type].rows(self._decoder(topic)(payload))
        except Exception as error:  # whatever the decoder of a schema makes of bytes that are not of it
            raise ValueError(f"{place}: {error}") from error

    def _decoder(self, topic: Topic) -> Callable[[bytes], Any]:
        """What decodes the messages of a topic, made of the schema in the file."""
        from mcap_ros2.decoder import DecoderFactory

        identity = (topic.schema.name, topic.schema.data)
        if identity not in self._decoders:
            with redirect_stderr(StringIO()):  # the parser prints what it then raises
                decoder = DecoderFactory().decoder_for(topic.encoding, topic.schema)
            assert decoder is not None
            self._decoders[identity] = decoder
        return self._decoders[identity]

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Messages start .. stop of a topic. Raises ValueError, naming file and message, for one that is unlike others.

        A chunk is decompressed once if its messages are read in turn.
        """
        column = self.column(key)
        rows = np.empty((stop - start, *column.shape), column.dtype)
        for index in range(start, stop):
            rows[index - start] = self._row(column, episode, index)
        return rows

    def _row(self, column: Column, episode: int, index: int) -> NDArray[Any]:
        name, end = self._places[column.key]
        row = self._rows(name, episode, index).get(end)
        place = f"{self.path}: {self._names[episode]}: {name}, message {index}"
        if row is None:
            raise ValueError(f"{place} has no {end.removeprefix('.')}, and the first one has: leave {column.key} out")
        values = row.values
        if row.by_label and row.labels != column.labels:
            if missing := [label for label in column.labels if label not in row.labels]:
                raise ValueError(
                    f"{place} has no joint {missing[0]!r}, which the first message has, but {', '.join(row.labels)}: "
                    f"leave {column.key} out, or record the joints in one message"
                )
            values = values[[row.labels.index(label) for label in column.labels]]
        if values.shape != column.shape:
            raise ValueError(
                f"{place} must have the shape of the first one, {column.shape}, got {values.shape}: leave {column.key} "
                "out, or the recording"
            )
        return values

    def times(self, key: str, episode: int) -> NDArray[np.float64]:
        """(L,): when each message was taken, s from the first time in the recording."""
        return self._topic(key, episode).times

    def files(self) -> Iterable[Path]:
        """The `.mcap` files, and what rosbag2 writes beside them."""
        for episode, recording in zip(self._episodes, self._recordings, strict=True):
            yield from recording.files
            if episode.is_dir():
                yield episode / METADATA

    def episode_name(self, episode: int) -> str:
        """The name of its file or folder."""
        return self._names[episode]

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): when each recording began, which times count, and how long after its time a message was recorded."""
        return [self._facts(index) for index in range(len(self._recordings))]

    def _facts(self, episode: int) -> EpisodeFacts:
        topics = {key: self._topic(key, episode) for key in self._places}
        begin = self._recordings[episode].begin / NANOSECONDS
        notes: dict[str, Any] = {"began": datetime.fromtimestamp(begin, UTC).isoformat(timespec="milliseconds")}
        notes["clocks"] = {topic.name: topic.clock for topic in topics.values()}
        if dropped := {topic.name: topic.dropped for topic in topics.values() if topic.dropped}:
            notes["dropped"] = dropped
        delays = {key: topic.delay for key, topic in topics.items() if topic.clock == HEADER}
        return EpisodeFacts(
            delays={key: delay for key, delay in delays.items() if 0 <= delay <= LONGEST_DELAY_S}, notes=notes
        )


def _unreadable(topic: Topic) -> str:
    """Why no message of a topic can be read; empty if they can."""
    if topic.type not in TYPES:
        return f"{topic.type or 'a message without a schema'} is not read"
    if (topic.encoding, topic.schema.encoding) != ("cdr", "ros2msg"):
        return f"its messages are {topic.encoding!r} by {topic.schema.encoding!r}, not cdr by ros2msg"
    return ""


def _is_bag(path: Path) -> bool:
    """Whether rosbag2 wrote this folder."""
    return (path / METADATA).is_file() and any(_is_recording(entry) for entry in path.iterdir())


def _is_recording(path: Path) -> bool:
    """Whether this is a file of rosbag2 or in MCAP, by its name."""
    return path.is_file() and bool(re.search(r"\.(mcap|db3)(\.zstd)?$", path.name))


def _episodes(path: Path) -> list[Path]:
    """The files and folders of the episodes; empty if there are none."""
    if not path.is_dir():
        return [path] if _is_recording(path) else []
    if _is_bag(path):
        return [path]
    entries = sorted(path.iterdir(), key=natural)
    files = [entry for entry in entries if _is_recording(entry)]
    folders = [entry for entry in entries if entry.is_dir() and _is_bag(entry)]
    if files and folders:
        raise ValueError(
            f"{path} must hold .mcap files or folders of rosbag2, and holds both ({files[0].name}, {folders[0].name}): "
            "move one kind to another folder"
        )
    return files or folders


def _files(episode: Path) -> list[Path]:
    """The files of an episode, in turn. Raises ValueError, with the remedy, if they are not in MCAP."""
    files = _files_of_bag(episode) if episode.is_dir() else [episode]
    for file in files:
        if file.suffix == ".zstd":
            raise ValueError(f"{file} is compressed as a whole: decompress it with zstd -d, and edit its {METADATA}")
        if file.suffix == ".db3":
            raise ValueError(
                f"{file} is a recording of rosbag2 in SQLite: make one in MCAP with ros2 bag convert -i FOLDER -o "
                "OPTIONS.yaml, whose options say storage_id: mcap"
            )
    return files


def _files_of_bag(folder: Path) -> list[Path]:
    """The files that the metadata of a folder of rosbag2 names."""
    import yaml

    file = folder / METADATA
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        names = [Path(str(name)).name for name in content["rosbag2_bagfile_information"]["relative_file_paths"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} does not say which files are the recording ({type(error).__name__}): ros2 bag reindex writes it"
        ) from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"{folder / missing[0]} does not exist, and {METADATA} names it: restore it from a copy")
    if not names:
        raise ValueError(f"{file} names no file: ros2 bag reindex writes it anew")
    return [folder / name for name in names]
