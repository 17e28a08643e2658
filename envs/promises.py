"""What an environment must return, checked at every reset and step, whoever runs it.

`recede.envs.check.check_task` tries stricter promises than these: here are only those without which an episode cannot
go on.

Shapes: H, W and C height, width and channels of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import Specification, Stream

RETURNS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}
"""A method of an environment -> what it returns."""

REMEDIES = {
    "reset": "return an info too, which may be empty",
    "step": "return terminated and truncated instead of done",
}
"""A method of an environment -> how one of the old gym, which returned less, becomes one of gymnasium."""


class PromiseError(ValueError):
    """A broken promise of an environment; the message is addressed to its author.

    stream: the name of the stream to blame, if there is one. culprit: the author's function that broke the promise.
    """

    def __init__(self, message: str, *, stream: str | None = None, culprit: Callable[..., Any] | None = None) -> None:
        super().__init__(message)
        self.stream, self.culprit = stream, culprit


def unpacked(method: str, result: Any, *, culprit: Callable[..., Any] | None = None) -> Any:
    """The parts of what `method` has returned. Raises PromiseError unless they are those of gymnasium."""
    parts = RETURNS[method]
    is_whole = isinstance(result, tuple | list) and len(result) == len(parts) and isinstance(result[-1], Mapping)
    if not is_whole:
        raise PromiseError(
            f"{method}() must return ({', '.join(parts)}), as gymnasium wants, got {kind(result)}: {REMEDIES[method]}",
            culprit=culprit,
        )
    return result


def reset(env: Any, *, seed: int | None, options: dict[str, Any] | None = None) -> Any:
    """Reset an environment; returns its observation and info.

    Raises PromiseError if it returns something else, or takes no seed.
    """
    method = env.reset
    try:
        result = method(seed=seed, options=options) if options is not None else method(seed=seed)
    except TypeError as error:
        if "unexpected keyword argument" in str(error) and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
            raise PromiseError(
                f"reset() must take seed= and options=, as gymnasium wants, but {error}: add them, and call "
                "super().reset(seed=seed)",
                culprit=method,
            ) from None
        raise
    return unpacked("reset", result, culprit=method)


def check_value(stream: Stream, value: Any, what: str, *, culprit: Callable[..., Any] | None = None) -> None:
    """Raise PromiseError unless `value` is one step of the stream: of its shape, of its kind of number, and finite."""
    array = np.asarray(value)
    if array.shape != stream.shape or not np.can_cast(array.dtype, stream.dtype, "same_kind"):
        raise PromiseError(
            f"{what} must return {stream.name!r} as {stream.shape} in {stream.dtype}, "
            f"got {array.shape} in {array.dtype}: convert it there, or describe it so in the Specification",
            stream=stream.name,
            culprit=culprit,
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PromiseError(
            f"{what} must return {stream.name!r} as finite numbers, got {array}: find out where they come from, or "
            "end the episode before",
            stream=stream.name,
            culprit=culprit,
        )


def check_observation(
    specification: Specification, observation: Any, what: str, *, culprit: Callable[..., Any] | None = None
) -> None:
    """Raise PromiseError unless every observation stream is there, of its shape and kind of number, and finite."""
    if not isinstance(observation, Mapping):
        raise PromiseError(
            f"{what} must return a dictionary with an array for every stream, got {kind(observation)}: wrap the "
            "environment in recede.envs.gymnasium_adapter.GymnasiumAdapter, or return one",
            culprit=culprit,
        )
    for stream in specification.observations:
        if stream.name not in observation:
            raise PromiseError(
                f"{what} must return every stream of the specification, {stream.name!r} is missing: "
                f"got {sorted(map(str, observation))}",
                stream=stream.name,
                culprit=culprit,
            )
        check_value(stream, observation[stream.name], what, culprit=culprit)


def outcome(info: Mapping[str, Any], what: str, *, culprit: Callable[..., Any] | None = None) -> tuple[bool, float]:
    """The success and the score of a step.

    Raises PromiseError if one is missing, if the success is not true or false, or if the score is not in [0, 1].
    """
    for name in ("success", "score"):
        if name not in info:
            raise PromiseError(
                f"{what} must return an info that holds {name!r}, got {sorted(map(str, info))}: add it there",
                culprit=culprit,
            )
    success, score = (_number(info[name]) for name in ("success", "score"))
    if not 0 <= score <= 1:
        raise PromiseError(
            f"info['score'] must be a number in [0, 1], {what} gave {brief(info['score'])}: scale it there",
            culprit=culprit,
        )
    if success not in (0, 1):
        raise PromiseError(
            f"info['success'] must be true or false, {what} gave {brief(info['success'])}: compare it there",
            culprit=culprit,
        )
    return bool(success), score


def check_end(
    num_steps: int, max_steps: int | None, *, is_over: bool, culprit: Callable[..., Any] | None = None
) -> None:
    """Raise PromiseError if an episode goes on after its last step. max_steps: None for no limit."""
    if max_steps is not None and num_steps >= max_steps and not is_over:
        raise PromiseError(
            f"an episode must be over after max_steps={max_steps} steps, but step() returned neither terminated nor "
            "truncated: return truncated=True in that step",
            culprit=culprit,
        )


def _number(value: Any) -> float:
    """A boolean or a number, also as an array of one; NaN for anything else."""
    array = np.asarray(value)
    return float(array.reshape(())) if array.dtype.kind in "biuf" and array.size == 1 else math.nan


def brief(value: Any) -> str:
    """A value as it can be shown in a line."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def picture(image: Any, *, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """What `render()` has returned, as an (H, W, 3) uint8 image.

    Grey images (H, W) and (H, W, 1), images (H, W, 4) with an alpha, which is left out, booleans and floats in [0, 1]
    are converted. shape: that of the frames before, if there are any.

    Raises PromiseError for anything else.
    """
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    is_image = array.ndim == 3 and array.shape[2] in (1, 3, 4) and array.size > 0
    if array.dtype.kind == "f" and is_image:
        is_image = bool((array >= 0).all() and (array <= 1).all())
    if not is_image or not (array.dtype == np.uint8 or array.dtype.kind in "fb"):
        values = f" from {array.min():g} to {array.max():g}" if array.size and array.dtype.kind in "fiu" else ""
        raise PromiseError(
            f"render() must return an (H, W, 3) uint8 image with render_mode='rgb_array', got {kind(image)}{values}: "
            "convert it there"
        )
    if array.dtype != np.uint8:
        array = np.round(255 * array.astype(np.float64)).astype(np.uint8)
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
    if shape is not None and array.shape != shape:
        raise PromiseError(
            f"render() must return images of one size in an episode, got {array.shape} after {shape}: keep the size"
        )
    return np.array(array)  # the environment may reuse its own


def kind(value: Any) -> str:
    """Dtype and shape of an array, the types in a short tuple or list, or the type of another value."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, tuple | list) and len(value) <= 6:
        return f"a {type(value).__name__} of {len(value)} values ({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__
