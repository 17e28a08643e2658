"""The tables and videos of a LeRobot data set while it is written: many episodes a file, up to a size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_FILES = 1000
"""Most files in a folder."""

CODEC = "libx264"
"""Every player, browser and decoder of LeRobot reads H.264, and its encoder takes images of any size."""

CODEC_OPTIONS = {"crf": "18", "g": "2", "tune": "zerolatency"}
"""A key frame every second frame, as LeRobot has it, so that a random access decodes at most two frames. The encoder
holds back no frames, so the size of the file is known."""


class Rolling(ABC):
    """Files of one kind, numbered in chunks. A new one begins with the episode that would exceed the size.

    folder: of the chunks. most: bytes of a file; a single longer episode has a larger one.
    """

    suffix: str

    def __init__(self, folder: Path, most: float) -> None:
        self._folder, self._most = folder, most
        self._number, self.rows = -1, 0
        """`rows`: in the present file."""

    @property
    def place(self) -> tuple[int, int]:
        """The numbers of the chunk and the file in it."""
        return divmod(self._number, CHUNK_FILES)

    def begin(self, rows: int) -> None:
        """Begin an episode of so many rows, whose bytes are guessed from those of the rows before in the file."""
        if self._number >= 0 and (not self.rows or self._bytes() * (self.rows + rows) / self.rows <= self._most):
            return
        self.close()
        self._number, self.rows = self._number + 1, 0
        chunk, file = self.place
        path = self._folder / f"chunk-{chunk:03d}" / f"file-{file:03d}.{self.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open(path)

    @abstractmethod
    def _bytes(self) -> int:
        """Size of the present file."""

    @abstractmethod
    def _open(self, path: Path) -> None:
        """Begin a file."""

    @abstractmethod
    def close(self) -> None:
        """Complete the present file, if there is one."""


class RollingTables(Rolling):
    """Parquet files with one schema; each write is a row group."""

    suffix = "parquet"

    def __init__(self, folder: Path, most: float, schema: Any) -> None:
        super().__init__(folder, most)
        self.schema, self._file, self._writer = schema, None, None

    def write(self, columns: dict[str, Any], rows: int) -> None:
        """Append rows of all columns."""
        import pyarrow as pa

        assert self._writer is not None
        self._writer.write_table(pa.table(columns, schema=self.schema))
        self.rows += rows

    def _bytes(self) -> int:
        return self._file.tell() if self._file is not None else 0

    def _open(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, self.schema, compression="snappy")

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None and self._file is not None:
            self._writer.close()
            self._file.close()


class RollingVideo(Rolling):
    """H.264 files of one camera, whose frames have the times number / rate.

    shape: of a frame, (H, W, C).
    """

    suffix = "mp4"

    def __init__(self, folder: Path, most: float, shape: tuple[int, ...], rate: float) -> None:
        super().__init__(folder, most)
        self._shape, self._rate = shape, Fraction(rate).limit_denominator(10**5)
        self._container: Any = None
        self._stream: Any = None
        self._written = 0

    @property
    def pixel_format(self) -> str:
        """4:2:0 if the size of the images is even, otherwise 4:4:4, which has any size."""
        return "yuv420p" if self._shape[0] % 2 == self._shape[1] % 2 == 0 else "yuv444p"

    def write(self, images: NDArray[np.uint8]) -> None:
        """Append images (L, H, W, C)."""
        import av

        for image in images:
            pixels = image if self._shape[2] == 3 else image[..., 0]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24" if self._shape[2] == 3 else "gray")
            frame.pts, frame.time_base = self.rows, 1 / self._rate
            self.rows += 1
            self._mux(frame)

    def _mux(self, frame: Any) -> None:
        """Encode a frame, or end the stream with None."""
        for packet in self._stream.encode(frame):
            self._written += packet.size
            self._container.mux(packet)

    def _bytes(self) -> int:
        return self._written

    def _open(self, path: Path) -> None:
        import av

        self._container, self._written = av.open(str(path), "w", options={"movflags": "+faststart"}), 0
        self._stream = self._container.add_stream(CODEC, rate=self._rate, options=CODEC_OPTIONS)
        self._stream.height, self._stream.width = self._shape[:2]
        self._stream.pix_fmt = self.pixel_format
        self._stream.codec_context.time_base = 1 / self._rate

    def close(self) -> None:
        """Encode what the encoder still holds, and end the file."""
        if self._container is not None:
            self._mux(None)
            self._container.close()
            self._container = None
