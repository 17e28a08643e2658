"""Groups of images as pieces of H.264 that decode alone, as a store keeps them.

A group begins with a key frame and refers to nothing outside of itself (a closed group of pictures). It is lossy: the
encoder sees red, green and blue as they are, at full resolution, so the decoder returns pixels without a conversion of
colours, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP_FRAMES = 16
"""Most images in a group: reading one image decodes up to so many."""

GROUP_BYTES = 2**25
"""Largest group before compression, unless a single image is larger."""

ENCODER, QUALITY = "libx264rgb", "18"
"""The constant rate factor of x264. `benchmarks/windows.py` prints what it changes, beside the size."""


def require_av() -> Any:
    """The package av. Raises ValueError, naming the extra, if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise ValueError("images=h264 needs av: pip install 'recede[lerobot]'") from error
    return av


def group_frames(size: int) -> int:
    """How many images of `size` bytes a group has: a power of two, so that groups of all cameras end together.

    >>> group_frames(96 * 96 * 3), group_frames(1080 * 1920 * 3), group_frames(2**26)
    (16, 4, 1)
    """
    return min(GROUP_FRAMES, 1 << max(GROUP_BYTES // size, 1).bit_length() - 1)


def padded(images: NDArray[np.uint8], frames: int) -> NDArray[np.uint8]:
    """The images (L, H, W, C) with the last one repeated until they fill groups of so many frames."""
    missing = -len(images) % frames
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def encode(images: NDArray[np.uint8]) -> bytes:
    """A group of images (K, H, W, C) of 1 or 3 channels as H.264. Equal images become equal bytes."""
    av = require_av()
    context = av.CodecContext.create(ENCODER, "w")
    context.height, context.width = images.shape[1:3]
    context.pix_fmt, context.time_base, context.framerate = "rgb24", Fraction(1, 30), 30
    context.thread_count = 1  # the number of threads decides the bytes
    context.options = {"crf": QUALITY, "g": str(len(images)), **_instructions()}
    packets = list[bytes]()
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))), "rgb24")
        frame.pts = number
        packets += map(bytes, context.encode(frame))
    return b"".join([*packets, *map(bytes, context.encode(None))])


@cache
def _instructions() -> dict[str, str]:
    """An option that keeps x264 from AVX-512, with which equal images become other bytes each time.

    Its macroblock tree does so for images of 48 x 64 pixels, for instance (`tests/datasets/test_video_store.py`).
    """
    import torch

    return {"x264-params": "asm=avx2"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}


def decode(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The images (K, H, W, C) of a group, exactly as the decoder returns them.

    Raises ValueError if the content is no such group. Takes no more memory than images of this shape need.
    """
    error_of_decoder = require_av().error.FFmpegError
    images = np.empty(shape, np.uint8)
    count = 0
    try:
        for frame in _frames(content, shape):
            if count == len(images) or frame.is_corrupt or (frame.height, frame.width) != shape[1:3]:
                raise ValueError(
                    f"image {count} of {len(images)} of {shape[1]} x {shape[2]} pixels is "
                    f"{'damaged' if frame.is_corrupt else 'one too many, or'} of {frame.height} x {frame.width}"
                )
            images[count] = frame.to_ndarray(format="rgb24")[..., : shape[3]]
            count += 1
    except error_of_decoder as error:
        raise ValueError(f"no group of H.264: {error.strerror}") from error
    if count != len(images):
        raise ValueError(f"a group must have {len(images)} images, got {count}")
    return images


def _frames(content: bytes, shape: tuple[int, ...]) -> Iterator[Any]:
    context = require_av().CodecContext.create("h264", "r")
    context.thread_count = 1
    # What a stream claims is refused beyond this; the decoder rounds the sides of images up.
    context.options = {"max_pixels": str((shape[1] + 64) * (shape[2] + 128))}
    for packet in [*context.parse(content), *context.parse(None)]:
        yield from context.decode(packet)
    yield from context.decode(None)


def as_video(images: NDArray[np.uint8], frames: int) -> NDArray[np.uint8]:
    """Images (L, H, W, C) as they come back from groups of so many frames."""
    whole = padded(images, frames)
    groups = [whole[start : start + frames] for start in range(0, len(whole), frames)]
    return np.concatenate([decode(encode(group), group.shape) for group in groups])[: len(images)]
