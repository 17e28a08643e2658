"""Frames of a video file by their number in the order in which they are shown, exactly as the decoder returns them.

A frame's number is its place among the sorted times of all packets, so no rate, no rounded time and no tolerance
decides which frame is read.
"""

from __future__ import annotations

import bisect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMATS = {1: "gray", 3: "rgb24"}
"""Channels of an image -> the decoder's name of its pixels."""


@contextmanager
def decoding(file: Path) -> Generator[None]:
    """Errors of a damaged video in the block become a ValueError that names it."""
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        raise ValueError(f"{file} is no whole video ({error.strerror}): restore it from a copy") from error


def _opened(file: Path) -> InputContainer:
    import av

    with decoding(file):
        container = av.open(file)
    if len(container.streams.video) != 1:
        number = len(container.streams.video)
        container.close()
        raise ValueError(f"{file} must hold one video, got {number}: restore it from a copy")
    return container


def described(file: Path) -> tuple[int, float, tuple[int, int]]:
    """Number of frames, frames a second, and (height, width), by the header of a video file alone.

    Raises ValueError if the file is no video, is of an unknown codec, or ends early.
    """
    _require_whole(file)
    with _opened(file) as container, decoding(file):
        stream = container.streams.video[0]
        rate, codec = stream.average_rate, stream.codec_context
        if codec is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise ValueError(f"{file} is of a codec that cannot be decoded: restore it from a copy")
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return frames, float(rate or 0), (codec.height, codec.width)


def _require_whole(file: Path) -> None:
    """Raises ValueError if the last part of an MP4 file ends behind the file."""
    size, position = file.stat().st_size, 0
    with file.open("rb") as opened:
        while position < size:
            opened.seek(position)
            header = opened.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if position == 0 and kind != b"ftyp":
                return  # another container, of which the decoder knows more
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            position += length or size - position
            if length < 8 and position != size:
                break
    if position != size or size == 0:
        raise ValueError(f"{file} is damaged, it ends early ({size} bytes): restore it from a copy")


class VideoFrames:
    """The frames of the files of one camera. A read that goes on where the last one ended decodes no frame twice.

    shape: of a frame, (H, W, C).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._file: Path | None = None
        self._container: InputContainer | None = None
        self._times: list[int] = []
        self._keys: list[int] = []
        self._frames: Iterator[Any] = iter(())
        self._next = 0

    def read(self, file: Path, start: int, stop: int, place: str) -> NDArray[np.uint8]:
        """Frames start .. stop of a file: (stop - start, H, W, C). place: the episode and the camera, for messages.

        Raises ValueError, naming the file, if they are missing or damaged, or have another shape.
        """
        if self._file != file:
            self._open(file)
        if stop > len(self._times):
            raise ValueError(
                f"{file} must have {stop} frames or more for {place}, got {len(self._times)}: restore it from a copy"
            )
        frames = np.empty((stop - start, *self._shape), np.uint8)
        with decoding(file):
            for row, frame in enumerate(self._from(start, stop)):
                frames[row] = self._pixels(frame, f"{file}: frame {start + row} of {place}")
        return frames

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._file = self._container = None

    def _open(self, file: Path) -> None:
        self.close()
        container = _opened(file)
        try:
            with decoding(file):
                self._times, self._keys = _index(container.streams.video[0], file)
        except ValueError:
            container.close()
            raise
        self._file, self._container = file, container
        self._next = len(self._times)  # so that the first read seeks

    def _from(self, start: int, stop: int) -> Iterator[Any]:
        """The frames start .. stop, decoded on from the last frame or from the last key frame, whichever is nearer."""
        key = self._keys[bisect.bisect_right(self._keys, start) - 1] if self._keys and self._keys[0] <= start else 0
        if not key <= self._next <= start:
            self._seek(key)
        if self._next > start:  # the container's index has other key frames
            self._seek(0)
        if self._next > start:
            raise ValueError(f"{self._file}: frame {start} cannot be decoded: restore the file from a copy")
        while self._next < stop:
            frame = next(self._frames, None)
            if frame is None or frame.pts != self._times[self._next] or frame.is_corrupt:
                got = (
                    "no frame"
                    if frame is None
                    else f"a {'damaged' if frame.is_corrupt else 'whole'} one of {frame.pts}"
                )
                number, self._next = self._next, len(self._times)
                raise ValueError(
                    f"{self._file}: frame {number} must follow with time {self._times[number]}, got {got}: restore it "
                    "from a copy"
                )
            self._next += 1
            if self._next > start:
                yield frame

    def _seek(self, number: int) -> None:
        """Let the next frame be `number`, or the first one that the decoder returns after the seek."""
        assert self._container is not None
        stream = self._container.streams.video[0]
        self._container.seek(self._times[number], stream=stream, backward=True)
        self._frames = self._container.decode(stream)
        first = next(self._frames, None)
        place = -1 if first is None or first.pts is None else bisect.bisect_left(self._times, first.pts)
        if first is None or not 0 <= place < len(self._times) or self._times[place] != first.pts:
            raise ValueError(f"{self._file}: frame {number} cannot be decoded: restore the file from a copy")
        self._frames, self._next = _chained(first, self._frames), place

    def _pixels(self, frame: Any, place: str) -> NDArray[np.uint8]:
        height, width, channels = self._shape
        if (frame.height, frame.width) != (height, width):
            raise ValueError(
                f"{place} must have {height} x {width} pixels, got {frame.height} x {frame.width}: correct the shape "
                "in info.json"
            )
        return frame.to_ndarray(format=FORMATS[channels]).reshape(self._shape)


def _chained(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _index(stream: VideoStream, file: Path) -> tuple[list[int], list[int]]:
    """The sorted times of all frames, and the numbers of the key frames. Reads all packets and decodes none.

    Raises ValueError if a frame has no time, if two have the same, or if packets are missing.
    """
    packets = [
        (packet.pts, bool(packet.is_keyframe))
        for packet in stream.container.demux(stream)  # type: ignore[union-attr]
        if packet.size and not packet.is_discard
    ]
    if any(time is None for time, _ in packets):
        raise ValueError(f"{file}: a frame has no time: write the video again")
    packets.sort(key=lambda packet: packet[0] or 0)
    times = [time for time, _ in packets if time is not None]
    if len(set(times)) != len(times):
        raise ValueError(f"{file}: two frames have the same time: write the video again")
    return times, [number for number, (_, is_key) in enumerate(packets) if is_key]
