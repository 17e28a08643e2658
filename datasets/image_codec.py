"""A zarr codec that stores images as PNG, JPEG or H.264, so that camera recordings fit on a disk.

zarr finds the codec by its name, `recede.image`, once this package is installed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import parse_named_configuration

from ..specification import Stream
from . import video_codec

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "recede.image"

CHANNELS = {"png": (1, 2, 3, 4), "jpeg": (1, 3), "h264": (1, 3)}
"""How many channels an image of each format may have."""

LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "h264": 8192}
"""The most pixels of a side."""

IMAGE_COMPRESSIONS = ("zstd", "png", "jpeg", "h264")
"""How the images of a store may be compressed."""

LOSSY = ("jpeg", "h264")
"""Those that change images."""

JPEG_QUALITY = 95
"""JPEG is lossy: at this quality an image of 96 x 96 pixels changes by about one level on average."""


def check_compression(images: str) -> None:
    """Raises ValueError unless it is one of `IMAGE_COMPRESSIONS`, and what it needs is installed."""
    if images not in IMAGE_COMPRESSIONS:
        raise ValueError(f"images must be one of {', '.join(IMAGE_COMPRESSIONS)}, got {images!r}")
    if images == "h264":
        video_codec.require_av()


def check_image(stream: Stream, compression: str, path: Path) -> None:
    """Raise ValueError if a compression other than zstd cannot hold the images of a stream. path: of their store."""
    channels, longest = CHANNELS[compression], LONGEST_SIDE[compression]
    if stream.shape[2] not in channels or max(stream.shape[:2]) > longest:
        raise ValueError(
            f"{path}: stream {stream.name!r}: {compression} images must have {' or '.join(map(str, channels))} "
            f"channels and sides of at most {longest} pixels, got {stream.shape}: compress them with images=zstd"
        )


def frames_of_chunk(stream: Stream, compression: str) -> int:
    """How many images of a stream are compressed as one. Context has one image an episode, so it stands alone."""
    return 1 if compression != "h264" or stream.context else video_codec.group_frames(stream.size)


def is_video(array: zarr.Array[Any]) -> bool:
    """Whether an array holds images in H.264."""
    return isinstance(array.serializer, ImageCodec) and array.serializer.format == "h264"


@dataclass(frozen=True)
class ImageCodec(ArrayBytesCodec):
    """Encode uint8 images (K, H, W, C) as one file. See `CHANNELS` for C; 2 and 4 have an alpha channel.

    format: "png", which is lossless, "jpeg", which is not, for one image; "h264", which is not, for one or several.

    Raises ValueError for another format.
    """

    is_fixed_size: ClassVar[bool] = False  # type: ignore[misc]

    format: Literal["png", "jpeg", "h264"]

    def __post_init__(self) -> None:
        if self.format not in CHANNELS:
            raise ValueError(f"the format of {NAME} must be one of {', '.join(CHANNELS)}, got {self.format!r}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageCodec:
        """Build from zarr's metadata."""
        _, configuration = parse_named_configuration(data, NAME)
        return cls(**configuration)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Entries of zarr's metadata."""
        return {"name": NAME, "configuration": {"format": self.format}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raises NotImplementedError: the size depends on the image."""
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        content, shape = chunk_data.to_bytes(), chunk_spec.shape
        images = video_codec.decode(content, shape) if self.format == "h264" else self._image(content, shape)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(images)  # type: ignore[arg-type]

    def _image(self, content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The image (1, H, W, C) in a file. Raises ValueError if there is none of this shape."""
        from PIL.JpegImagePlugin import JpegImageFile
        from PIL.PngImagePlugin import PngImageFile

        height, width, channels = shape[1:]
        expected = (width, height), {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(channels)
        try:
            # Opening reads only the header. `Image.open` would warn of large images before their size can be checked.
            reader = PngImageFile if self.format == "png" else JpegImageFile
            with reader(io.BytesIO(content)) as picture:
                if (picture.size, picture.mode) != expected:
                    raise ValueError(f"the image must be {expected}, got {(picture.size, picture.mode)}")
                image = np.asarray(picture)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"not a {self.format} image: {error}") from error
        return image.reshape(shape)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        images = np.asarray(chunk_data.as_ndarray_like())
        content = video_codec.encode(images) if self.format == "h264" else _file(images[0], self.format)
        return chunk_spec.prototype.buffer.from_bytes(content)


def _file(image: NDArray[np.uint8], format: str) -> bytes:
    """An image (H, W, C) as a file."""
    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    options: dict[str, Any] = {"quality": JPEG_QUALITY, "subsampling": 0} if format == "jpeg" else {}
    picture.save(file, format=format, **options)
    return file.getvalue()


def as_stored(images: NDArray[np.uint8], stream: Stream, compression: str) -> NDArray[np.uint8]:
    """Images (L, H, W, C) of a stream, the first ones of an episode or of a later chunk, as they come back."""
    if compression == "h264":
        return video_codec.as_video(images, frames_of_chunk(stream, compression))
    return as_jpeg(images) if compression == "jpeg" else images


def as_jpeg(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (L, H, W, C) as they come back from JPEG files."""
    from PIL.JpegImagePlugin import JpegImageFile

    files = (io.BytesIO(_file(image, "jpeg")) for image in images)
    rows = [np.asarray(JpegImageFile(file)).reshape(images.shape[1:]) for file in files]
    return np.stack(rows)
