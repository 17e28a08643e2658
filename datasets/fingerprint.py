"""A digest that identifies demonstrations by their content, independent of their path and format."""

from __future__ import annotations

import hashlib

import numpy as np

from .demonstrations import Demonstrations

STEPS_AT_ONCE = 100_000


def fingerprint(demonstrations: Demonstrations, num_episodes: int) -> str | None:
    """SHA-256 of the first `num_episodes`: their ends, their vectors, and the first image of each camera.

    None if there are fewer episodes. Only one image is read, because reading all of them would take minutes. Cost: one
    pass over the vectors, in pieces.
    """
    if num_episodes > len(demonstrations):
        return None
    ends = np.asarray(demonstrations.episode_ends[:num_episodes], dtype="<i8")
    num_steps, content = int(ends[-1]) if num_episodes else 0, hashlib.sha256(ends.tobytes())
    for stream in demonstrations.specification.streams:
        content.update(f"{stream.name} {stream.shape} {stream.dtype}".encode())
        last = min(num_steps, 1) if stream.is_image else num_steps
        for first in range(0, last, STEPS_AT_ONCE):
            rows = demonstrations.read(stream.name, first, min(first + STEPS_AT_ONCE, last))
            content.update(np.ascontiguousarray(rows).tobytes())
    return content.hexdigest()
