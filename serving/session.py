"""One robot that a server answers, and the checks of what it sends."""

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
    """What is known of one robot: its last observations and its noise, a function of the seed and its number."""

    def __init__(self, number: int, engine: Engine, seed: int) -> None:
        self.number, self.engine = number, engine
        self._generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
        self._history: History = {}

    def request(self, message: Message) -> Request:
        """What an "infer" asks for; its observations are remembered.

        Raises ValueError, and remembers nothing, where anything of it does not fit the policy.
        """
        specification, horizons = self.engine.specification, self.engine.horizons
        if message["kind"] != "infer":
            raise ValueError(f"a client must send messages of kind 'infer', got {message['kind'][:40]!r}")
        unknown = message.keys() - {"kind", "number", "observation", "prefix", "reset"}
        if unknown or type(message.get("number")) is not int or type(message.get("reset", False)) is not bool:
            raise ValueError(
                "an 'infer' must have a whole number, an observation, and may have a prefix and reset, a truth value; "
                f"got {_names(message)}"
            )
        steps = checked_observation(message.get("observation"), specification, horizons)
        prefix = checked_prefix(message.get("prefix"), specification, horizons)
        if message.get("reset", False) or not self._history:  # the first step stands for those before it
            self._history = {name: values[:1].repeat(horizons.observation, axis=0) for name, values in steps.items()}
        joined = {name: np.concatenate([self._history[name], values]) for name, values in steps.items()}
        self._history = {name: values[-horizons.observation :] for name, values in joined.items()}
        return Request(self._history, () if prefix is None else (prefix,))

    def noise(self) -> NDArray[np.float32]:
        """Of the next prediction, (draws, Tp, Da)."""
        return self._generator.standard_normal(self.engine.noise_shape, dtype=np.float32)


def checked_observation(found: Any, specification: Specification, horizons: Horizons) -> History:
    """The 1 to To newest steps of every stream (n, ...). Raises ValueError for anything else."""
    streams = {stream.name: stream for stream in specification.observations}
    if not isinstance(found, dict):
        raise ValueError(f"an observation must be a map of the streams {sorted(streams)}, got {type(found).__name__}")
    for name in map(_name, found.keys() - streams.keys()):
        raise ValueError(f"the policy does not know the observation {name}: {nearest(name, streams)}")
    for name, stream in streams.items():
        if name not in found:
            raise ValueError(f"the policy needs the observation {name!r}, got {_names(found)}")
        _check_array(found[name], f"observation {name!r}", stream.dtype, stream.shape, most=horizons.observation)
    if len({len(values) for values in found.values()}) > 1:
        lengths = {name: len(values) for name, values in found.items()}
        raise ValueError(f"every stream of an observation must have the same number of steps, got {lengths}")
    return {name: found[name] for name in streams}


def checked_prefix(found: Any, specification: Specification, horizons: Horizons) -> Prefix | None:
    """What a chunk is to go on from, if anything. Raises ValueError for what is no prefix of such a chunk."""
    if found is None:
        return None
    if not isinstance(found, dict) or found.keys() != {"actions", "weights", "start", "limit", "exact"}:
        raise ValueError(f"a prefix must be a map of actions, weights, start, limit and exact, got {_names(found)}")
    steps = horizons.prediction
    _check_array(found["actions"], "the actions of a prefix", "float32", specification.action.shape, exactly=steps)
    _check_array(found["weights"], "the weights of a prefix", "float32", (), exactly=steps)
    numbers = found["start"], found["limit"]
    are_finite = all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
    if not are_finite or type(found["exact"]) is not bool:
        raise ValueError("start and limit of a prefix must be finite numbers, and exact a truth value")
    start, limit = map(float, numbers)
    return Prefix(found["actions"], found["weights"], start=start, limit=limit, exact=found["exact"])


def _check_array(found: Any, what: str, dtype: str, shape: tuple[int, ...], *, most: int = 0, exactly: int = 0) -> None:
    is_array = isinstance(found, np.ndarray)
    steps = found.shape[0] if is_array and found.ndim else 0
    is_long = steps == exactly if exactly else 1 <= steps <= most
    if not is_array or not is_long or found.shape[1:] != shape or found.dtype != dtype:
        length = exactly or f"1 to {most}"
        wanted = ", ".join(map(str, (length, *shape)))
        got = f"{found.dtype} of shape {found.shape}" if is_array else type(found).__name__
        raise ValueError(f"{what} must be an array of {dtype} of shape ({wanted}), got {got}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"{what} must be finite")


def _name(name: Any) -> str:
    return repr(name[:40]) if isinstance(name, str) else type(name).__name__


def _names(found: Any) -> str:
    return f"[{', '.join(_name(each) for each in list(found)[:20])}]" if isinstance(found, dict) else _name(found)
