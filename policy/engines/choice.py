"""Which engine to use: those that answer as PyTorch does, and of them the fastest on this machine, now.

Shapes: R observations that are tried; see `interface` for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...specification import Specification
from .interface import Arrays, Engine

TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.05}
"""Precision -> how far a chunk may be from that of PyTorch, root mean square over the actions, in half ranges."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one engine. difference, tolerance: see `TOLERANCES`; seconds: median of a chunk of one row.

    reason: why the engine cannot be used, where it cannot.
    """

    name: str
    precision: str = ""
    difference: float = np.nan
    tolerance: float = np.nan
    seconds: float = np.nan
    reason: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether the engine is there and answers as eager does."""
        return not self.reason

    def __str__(self) -> str:
        if not self.precision:
            return f"{self.name}: excluded, {self.reason}"
        taken = "" if np.isnan(self.seconds) else f", {1e3 * self.seconds:.2f} ms a chunk"
        agreement = f"differs from eager by {self.difference:.1e} (tolerance {self.tolerance:g})"
        return f"{self.name} ({self.precision}): {agreement}{taken}" + (f"; {self.reason}" if self.reason else "")


def difference(found: NDArray[np.floating], expected: NDArray[np.floating], half_range: NDArray[np.floating]) -> float:
    """The root of the mean square of the difference of two chunks (R, Tp, Da), in half ranges; the largest of all rows.

    Dimensions that hardly move count nothing.
    """
    moving = half_range > 0
    error = (np.asarray(found, dtype=np.float64) - expected)[..., moving] / half_range[moving]
    return float(np.sqrt(np.mean(error**2, axis=(1, 2))).max()) if moving.any() else 0.0


def verdict(
    engine: Engine,
    observation: Arrays,
    noise: NDArray[np.float32],
    *,
    expected: NDArray[np.floating],
    half_range: NDArray[np.floating],
) -> Verdict:
    """Whether an engine answers as expected, (R, Tp, Da), to R observations and their noise (draws, R, Tp, Da)."""
    found, tolerance = engine.predict(observation, noise), TOLERANCES[engine.precision]
    off = difference(found, expected, half_range) if np.isfinite(found).all() else np.inf
    reason = "" if off <= tolerance else "excluded, it does not answer as eager does"
    return Verdict(engine.name, engine.precision, off, tolerance, reason=reason)


def medians(engines: Sequence[Engine], observation: Arrays, noise: NDArray[np.float32], *, repeats: int) -> list[float]:
    """Median seconds of a chunk of one row of each engine; they take turns, so that whatever slows one slows all."""
    one = {name: values[:1] for name, values in observation.items()}
    taken: list[list[float]] = [[] for _ in engines]
    for turn in range(repeats + 1):
        for engine, times in zip(engines, taken, strict=True):
            began = time.perf_counter()
            engine.predict(one, noise[:, :1])
            if turn:  # the first warms up
                times.append(time.perf_counter() - began)
    return [float(np.median(times)) for times in taken]


def choose(
    make: Mapping[str, Callable[[], Engine]],
    observation: Arrays,
    noise: NDArray[np.float32],
    *,
    reference: Engine,
    half_range: NDArray[np.floating],
    repeats: int = 20,
) -> tuple[list[Engine], list[Verdict]]:
    """The engines that answer as `reference` does, the fastest first, and what was found of each that was asked for.

    make: makes each engine, by name; one that raises ValueError is excluded with the reason.
    """
    expected, verdicts = reference.predict(observation, noise), dict[str, Verdict]()
    agreeing: list[Engine] = []
    for name, build in make.items():
        try:
            engine = build()
        except ValueError as error:
            verdicts[name] = Verdict(name, reason=str(error))
            continue
        verdicts[name] = verdict(engine, observation, noise, expected=expected, half_range=half_range)
        agreeing += [engine] if verdicts[name].is_usable else []
    found = medians(agreeing, observation, noise, repeats=repeats)
    for engine, seconds in zip(agreeing, found, strict=True):
        known = verdicts[engine.name]
        verdicts[engine.name] = Verdict(known.name, known.precision, known.difference, known.tolerance, seconds)
    return [agreeing[index] for index in np.argsort(found)], list(verdicts.values())


def drawn_observation(
    specification: Specification,
    steps: int,
    ranges: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]],
    *,
    rows: int,
) -> Arrays:
    """Observations (R, To, ...) drawn evenly from the ranges of the normalizer, (centre, half range) of each vector.

    Images are drawn from all of their values: what a camera shows is not known here.
    """
    rng = np.random.default_rng(0)

    def drawn(name: str, shape: tuple[int, ...], is_image: bool) -> NDArray[np.generic]:
        if is_image:
            return rng.integers(0, 256, (rows, steps, *shape), dtype=np.uint8)
        centre, half_range = ranges[name]
        return (centre + half_range * rng.uniform(-1, 1, (rows, steps, *shape))).astype(np.float32)

    return {stream.name: drawn(stream.name, stream.shape, stream.is_image) for stream in specification.observations}
