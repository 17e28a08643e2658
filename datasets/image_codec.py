"""Frames of a store as PNG or JPEG files inside zarr chunks, so that a recording of cameras fits on a disk.

The codec is known to zarr by the name `recede.image` wherever this package is installed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import parse_named_configuration

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "recede.image"

JPEG_QUALITY = 95
"""JPEG is lossy: at this quality a frame of 96 x 96 pixels changes by about one level in the mean."""


@dataclass(frozen=True)
class ImageCodec(ArrayBytesCodec):
    """One uint8 frame (1, H, W, C) as one picture file; C is 1 or 3, for PNG also 2 or 4 (with an alpha channel).

    format: "png", which keeps every bit, or "jpeg", which does not.
    """

    is_fixed_size: ClassVar[bool] = False  # type: ignore[misc]

    format: Literal["png", "jpeg"]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageCodec:
        """Of zarr's metadata."""
        _, configuration = parse_named_configuration(data, NAME)
        return cls(**configuration)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """For zarr's metadata."""
        return {"name": NAME, "configuration": {"format": self.format}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known beforehand."""
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(chunk_data.to_bytes()), formats=[self.format.upper()]) as picture:
                frame: Any = np.asarray(picture)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"not a {self.format} picture: {error}") from error
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(frame.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        from PIL import Image

        frame, file = np.asarray(chunk_data.as_ndarray_like())[0], io.BytesIO()
        picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
        options: dict[str, Any] = {"quality": JPEG_QUALITY, "subsampling": 0} if self.format == "jpeg" else {}
        picture.save(file, format=self.format, **options)
        return chunk_spec.prototype.buffer.from_bytes(file.getvalue())
