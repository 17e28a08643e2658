"""Checks of the inputs of a prediction, for tensors and numpy arrays alike; and what stands for absent ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import ABSENT, Horizons, Specification, Stream, nearest


def check_observation(
    observation: Mapping[str, Any],
    specification: Specification,
    horizons: Horizons,
    *,
    crop: tuple[int, int] | None = None,
) -> None:
    """Raise ValueError unless the observation has exactly the streams of the specification, each (B, To, ...).

    crop: (h, w), a second size that images may have: augmentation crops them to it.
    """
    for name in observation:
        names = [stream.name for stream in specification.observations]
        if name not in names:
            raise ValueError(f"the policy does not know the observation {name!r}: {nearest(name, names)}")
    for stream in specification.observations:
        if stream.name not in observation:
            raise ValueError(f"the policy needs the observation {stream.name!r}, got {sorted(observation)}")
        values = observation[stream.name]
        if stream.is_image and str(values.dtype).removeprefix("torch.") != "uint8":
            raise ValueError(
                f"observation {stream.name!r} must hold uint8 images, as the camera returns them, got {values.dtype}: "
                "do not scale or normalise the pixels, the policy does that"
            )
        expected, shape = (horizons.observation, *stream.shape), tuple(values.shape)
        is_cropped = stream.is_image and crop is not None and shape[1:] == (expected[0], *crop, expected[-1])
        if shape[1:] != expected and not is_cropped:
            raise ValueError(
                f"observation {stream.name!r} must have shape (B, {', '.join(map(str, expected))}), got {shape}"
            )


def absent_streams(specification: Specification, offered: Collection[str]) -> list[Stream]:
    """The observations of a policy that may be absent, and are not among those of the names `offered`."""
    return [stream for stream in specification.may_be_absent if stream.name not in offered]


def absent_values(specification: Specification, offered: Collection[str]) -> dict[str, NDArray[Any]]:
    """Stream name -> the value of a step, of `absent_streams` and of `ABSENT`; empty if nothing may be absent."""
    values = {stream.name: np.zeros(stream.shape, stream.dtype) for stream in absent_streams(specification, offered)}
    flags = next((stream for stream in specification.observations if stream.name == ABSENT), None)
    return {} if flags is None else values | {ABSENT: np.array([name in values for name in flags.labels], np.float32)}


def num_rows(observation: Mapping[str, Any]) -> int:
    """B, the number of rows of an observation. Raises ValueError if its streams differ in it."""
    rows = {name: len(values) for name, values in observation.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"every stream of an observation must have the same number of rows, got {rows}")
    return next(iter(rows.values()))


def check_noise(noise: Any, shape: tuple[int, int, int], batch: int) -> None:
    """Raise ValueError unless noise is (draws, B, L, Dz). shape: the policy's `noise_shape`, (draws, L, Dz)."""
    draws, *chunk = shape
    if tuple(noise.shape) != (draws, batch, *chunk):
        raise ValueError(
            f"noise must have shape {(draws, batch, *chunk)}, which is noise_shape with its {batch} rows second, "
            f"got {tuple(noise.shape)}"
        )
