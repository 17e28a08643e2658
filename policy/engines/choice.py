"""Choose an engine: of those that agree with PyTorch, the fastest on this machine.

Shapes: R observations of the comparison; see `interface` for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...specification import Specification
from .interface import Arrays, Engine

TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.05}
"""Precision -> the largest `difference` from PyTorch, root mean square over the actions, in half ranges."""


@dataclass(frozen=True)
class Verdict:
    """How an engine compares with eager."""

    name: str
    """The engine, one of `ENGINES`."""

    precision: str = ""
    """Its precision; empty if the engine is not available."""

    difference: float = np.nan
    """How far its chunks are from those of eager; see `difference`."""

    tolerance: float = np.nan
    """The largest difference that is allowed; see `TOLERANCES`."""

    seconds: float = np.nan
    """The median time of a chunk of one row."""

    reason: str = ""
    """Why the engine is excluded; empty if it is not."""

    @property
    def is_usable(self) -> bool:
        """Whether the engine is available and agrees with eager."""
        return not self.reason

    def __str__(self) -> str:
        if not self.precision:
            return f"{self.name}: excluded, {self.reason}"
        seconds = "" if np.isnan(self.seconds) else f", {1e3 * self.seconds:.2f} ms a chunk"
        agreement = f"differs from eager by {self.difference:.1e} (tolerance {self.tolerance:g})"
        return f"{self.name} ({self.precision}): {agreement}{seconds}" + (f"; {self.reason}" if self.reason else "")


def difference(chunk: NDArray[np.floating], expected: NDArray[np.floating], half_range: NDArray[np.floating]) -> float:
    """The root mean square difference of two chunks (R, Tp, Da), in half ranges; the largest of all rows.

    half_range: (Da,). Dimensions with a half range of 0 are left out.
    """
    moving = half_range > 0
    error = (np.asarray(chunk, dtype=np.float64) - expected)[..., moving] / half_range[moving]
    return float(np.sqrt(np.mean(error**2, axis=(1, 2))).max()) if moving.any() else 0.0


def compare(
    engine: Engine,
    observation: Arrays,
    noise: NDArray[np.float32],
    *,
    expected: NDArray[np.floating],
    half_range: NDArray[np.floating],
) -> Verdict:
    """Whether an engine predicts the expected chunks (R, Tp, Da) from R observations and noise (draws, R, L, Dz)."""
    chunk, tolerance = engine.predict(observation, noise), TOLERANCES[engine.precision]
    error = difference(chunk, expected, half_range) if np.isfinite(chunk).all() else np.inf
    reason = "" if error <= tolerance else "excluded, it does not agree with eager"
    return Verdict(engine.name, engine.precision, error, tolerance, reason=reason)


def median_seconds(
    engines: Sequence[Engine], observation: Arrays, noise: NDArray[np.float32], *, repeats: int
) -> list[float]:
    """The median time of a chunk of one row of each engine. They take turns, so that a disturbance slows all alike."""
    row = _first_row(observation)
    seconds: list[list[float]] = [[] for _ in engines]
    for turn in range(repeats + 1):
        for engine, times in zip(engines, seconds, strict=True):
            start = time.perf_counter()
            engine.predict(row, noise[:, :1])
            if turn:  # the first warms up
                times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in seconds]


def _first_row(observation: Arrays) -> Arrays:
    return {name: values[:1] for name, values in observation.items()}


def choose(
    makers: Mapping[str, Callable[[], Engine]],
    observation: Arrays,
    noise: NDArray[np.float32],
    *,
    reference: Engine,
    half_range: NDArray[np.floating],
    repeats: int = 20,
) -> tuple[list[Engine], list[Verdict]]:
    """The engines that agree with `reference`, fastest first, and the verdict on every candidate.

    makers: a candidate's name -> a function that makes the engine, or raises if it is not available. An engine that
    fails in its trial is excluded.
    """
    expected, verdicts = reference.predict(observation, noise), dict[str, Verdict]()
    agreeing: list[Engine] = []
    for name, make in makers.items():
        try:
            engine = make()
            verdicts[name] = compare(engine, observation, noise, expected=expected, half_range=half_range)
            engine.predict(_first_row(observation), noise[:, :1])  # as it will be timed
        except Exception as error:  # each library of an engine raises errors of its own
            verdicts[name] = Verdict(name, reason=" ".join(str(error).split()) or type(error).__name__)
            continue
        agreeing += [engine] if verdicts[name].is_usable else []
    times = median_seconds(agreeing, observation, noise, repeats=repeats)
    for engine, seconds in zip(agreeing, times, strict=True):
        verdicts[engine.name] = replace(verdicts[engine.name], seconds=seconds)
    return [agreeing[index] for index in np.argsort(times)], list(verdicts.values())


def draw_observation(
    specification: Specification,
    steps: int,
    ranges: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]],
    *,
    rows: int,
) -> Arrays:
    """Observations (R, To, ...), uniform over `ranges`: a vector's name -> (centre, half range).

    Pixels are uniform over 0 to 255: nobody knows here what a camera shows.
    """
    rng = np.random.default_rng(0)

    def draw(name: str, shape: tuple[int, ...], is_image: bool) -> NDArray[np.generic]:
        if is_image:
            return rng.integers(0, 256, (rows, steps, *shape), dtype=np.uint8)
        centre, half_range = ranges[name]
        return (centre + half_range * rng.uniform(-1, 1, (rows, steps, *shape))).astype(np.float32)

    return {stream.name: draw(stream.name, stream.shape, stream.is_image) for stream in specification.observations}
