"""The streams of demonstrations, decoded once and kept where batches are gathered from: on a device or in a file.

A file is mapped into memory for reading alone. So the system may give up any part of it that is not in use, and neither
memory nor a limit of a process bounds its size.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..files import scratch_folder, whole_file
from ..specification import Stream
from . import memory
from .demonstrations import Demonstrations

PLACES = ("auto", "device", "mapped")
"""Where decoded images may be kept: on the training device, or in a file that is mapped into memory."""

RESIDENT_SHARE = 0.6
"""Largest share of the device's free memory that streams fill, unless they are to be on the device."""

BYTES_AT_ONCE = 2**26
"""Streams are decoded in pieces of at most this many bytes, or one step at a time if a single step is larger."""


def choose_places(demonstrations: Demonstrations, *, device: torch.device, place: str) -> dict[str, str]:
    """Name of each stream -> where it is kept: "device" or "mapped".

    place: of the images, one of `PLACES`. "auto" is the device if all streams together fill at most `RESIDENT_SHARE` of
    its free memory: one decision for all cameras, because each camera that is loaded leaves less memory to the next
    one. Vectors are on the device, unless they alone fill more than that and `place` is not "device".

    Raises ValueError for an unknown place.
    """
    if place not in PLACES:
        raise ValueError(f"image_cache must be one of {', '.join(PLACES)}, got {place!r}")
    streams = demonstrations.specification.streams
    if not demonstrations.num_steps:
        return dict.fromkeys((stream.name for stream in streams), "device")
    most = RESIDENT_SHARE * free_memory(device)
    sizes = {stream.name: demonstrations.num_steps * stream.size * _dtype(stream).itemsize for stream in streams}
    vectors = sum(sizes[stream.name] for stream in streams if not stream.is_image)
    of_vectors = "mapped" if place != "device" and vectors > most else "device"
    of_images = place if place != "auto" else "device" if sum(sizes.values()) <= most else "mapped"
    return {stream.name: of_images if stream.is_image else of_vectors for stream in streams}


def decode_stream(
    demonstrations: Demonstrations, stream: Stream, *, device: torch.device, place: str, cache: Path
) -> Tensor:
    """All steps of a stream (N, *shape), on `device` or mapped from a file in the folder `cache`. It is for reading.

    place: "device" or "mapped"; see `choose_places`. A mapped file is written once. Its name is a digest of its content
    (`Demonstrations.content`): of the compressed stream, and of the code of a source or mirror. So later runs read it
    again wherever the demonstrations lie, and never after their content or their source changed. If there is no digest,
    because a source uses more than its code shows, every run decodes into a file of its own.

    Cost: the bytes of all steps, in memory or on disk (but nothing for a piece of zeros), and decoding them once. A
    later run reads the compressed stream once for the digest, at about 1 s a GB: 0.05 s for the 25,650 images of
    Push-T, which take 2.5 s to decode.

    Raises OSError if the file cannot be written.
    """
    shape, dtype = (demonstrations.num_steps, *stream.shape), _dtype(stream)
    if place == "device":
        steps = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)
        for start, rows in _decoded_pieces(demonstrations, stream):
            steps[start : start + len(rows)] = torch.from_numpy(rows)
        return steps
    content = demonstrations.content(stream.name)
    path = (cache if content is None else cache / _cache_key(content, shape)) / f"{stream.name}.npy"
    try:
        if content is None:
            with scratch_folder(path) as folder:  # the mapped file lasts as long as the tensor
                _write_cache(folder / path.name, shape, demonstrations, stream)
                return _mapped(folder / path.name, shape, dtype)
        if not _is_whole(path, shape, dtype):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                _write_cache(partial, shape, demonstrations, stream)
        return _mapped(path, shape, dtype)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: {shape[0]} decoded steps of {stream.name!r} could not be written ({error.strerror or error}): "
            "free some space, set RECEDE_CACHE to another folder, or keep them in memory with image_cache=device",
        ) from error


def free_memory(device: torch.device) -> int:
    """Free memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = memory.free_memory()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free is None else free


def cache_folder() -> Path:
    """The folder of mapped images: $RECEDE_CACHE, or the user's cache folder. It may be deleted at any time."""
    folder = os.environ.get("RECEDE_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "recede"


def _dtype(stream: Stream) -> np.dtype[Any]:
    """The dtype in which a stream is kept: torch hardly computes with unsigned integers of more than a byte."""
    dtype = np.dtype(stream.dtype)
    return np.result_type(dtype, np.float32) if dtype.kind == "u" and dtype.itemsize > 1 else dtype


def _decoded_pieces(demonstrations: Demonstrations, stream: Stream) -> Iterator[tuple[int, NDArray[Any]]]:
    """Pieces of a stream in order, each with its first step."""
    num_steps, dtype = demonstrations.num_steps, _dtype(stream)
    size = max(BYTES_AT_ONCE // (stream.size * dtype.itemsize), 1)
    with tqdm(total=num_steps, desc=f"decode {stream.name}", unit="step", delay=1) as bar:
        for start in range(0, num_steps, size):
            rows = demonstrations.read(stream.name, start, min(start + size, num_steps))
            yield start, rows.astype(dtype, copy=False)
            bar.update(len(rows))


def _cache_key(content: str, shape: tuple[int, ...]) -> str:
    return hashlib.sha256(f"{content} {shape}".encode()).hexdigest()[:24]


def _write_cache(path: Path, shape: tuple[int, ...], demonstrations: Demonstrations, stream: Stream) -> None:
    """Write all steps. Ordinary writes report a full disk; writing to a mapped file would kill the process."""
    dtype = _dtype(stream)
    with path.open("wb") as file:
        file.write(_header(shape, dtype))
        for _, rows in _decoded_pieces(demonstrations, stream):
            content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            if content.any():
                file.write(content.data)
            else:  # a hole takes no disk, and reads as zeros
                file.seek(len(content), os.SEEK_CUR)
        file.truncate(_size(shape, dtype))


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What precedes the steps in a mapped file: that of numpy's format, version 1.0."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of a mapped file."""
    return len(_header(shape, dtype)) + math.prod(shape) * dtype.itemsize


def _is_whole(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether a mapped file has the header and the length of these steps."""
    if not path.is_file() or path.stat().st_size != _size(shape, dtype):
        return False
    header = _header(shape, dtype)
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """The steps in a file. A map that could be written to would count as memory in full, and might be refused."""
    steps = np.memmap(path, dtype, mode="r", offset=len(_header(shape, dtype)), shape=shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(steps)
