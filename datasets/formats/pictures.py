"""Images that a data set of another library stores as JPEG or PNG files within its arrays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_PICTURE = 2**28
"""Bytes of a decoded image; a header that claims more is refused before it is decoded."""

BEGINNINGS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
"""First bytes of a file -> its format."""

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Mode of an image, as pillow names it -> channels of a pixel."""


def picture_format(content: bytes) -> str:
    """What the first bytes of a file say that it is, "jpeg" or "png"; empty if it is neither."""
    return next((name for beginning, name in BEGINNINGS.items() if content.startswith(beginning)), "")


def picture_shape(content: bytes, place: str) -> tuple[int, int, int]:
    """(H, W, C) of an image, from the header of its file. place: of the file, for messages.

    Raises ValueError if it is no image, or has another mode than `CHANNELS` or more than `LARGEST_PICTURE` bytes.
    """
    with _opened(content, place) as picture:
        return _shape(picture, place)


def decoded(content: bytes, place: str, *, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """The image in a file: (H, W, C). Bytes behind the end of the image are ignored.

    Raises ValueError, naming its place, if it is damaged or has another shape than `shape`.
    """
    with _opened(content, place) as picture:
        present = _shape(picture, place)
        if shape not in (None, present):
            raise ValueError(
                f"{place}: the image must have the shape {shape}, got {present}: correct the description, or restore it"
            )
        try:
            return np.asarray(picture).reshape(present)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{place}: the image is damaged ({error}): restore it from a copy") from error


def _opened(content: bytes, place: str) -> Any:
    """An image whose header alone was read. pillow's own `open` would warn of large ones before they are refused."""
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    reader = PngImageFile if picture_format(content) == "png" else JpegImageFile
    try:
        return reader(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{place}: there must be an image of JPEG or PNG ({error}): restore it from a copy") from error


def _shape(picture: Any, place: str) -> tuple[int, int, int]:
    (width, height), channels = picture.size, CHANNELS.get(picture.mode, 0)
    if not 0 < height * width * channels <= LARGEST_PICTURE:
        raise ValueError(
            f"{place}: an image must be {', '.join(CHANNELS)} of 8 bits, with at most {LARGEST_PICTURE} bytes, got "
            f"{picture.mode} of {width} x {height} pixels: leave out this column"
        )
    return height, width, channels
