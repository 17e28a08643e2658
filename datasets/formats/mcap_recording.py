"""The messages of an MCAP recording: where each lies, and when it was taken. Payloads are read when they are needed.

The container is that of https://mcap.dev/spec. One pass over the files notes 16 bytes a message, and checks every chunk
against its CRC. It needs no index in the file, and must decompress everything in any case, because the time in the
header of a message is part of its payload.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x89MCAP0\r\n"
"""The first and the last bytes of a file."""

CACHE_BYTES = 2**26
"""Bytes of decompressed chunks that are kept."""

LARGEST_RECORD = 2**30
"""Bytes of the largest record, compressed or not."""

CLOCK_STEP_S = 1.0
"""A reading that is this much older than the one before it comes from a clock that was set back."""

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 2, 3, 4, 5, 6
_OFFSET_BITS = 40
"""A place is the number of a chunk above an offset of so many bits in it."""

NANOSECONDS = 1e9

HEADER, LOG = "header stamps", "log times"
"""What the times of a topic are."""


@dataclass
class Topic:
    """The messages of a topic in a recording, in the order of their times."""

    name: str
    encoding: str
    """Of the messages: "cdr" in ROS 2."""
    schema: Any
    """The schema of the file (`mcap.records.Schema`), or None."""
    logged: array[int] = field(default_factory=lambda: array("q"))
    """When each message was recorded, ns. Empty after the pass."""
    stamped: array[int] = field(default_factory=lambda: array("q"))
    """The time in each header, ns; 0 if it has none. Empty after the pass."""
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(L,): where each message lies."""
    times: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """(L,): when each message was taken, s from the beginning of the recording."""
    clock: str = LOG
    """`HEADER` or `LOG`."""
    delay: float = 0.0
    """Median time from the header's stamp to the recording of a message, s."""
    dropped: int = 0
    """Messages no newer than one before them, which are left out."""

    @property
    def instants(self) -> array[int]:
        """When each message was taken by the clock of the topic, ns. Empty after the pass."""
        return self.stamped if self.clock == HEADER else self.logged

    @property
    def type(self) -> str:
        """The type of its messages, such as "sensor_msgs/msg/JointState"; empty if it has no schema."""
        name = self.schema.name if self.schema else ""
        return name.replace("/", "/msg/") if name.count("/") == 1 else name


class Chunks:
    """Decompressed chunks of all recordings, the newest `CACHE_BYTES` of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def get(self, path: Path, offset: int) -> bytes:
        """The records in the chunk whose record begins at an offset of a file."""
        if (path, offset) in self._kept:
            self._kept.move_to_end((path, offset))
            return self._kept[path, offset]
        with path.open("rb") as file:
            content = _decompressed(_content(file, offset, path), f"{path}: the chunk at byte {offset}")
        self._kept[path, offset] = content
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return content


class Recording:
    """One recording, of one file or of several in turn.

    has_header: type -> whether its messages begin with a header; messages of other types are counted, not indexed.

    Raises ValueError, naming the file, if one is truncated or damaged, or the topic if its clock was set back.
    """

    def __init__(self, files: Sequence[Path], has_header: Mapping[str, bool], chunks: Chunks) -> None:
        self.files, self._cache, self._has_header = list(files), chunks, has_header
        self._chunks = list[tuple[Path, int]]()
        self.topics = dict[str, Topic]()
        self._places: dict[str, array[int]] = {}
        for path in self.files:
            self._index(path)
        noted = [topic for topic in self.topics.values() if topic.logged]
        for topic in noted:
            topic.clock = LOG if 0 in topic.stamped else HEADER  # 0 is a time that nobody has set
        self.begin = min((min(topic.instants) for topic in noted), default=0)
        """The first time in the recording, ns."""
        for topic in noted:
            self._order(topic)

    def message(self, topic: str, index: int) -> tuple[bytes, str]:
        """The payload of a message, and its place for messages. Raises ValueError if the file has changed."""
        number, offset = divmod(int(self.topics[topic].places[index]), 2**_OFFSET_BITS)
        path, begin = self._chunks[number]
        place = f"{path}: {topic}, message {index}"
        if begin < 0:
            with path.open("rb") as file:
                content = _content(file, offset, path)
        else:
            chunk = self._cache.get(path, begin)
            content = chunk[offset + 9 : offset + 9 + int.from_bytes(chunk[offset + 1 : offset + 9], "little")]
        return content[22:], place

    def _index(self, path: Path) -> None:
        """Note the messages of a file."""
        schemas, channels = dict[int, Any](), dict[int, Topic]()
        with path.open("rb") as file:
            for opcode, offset, content in _records(file, path):
                if opcode == _CHUNK:
                    place = f"{path}: the chunk at byte {offset}"
                    records: Any = _inner(_decompressed(content, place), place)
                    number = self._number(path, offset)
                elif opcode in (_SCHEMA, _CHANNEL, _MESSAGE):
                    records, number = [(opcode, offset, content)], -1
                else:
                    continue
                for inner, at, body in records:
                    if inner == _MESSAGE:
                        number = self._number(path, -1) if number < 0 else number
                        self._note(path, channels, body, number << _OFFSET_BITS | at)
                    else:
                        self._describe(inner, body, schemas, channels, path)

    def _number(self, path: Path, offset: int) -> int:
        """The number of a chunk; -1 stands for a file whose messages lie outside of chunks."""
        if offset >= 0 or (path, offset) not in self._chunks[-1:]:
            self._chunks.append((path, offset))
        return len(self._chunks) - 1

    def _describe(
        self, opcode: int, body: bytes, schemas: dict[int, Any], channels: dict[int, Topic], path: Path
    ) -> None:
        """Note a schema or a channel. Raises ValueError if it is damaged, or if a topic has two types."""
        from mcap.data_stream import ReadDataStream
        from mcap.exceptions import McapError
        from mcap.records import Channel, Schema

        try:
            if opcode == _SCHEMA:
                schema = Schema.read(ReadDataStream(BytesIO(body)))
                schemas[schema.id] = schema
            elif opcode == _CHANNEL:
                channel = Channel.read(ReadDataStream(BytesIO(body)))
                described = Topic(channel.topic, channel.message_encoding, schemas.get(channel.schema_id))
                topic = channels[channel.id] = self.topics.setdefault(channel.topic, described)
                if topic.type != described.type:
                    raise ValueError(
                        f"{path}: {topic.name} has messages of {topic.type!r} and of {described.type!r}: record them "
                        "apart"
                    )
        except (McapError, struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} has a damaged description of a topic ({error}): {_REMEDY}") from error

    def _note(self, path: Path, channels: Mapping[int, Topic], body: bytes, place: int) -> None:
        """Note a message: its times and its place."""
        if len(body) < 22:
            raise ValueError(f"{path} has a message of {len(body)} bytes, shorter than its header: {_REMEDY}")
        number, _, logged = struct.unpack_from("<HIQ", body)
        topic = channels.get(number)
        if topic is None:
            raise ValueError(f"{path} has a message of a topic {number} that it does not describe: {_REMEDY}")
        has_header = self._has_header.get(topic.type)
        if has_header is None:
            return
        if logged >= 2**63:
            raise ValueError(f"{path}: {topic.name} has a log time of {logged} ns: repair the recording")
        topic.logged.append(logged)
        topic.stamped.append(_stamp(body[22:34]) if has_header else 0)
        self._places.setdefault(topic.name, array("q")).append(place)

    def _order(self, topic: Topic) -> None:
        """Sort the messages of a topic by the times that they are recorded at, and leave out those out of turn."""
        logged = np.frombuffer(topic.logged, np.int64)
        order = np.argsort(logged, kind="stable")
        logged, taken = logged[order], np.frombuffer(topic.instants, np.int64)[order]
        places = np.frombuffer(self._places.pop(topic.name), np.int64)[order]
        newest = np.maximum.accumulate(taken)
        if (back := (newest - taken).max() / NANOSECONDS) > CLOCK_STEP_S:
            raise ValueError(
                f"{self.files[0]}: the {topic.clock} of {topic.name} go back by {back:.3g} s: its clock was set back, "
                "so cut the recording there"
            )
        is_new = np.concatenate([[True], taken[1:] > newest[:-1]])
        topic.places = places[is_new]
        topic.times = (taken[is_new] - self.begin) / NANOSECONDS
        topic.delay = float(np.median(logged - taken)) / NANOSECONDS
        topic.dropped = int((~is_new).sum())
        topic.logged, topic.stamped = array("q"), array("q")


_REMEDY = "restore it from a copy, or rescue what is whole with mcap recover FILE -o NEW"


def _stamp(payload: bytes) -> int:
    """The time in the header that a message in CDR begins with, ns; 0 if it has none."""
    if len(payload) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if payload[1] & 1 else ">iI", payload, 4)
    return seconds * 10**9 + nanoseconds


def _records(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Opcode, offset and content of the records of a file; the content of those that do not matter is empty.

    Raises ValueError if the file ends before its footer.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError(f"{path} is no MCAP file: it begins otherwise")
    offset, size = len(MAGIC), path.stat().st_size
    while True:
        file.seek(offset)
        header = file.read(9)
        length = int.from_bytes(header[1:], "little")
        if len(header) < 9 or offset + 9 + length > size:
            raise ValueError(f"{path} ends in the middle of a recording: {_REMEDY}")
        is_needed = header[0] in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK)
        yield header[0], offset, _content(file, offset, path) if is_needed else b""
        if header[0] == _FOOTER:
            return
        offset += 9 + length


def _content(file: BinaryIO, offset: int, path: Path) -> bytes:
    """The content of the record at an offset."""
    file.seek(offset + 1)
    length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_RECORD:
        raise ValueError(f"{path}: the record at byte {offset} has {length} bytes, more than {LARGEST_RECORD}")
    return file.read(length)


def _inner(content: bytes, place: str) -> Iterator[tuple[int, int, bytes]]:
    """Opcode, offset and content of the records in a chunk."""
    offset = 0
    while offset < len(content):
        length = int.from_bytes(content[offset + 1 : offset + 9], "little")
        if offset + 9 + length > len(content):
            raise ValueError(f"{place} ends in the middle of a record: {_REMEDY}")
        yield content[offset], offset, content[offset + 9 : offset + 9 + length]
        offset += 9 + length


def _decompressed(content: bytes, place: str) -> bytes:
    """The records in a chunk. Raises ValueError if it is damaged. Takes no more memory than the chunk declares."""
    from mcap.data_stream import ReadDataStream
    from mcap.exceptions import McapError
    from mcap.records import Chunk

    try:
        chunk = Chunk.read(ReadDataStream(BytesIO(content)))
        if chunk.uncompressed_size > LARGEST_RECORD:
            raise ValueError(f"it declares {chunk.uncompressed_size} bytes, more than {LARGEST_RECORD}")
        data = _expanded(chunk.compression, chunk.data, chunk.uncompressed_size)
    except (McapError, struct.error, ValueError, RuntimeError, EOFError) as error:
        raise ValueError(f"{place} is damaged ({error}): {_REMEDY}") from error
    if len(data) != chunk.uncompressed_size or (chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc):
        raise ValueError(f"{place} is damaged: its content does not have its CRC: {_REMEDY}")
    return data


def _expanded(compression: str, data: bytes, size: int) -> bytes:
    """At most a byte more than `size`."""
    if compression == "zstd":
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(data) as stream:
                return stream.read(size + 1)
        except zstandard.ZstdError as error:
            raise ValueError(error) from error
    if compression == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    if compression:
        raise ValueError(f"its compression {compression!r} is none of zstd and lz4")
    return data
