"""The session of one robot on a server, and the checks of its messages.

Shapes: n steps of a message; To, Tp observation and prediction horizon; Da size of the action.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..policy.engines.interface import Engine
from ..policy.requests import History, Request
from ..specification import Horizons, Specification, nearest
from .wire import Message


class Session:
    """The last observations of one robot, and its noise, which is a function of the seed and the session's number."""

    def __init__(self, number: int, engine: Engine, seed: int) -> None:
        self.number, self.engine = number, engine
        self._generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
        self._history: History = {}

    def request(self, message: Message) -> Request:
        """The request of an "infer" message. Its observations are remembered.

        Raises ValueError, and remembers nothing, if any part of the message does not fit the policy.
        """
        specification, horizons = self.engine.specification, self.engine.horizons
        if message["kind"] != "infer":
            raise ValueError(f"a client must send messages of kind 'infer', got {message['kind'][:40]!r}")
        unknown = message.keys() - {"kind", "number", "observation", "prefix", "reset"}
        if unknown or type(message.get("number")) is not int or type(message.get("reset", False)) is not bool:
            raise ValueError(
                "an 'infer' must have an integer number and an observation, and may have a prefix and a boolean reset; "
                f"got {_names(message)}"
            )
        steps = checked_observation(message.get("observation"), specification, horizons)
        prefix = checked_prefix(message.get("prefix"), specification, horizons)
        if message.get("reset", False) or not self._history:  # the first step also stands for the steps before it
            self._history = {name: values[:1].repeat(horizons.observation, axis=0) for name, values in steps.items()}
        joined = {name: np.concatenate([self._history[name], values]) for name, values in steps.items()}
        self._history = {name: values[-horizons.observation :] for name, values in joined.items()}
        return Request(self._history, () if prefix is None else (prefix,))

    def noise(self) -> NDArray[np.float32]:
        """The noise of the next prediction, (draws, Tp, Da)."""
        return self._generator.standard_normal(self.engine.noise_shape, dtype=np.float32)


def checked_observation(value: Any, specification: Specification, horizons: Horizons) -> History:
    """Check the 1 to To newest steps of every stream (n, ...). Raises ValueError if they do not fit the policy."""
    streams = {stream.name: stream for stream in specification.observations}
    if not isinstance(value, dict):
        raise ValueError(f"an observation must be a map of the streams {sorted(streams)}, got {type(value).__name__}")
    for name in map(_name, value.keys() - streams.keys()):
        raise ValueError(f"the policy does not know the observation {name}: {nearest(name, streams)}")
    for name, stream in streams.items():
        if name not in value:
            raise ValueError(f"the policy needs the observation {name!r}, got {_names(value)}")
        _check_array(value[name], f"observation {name!r}", stream.dtype, stream.shape, most=horizons.observation)
    lengths = {name: len(steps) for name, steps in value.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every stream of an observation must have the same number of steps, got {lengths}")
    return {name: value[name] for name in streams}


def checked_prefix(value: Any, specification: Specification, horizons: Horizons) -> Prefix | None:
    """Check the prefix of a chunk; None if the message has none. Raises ValueError if it does not fit the policy."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"actions", "weights", "start", "limit", "exact"}:
        raise ValueError(f"a prefix must be a map of actions, weights, start, limit and exact, got {_names(value)}")
    steps = horizons.prediction
    _check_array(value["actions"], "the actions of a prefix", "float32", specification.action.shape, exactly=steps)
    _check_array(value["weights"], "the weights of a prefix", "float32", (), exactly=steps)
    numbers = value["start"], value["limit"]
    are_finite = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    if not are_finite or type(value["exact"]) is not bool:
        raise ValueError("start and limit of a prefix must be finite numbers, and exact a boolean")
    start, limit = map(float, numbers)
    return Prefix(value["actions"], value["weights"], start=start, limit=limit, exact=value["exact"])


def _check_array(value: Any, what: str, dtype: str, shape: tuple[int, ...], *, most: int = 0, exactly: int = 0) -> None:
    """Raise ValueError unless it is an array of `exactly` or 1 to `most` steps (n, ...) of finite numbers."""
    is_array = isinstance(value, np.ndarray)
    steps = value.shape[0] if is_array and value.ndim else 0
    has_length = steps == exactly if exactly else 1 <= steps <= most
    if not is_array or not has_length or value.shape[1:] != shape or value.dtype != dtype:
        expected = ", ".join(map(str, (exactly or f"1 to {most}", *shape)))
        got = f"{value.dtype} of shape {value.shape}" if is_array else type(value).__name__
        raise ValueError(f"{what} must be an array of {dtype} of shape ({expected}), got {got}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{what} must be finite")


def _name(name: Any) -> str:
    """A name for an error message, cut short: the message may come from anybody."""
    return repr(name[:40]) if isinstance(name, str) else type(name).__name__


def _names(value: Any) -> str:
    """The first keys of a map for an error message."""
    return f"[{', '.join(_name(key) for key in list(value)[:20])}]" if isinstance(value, dict) else _name(value)
