"""The images of demonstrations, decoded once and kept where batches are gathered from: on a device or in a file."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import scratch_folder, whole_file
from ..progress import Progress
from ..specification import Stream
from .demonstrations import Demonstrations

PLACES = ("auto", "device", "mapped")
"""Where decoded images may be kept: on the training device, or in a file that is mapped into memory."""

RESIDENT_SHARE = 0.6
"""Largest share of the device's free memory that "auto" fills with the images of all cameras."""

BYTES_AT_ONCE = 2**26
"""Images are decoded in pieces of at most this many bytes, or one at a time if a single image is larger."""


def choose_place(demonstrations: Demonstrations, *, device: torch.device, place: str) -> str:
    """Where the images of all cameras are kept: "device" or "mapped".

    place: one of `PLACES`. "auto" is the device if all images together fill at most `RESIDENT_SHARE` of its free
    memory: one decision for all cameras, because each camera that is loaded leaves less memory to the next one.

    Raises ValueError for an unknown place.
    """
    if place not in PLACES:
        raise ValueError(f"image_cache must be one of {', '.join(PLACES)}, got {place!r}")
    if place != "auto":
        return place
    sizes = [stream.size for stream in demonstrations.specification.streams if stream.is_image]
    fits = demonstrations.num_steps * sum(sizes) <= RESIDENT_SHARE * free_memory(device)
    return "device" if fits else "mapped"


def decode_images(
    demonstrations: Demonstrations, stream: Stream, *, device: torch.device, place: str, cache: Path
) -> Tensor:
    """All images of a stream, uint8 (N, H, W, C), on `device` or mapped from a file in the folder `cache`.

    place: "device" or "mapped"; see `choose_place`. A mapped file is written once. Its name is a digest of its content
    (`Demonstrations.content`): of the compressed images, and of the code of a source or mirror. So later runs read it
    again wherever the demonstrations lie, and never after their pixels or their source changed. If there is no digest,
    because a source uses more than its code shows, every run decodes into a file of its own.

    Cost: N x H x W x C bytes of memory or disk, and decoding every image once. A later run reads the compressed images
    once for the digest, at about 1 s a GB: 0.05 s for the 25,650 images of Push-T, which take 2.5 s to decode.

    Raises OSError if the file cannot be written.
    """
    shape = (demonstrations.num_steps, *stream.shape)
    if place == "device":
        images = torch.empty(shape, dtype=torch.uint8, device=device)
        for start, rows in _decoded_pieces(demonstrations, stream):
            images[start : start + len(rows)] = torch.from_numpy(rows)
        return images
    content = demonstrations.content(stream.name)
    path = (cache if content is None else cache / _cache_key(content, shape)) / f"{stream.name}.npy"
    try:
        if content is None:
            with scratch_folder(path) as folder:  # the mapped file lasts as long as the tensor
                _write_cache(folder / path.name, shape, demonstrations, stream)
                return _mapped(folder / path.name, shape)
        if not _is_whole(path, shape):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                _write_cache(partial, shape, demonstrations, stream)
        return _mapped(path, shape)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: {shape[0]} decoded images of {stream.name!r} could not be written ({error.strerror or error}): "
            "free some space, set RECEDE_CACHE to another folder, or keep them in memory with image_cache=device",
        ) from error


def free_memory(device: torch.device) -> int:
    """Free memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def cache_folder() -> Path:
    """The folder of mapped images: $RECEDE_CACHE, or the user's cache folder. It may be deleted at any time."""
    folder = os.environ.get("RECEDE_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "recede"


def _decoded_pieces(demonstrations: Demonstrations, stream: Stream) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Pieces of a stream's images in order, each with its first step."""
    num_steps, size = demonstrations.num_steps, max(BYTES_AT_ONCE // stream.size, 1)
    with Progress(num_steps, f"decode {stream.name}", unit="images", delay_s=1) as progress:
        for start in range(0, num_steps, size):
            rows = demonstrations.read(stream.name, start, min(start + size, num_steps))
            yield start, rows
            progress.advance(len(rows))


def _cache_key(content: str, shape: tuple[int, ...]) -> str:
    return hashlib.sha256(f"{content} {shape}".encode()).hexdigest()[:24]


def _write_cache(path: Path, shape: tuple[int, ...], demonstrations: Demonstrations, stream: Stream) -> None:
    """Write all images. Ordinary writes report a full disk; writing to a mapped file would kill the process."""
    with path.open("wb") as file:
        file.write(_header(shape))
        for _, rows in _decoded_pieces(demonstrations, stream):
            file.write(np.ascontiguousarray(rows).data)


def _header(shape: tuple[int, ...]) -> bytes:
    """What precedes the pixels of a mapped file: that of numpy's format, version 1.0."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a mapped file has the header and the length of these images."""
    header = _header(shape)
    if not path.is_file() or path.stat().st_size != len(header) + math.prod(shape):
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    # Copy-on-write, because torch requires a writable array.
    return torch.from_numpy(np.memmap(path, np.uint8, mode="c", offset=len(_header(shape)), shape=shape))
