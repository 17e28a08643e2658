"""The images of demonstrations, decoded once and held where batches are gathered from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..files import whole_file
from ..specification import Stream
from .demonstrations import Demonstrations

PLACES = ("auto", "device", "mapped")
"""Where frames may be held: on the training device, or in a file that is mapped into memory."""

RESIDENT_SHARE = 0.6
"""Of the device's free memory: frames that need more of it are mapped."""

BYTES_AT_ONCE = 2**26
"""Upper bound of the frames that are decoded at once, where a single one is not larger."""


def load_frames(
    demonstrations: Demonstrations, stream: Stream, *, device: torch.device, place: str = "auto", cache: Path
) -> Tensor:
    """All frames of an image stream, uint8 (N, H, W, C), on `device` or mapped from a file in `cache`.

    place: one of `PLACES`; "auto" is the device where `RESIDENT_SHARE` of its free memory holds them. What is mapped
    is written once, and read again by later runs as long as the demonstrations stay as they are.

    Cost: N x H x W x C bytes of memory or of disk, and the decoding of every frame, once.
    """
    if place not in PLACES:
        raise ValueError(f"frames must be held in one of {', '.join(PLACES)}, got {place!r}")
    shape = (demonstrations.num_steps, *stream.shape)
    fits = np.prod(shape, dtype=np.int64) <= RESIDENT_SHARE * free_memory(device)
    if place == "device" or (place == "auto" and fits):
        frames = torch.empty(shape, dtype=torch.uint8, device=device)
        for start, rows in _decoded(demonstrations, stream):
            frames[start : start + len(rows)] = torch.from_numpy(rows)
        return frames
    path = cache / _key(demonstrations, stream) / f"{stream.name}.npy"
    if not path.exists():
        _write(path, shape, demonstrations, stream)
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # private pages: torch wants an array that it could write to


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def cache_folder() -> Path:
    """Where decoded frames are kept: $RECEDE_CACHE, or the user's cache folder. It may be deleted at any time."""
    chosen = os.environ.get("RECEDE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "recede"


def _decoded(demonstrations: Demonstrations, stream: Stream) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Each piece of the frames, with the step at which it starts."""
    num_steps, size = demonstrations.num_steps, max(BYTES_AT_ONCE // stream.size, 1)
    with tqdm(total=num_steps, desc=f"decode {stream.name}", unit="frame", delay=1) as bar:
        for start in range(0, num_steps, size):
            rows = demonstrations.read(stream.name, start, min(start + size, num_steps))
            yield start, rows
            bar.update(len(rows))


def _key(demonstrations: Demonstrations, stream: Stream) -> str:
    """Another one for other demonstrations: by their place, their content as far as it is described, and its age."""
    path = demonstrations.path.resolve()
    described = [path / name for name in ("zarr.json", ".zgroup", "meta/episode_ends/.zarray")]
    ages = [file.stat().st_mtime_ns for file in described if file.exists()]
    content = [str(path), ages, demonstrations.episode_ends.tolist(), demonstrations.specification.to_json()]
    return hashlib.sha256(json.dumps([*content, stream.name]).encode()).hexdigest()[:24]


def _write(path: Path, shape: tuple[int, ...], demonstrations: Demonstrations, stream: Stream) -> None:
    """Write the file beside its place and rename it; by ordinary writes, which say so where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _, rows in _decoded(demonstrations, stream):
                file.write(np.ascontiguousarray(rows).data)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: {shape[0]} decoded frames of {stream.name!r} could not be kept ({error.strerror or error}): "
            "make room there, name another folder in RECEDE_CACHE, or hold them in memory with frames=device",
        ) from error
