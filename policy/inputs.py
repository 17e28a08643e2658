"""What a prediction is asked with must fit the policy; the same rules for tensors and for arrays of numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..specification import Horizons, Specification, nearest


def check_observation(
    observation: Mapping[str, Any],
    specification: Specification,
    horizons: Horizons,
    *,
    crop: tuple[int, int] | None = None,
) -> None:
    """Raise ValueError unless there is every stream of the specification, each of shape (B, To, ...).

    crop: (h, w) that images may have instead of their own size, as augmentation leaves them.
    """
    for name in observation:
        names = [stream.name for stream in specification.observations]
        if name not in names:
            raise ValueError(f"the policy does not know the observation {name!r}: {nearest(name, names)}")
    for stream in specification.observations:
        if stream.name not in observation:
            raise ValueError(f"the policy needs the observation {stream.name!r}, got {sorted(observation)}")
        found = observation[stream.name]
        if stream.is_image and str(found.dtype).removeprefix("torch.") != "uint8":
            raise ValueError(
                f"observation {stream.name!r} must hold images of uint8, as the camera gives them, got {found.dtype}: "
                f"do not scale or normalise the pixels, the policy does"
            )
        wanted, shape = (horizons.observation, *stream.shape), tuple(found.shape)
        is_cropped = stream.is_image and crop is not None and shape[1:] == (wanted[0], *crop, wanted[-1])
        if shape[1:] != wanted and not is_cropped:
            raise ValueError(
                f"observation {stream.name!r} must have shape (B, {', '.join(map(str, wanted))}), got {shape}"
            )


def num_rows(observation: Mapping[str, Any]) -> int:
    """B, of an observation that has been asked of any engine. Raise ValueError where its streams differ in it."""
    rows = {name: len(values) for name, values in observation.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"every stream of an observation must have the same number of rows, got {rows}")
    return next(iter(rows.values()))


def check_noise(noise: Any, shape: tuple[int, int, int], batch: int) -> None:
    """Raise ValueError unless noise is (draws, B, Tp, Da), where `shape` is the (draws, Tp, Da) of the policy."""
    draws, *chunk = shape
    if tuple(noise.shape) != (draws, batch, *chunk):
        raise ValueError(
            f"the noise must have shape {(draws, batch, *chunk)}, a draw of noise_shape for each of {batch} rows, "
            f"got {tuple(noise.shape)}"
        )
