"""Digests that identify each episode by its content, independent of its path and format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json_with_digest, write_json_with_digest
from .demonstrations import Demonstrations

BYTES_AT_ONCE = 2**26
"""Vectors are read in pieces of whole episodes of at most so many bytes, or one episode at a time."""

DIGITS = 16
"""Hexadecimal digits of a digest: it tells episodes apart, and proves nothing against forgery."""


def vector_digests(demonstrations: Demonstrations) -> list[str]:
    """A digest of each episode's vectors; that of the first episode also covers the first image of each camera.

    It can be computed before images are decoded. Cost: one pass over the vectors, in pieces.
    """
    hashes = [hashlib.sha256() for _ in range(len(demonstrations))]
    for stream in demonstrations.specification.streams:
        for content in hashes:
            content.update(f"{stream.name} {stream.shape} {stream.dtype}".encode())
        if stream.is_image:
            for content in hashes[:1]:
                content.update(np.ascontiguousarray(demonstrations.read(stream.name, 0, 1)).data)
            continue
        row_bytes = stream.size * np.dtype(stream.dtype).itemsize
        for episodes in _groups(demonstrations, most=BYTES_AT_ONCE // row_bytes):
            first, last = demonstrations.bounds(episodes[0])[0], demonstrations.bounds(episodes[-1])[1]
            rows = np.ascontiguousarray(demonstrations.read(stream.name, first, last))
            for episode in episodes:
                start, stop = demonstrations.bounds(episode)
                hashes[episode].update(rows[start - first : stop - first].data)
    return [content.hexdigest()[:DIGITS] for content in hashes]


def stream_digests(demonstrations: Demonstrations, streams: Mapping[str, Any], num_episodes: int) -> list[str]:
    """A digest of everything that a training reads of each of `num_episodes` episodes.

    demonstrations: the episodes, or these followed by their mirror images, which count too. streams: name -> the
    tensor (N, ...) of all their steps, as training gathers from it. No image is decoded again. Cost: about 1 s a GB of
    decoded images, and a copy if they lie on a GPU.
    """
    hashes = [hashlib.sha256() for _ in range(num_episodes)]
    for name, values in streams.items():
        for index in range(len(demonstrations)):
            start, stop = demonstrations.bounds(index)
            content = hashes[index % num_episodes]
            content.update(name.encode())
            content.update(np.ascontiguousarray(values[start:stop].cpu()).data)
    return [content.hexdigest()[:DIGITS] for content in hashes]


def kept_stream_digests(
    demonstrations: Demonstrations, streams: Mapping[str, Any], num_episodes: int, *, cache: Path
) -> list[str]:
    """`stream_digests`, kept in the folder `cache` under a digest of what the streams are decoded from.

    Later calls read the compressed streams alone, which are several times smaller than the decoded ones.
    """
    contents = [(stream.name, demonstrations.content(stream.name)) for stream in demonstrations.specification.streams]
    if None in dict(contents).values():
        return stream_digests(demonstrations, streams, num_episodes)
    decisive = repr((contents, demonstrations.episode_ends.tolist(), num_episodes))
    path = cache / hashlib.sha256(decisive.encode()).hexdigest()[:24] / "episodes.json"
    with suppress(OSError, ValueError, KeyError):  # absent, or damaged
        return read_json_with_digest(path, "delete it")["sha256"]
    digests = stream_digests(demonstrations, streams, num_episodes)
    with suppress(OSError):  # a cache that cannot be written is no fault
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_with_digest(path, {"sha256": digests})
    return digests


def _groups(demonstrations: Demonstrations, *, most: int) -> Iterator[list[int]]:
    """Consecutive episodes of at most `most` steps in all, or a single longer one."""
    group, steps = list[int](), 0
    for episode, length in enumerate(demonstrations.episode_lengths.tolist()):
        if group and steps + length > most:
            yield group
            group, steps = [], 0
        group.append(episode)
        steps += length
    if group:
        yield group
