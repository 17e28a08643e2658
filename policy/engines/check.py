"""A check of your own engine: `check_engine` tries every promise of `Engine`.

It only predicts; nothing on disk changes, and torch is not needed.

Shapes: see `interface`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import Horizons, Specification, Stream
from ..denoising.guidance import Guidance, Prefix
from .choice import TOLERANCES, difference
from .interface import Arrays, Engine

ROWS = 5
"""Rows of the batches of the check."""

OTHER_ROWS = (1, 2, 16)
"""Further numbers of rows, each of which must give the same chunks."""


def check_engine(
    engine: Engine,
    reference: Engine | None = None,
    *,
    observation: Arrays | None = None,
    half_range: NDArray[np.floating] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> str:
    """Check every promise of `Engine`; returns the results, in lines to print.

    reference: an engine of the same policy, with which all chunks must agree, guided ones too. observation: 16 rows
    (16, To, ...) to predict from; drawn from the limits of the streams, or from [-1, 1], if None. half_range: (Da,),
    half the range of each action dimension, the unit of differences; if None, from the limits of the action, or from
    the range of the predicted chunks. tolerance: the largest difference, see `choice.TOLERANCES`, which holds if None.
    seed: of the observations and the noise.

    Raises ValueError for the first broken promise, with the value and the remedy. Passes on what `predict` itself
    raises for good input.
    """
    check = _Check(engine, reference, seed)
    check.description(tolerance)
    check.inputs(observation)
    check.chunks(half_range)
    check.repetition()
    check.rows()
    check.weightless_prefix()
    check.prefix()
    check.warm_start()
    check.gradient()
    check.misuse()
    return "\n".join(f"{name:<20}{text}" for name, text in check.lines.items())


@dataclass
class _Check:
    """An engine and the results so far; each method checks promises about one thing."""

    engine: Engine
    reference: Engine | None
    seed: int
    worst: float = 0.0
    lines: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def description(self, tolerance: float | None) -> None:
        """The attributes that can be read without a prediction."""
        engine: Any = self.engine
        _require(isinstance(engine.name, str) and engine.name, f"name must be a word, got {engine.name!r}")
        _require(
            engine.precision in TOLERANCES, f"precision must be one of {list(TOLERANCES)}, got {engine.precision!r}"
        )
        _require(
            isinstance(engine.specification, Specification) and isinstance(engine.horizons, Horizons),
            f"specification and horizons must be those of the policy, got {engine.specification!r} and "
            f"{engine.horizons!r}",
        )
        shape: Any = engine.noise_shape
        _require(
            isinstance(shape, tuple) and len(shape) == 3 and min(shape) >= 0,
            f"noise_shape must be (draws, L, Dz), three integers of at least 0, got {shape!r}",
        )
        if self.reference is not None:
            for name in ("specification", "horizons", "noise_shape"):
                own, other = getattr(engine, name), getattr(self.reference, name)
                _require(own == other, f"{name} must be that of the reference, {other}, got {own}")
        self.tolerance = TOLERANCES[engine.precision] if tolerance is None else tolerance
        self.lines["engine"] = f"{engine.name}, {engine.precision}, noise {shape}"

    def inputs(self, observation: Arrays | None) -> None:
        """Draw the observations and the noise."""
        rng, steps, rows = np.random.default_rng(self.seed), self.engine.horizons.observation, max(OTHER_ROWS)
        streams = self.engine.specification.observations
        self.observation = observation or {s.name: _draw(s, (rows, steps, *s.shape), rng) for s in streams}
        draws, *shape = self.engine.noise_shape
        self.noise = rng.standard_normal((draws, rows, *shape), dtype=np.float32)

    def chunks(self, half_range: NDArray[np.floating] | None) -> None:
        """A chunk has the promised shape and type, and predicting leaves the input as it was."""
        observation, noise = self._first(ROWS)
        copies = {name: values.copy() for name, values in observation.items()} | {"the noise": noise.copy()}
        chunk: Any = self.engine.predict(observation, noise)
        size, steps = self.engine.specification.action.size, self.engine.horizons.prediction
        is_array = isinstance(chunk, np.ndarray)
        _require(
            is_array and (chunk.shape, chunk.dtype.name) == ((ROWS, steps, size), "float32"),
            f"predict must return a float32 array (B, Tp, Da) of shape {(ROWS, steps, size)}, got "
            + (f"{chunk.dtype} of shape {chunk.shape}" if is_array else type(chunk).__name__),
        )
        _require(np.isfinite(chunk).all(), f"chunks must be finite numbers, got {chunk[~np.isfinite(chunk)][:3]}")
        inputs = {**observation, "the noise": noise}
        changed = [name for name, values in inputs.items() if not np.array_equal(values, copies[name])]
        _require(not changed, f"predict must not write to its input, but changed {changed}: copy it first")
        stream = self.engine.specification.action
        if half_range is None and stream.low:
            half_range = np.subtract(stream.high, stream.low) / 2
        reach = np.ptp(chunk, axis=(0, 1)) / 2
        self.half_range = np.where(reach > 0, reach, 1.0) if half_range is None else np.asarray(half_range)
        self.free = chunk.copy()
        self._agree(observation, noise, (), chunk, "without guidance")
        self.lines["chunks"] = f"{chunk.shape}, float32"

    def repetition(self) -> None:
        """The same input gives the same bits, and a returned chunk stays as it is."""
        observation, noise = self._first(ROWS)
        first = self.engine.predict(observation, noise)
        again = self.engine.predict(observation, noise)
        _require(
            np.array_equal(first, again),
            "the same observation and the same noise must give the same chunk to the last bit: take all randomness "
            "from the noise",
        )
        self.engine.predict({name: values[::-1].copy() for name, values in observation.items()}, noise)
        _require(
            np.array_equal(first, again) and np.array_equal(first, self.free),
            "a returned chunk must stay as it is, but a later prediction changed it: return a copy of the buffer",
        )
        self.lines["repetition"] = "same bits"

    def rows(self) -> None:
        """Any number of rows; the chunk of a row depends on no other row."""
        worst = 0.0
        for rows in OTHER_ROWS:
            chunk = self.engine.predict(*self._first(rows))
            shared = min(rows, ROWS)
            worst = max(worst, self._difference(chunk[:shared], self.free[:shared]))
            _require(
                worst <= self.tolerance,
                f"a row must not depend on the others, but in a batch of {rows} instead of {ROWS} rows it differs by "
                f"{worst:.2g} half ranges, of which {self.tolerance:g} is allowed",
            )
        observation, noise = self._first(ROWS)
        last = {name: values[-1:] for name, values in observation.items()}
        apart = self._difference(self.engine.predict(last, noise[:, -1:]), self.free[-1:])
        _require(
            apart <= self.tolerance,
            f"a row must not depend on its place, but row {ROWS - 1} alone differs by {apart:.2g} half ranges, of "
            f"which {self.tolerance:g} is allowed",
        )
        self.lines["rows"] = f"{', '.join(map(str, sorted((ROWS, *OTHER_ROWS))))}: differ by {max(worst, apart):.1e}"

    def weightless_prefix(self) -> None:
        """A prefix without weight changes nothing."""
        chunk = self._guided(self._prefix(()), "by a prefix without weight")
        _require(
            np.array_equal(chunk, self.free),
            "a prefix without weight must change not a bit, but the chunk differs by "
            f"{self._difference(chunk, self.free):.2g} half ranges",
        )

    def prefix(self) -> None:
        """Held steps are the planned actions, whatever the limit, and a prefix guides each row by its own plan."""
        for options in ({}, {"limit": 0.3}):
            prefix = self._prefix((1.0, 1.0, 0.5, 0.2), **options)
            chunk = self._guided(prefix, f"by a prefix of limit {prefix.limit:g}")
            apart = self._difference(chunk[:, :2], prefix.actions[:, :2])
            _require(
                apart <= 1e-4,
                f"steps of weight 1 must be the planned actions, but differ by {apart:.2g} half ranges: apply "
                "`Guidance.end` in fp32",
            )
        self.lines["prefix"] = "is followed"

    def warm_start(self) -> None:
        """A warm start leaves out denoising steps."""
        for start in (0.5, 0.01):
            self._guided(self._prefix((), start=start), f"by a warm start of {start:g}")
        self.lines["warm start"] = "works"

    def gradient(self) -> None:
        """Exact guidance works, or raises ValueError."""
        prefix = self._prefix((1.0, 0.5), exact=True)
        try:
            self.engine.predict(*self._first(ROWS), [prefix])
        except ValueError as error:
            self.lines["exact guidance"] = f"refused: {error}"
        else:
            self._guided(prefix, "by an exact prefix")
            self.lines["exact guidance"] = "works"

    def misuse(self) -> None:
        """Input that does not fit raises ValueError."""
        observation, noise = self._first(ROWS)
        name, values = next(iter(observation.items()))
        rest = {key: value for key, value in observation.items() if key != name}
        plan = self._prefix((1.0,))
        wrong: dict[str, tuple[Arrays, NDArray[Any], Sequence[Guidance]]] = {
            f"without the stream {name!r}": (rest, noise, ()),
            "with a stream of no specification": (observation | {f"{name}_": values}, noise, ()),
            f"with {name!r} of one step too many": (rest | {name: np.repeat(values, 2, axis=1)}, noise, ()),
            "with noise of one row less": (observation, noise[:, 1:], ()),
            "with one draw of noise too many": (observation, np.zeros((len(noise) + 1, *noise.shape[1:]), "f4"), ()),
            "with a plan of one row less": (observation, noise, [Prefix(plan.actions[1:], plan.weights[1:])]),
        }
        if rest:
            wrong[f"with {name!r} of one row less"] = rest | {name: values[1:]}, noise, ()
        for stream in self.engine.specification.observations:
            if stream.is_image:
                scaled = observation[stream.name].astype(np.float32) / 255
                wrong[f"with {stream.name!r} in float32"] = observation | {stream.name: scaled}, noise, ()
        for label, arguments in wrong.items():
            _check_refused(label, lambda arguments=arguments: self.engine.predict(*arguments))
        self.lines["wrong input"] = f"refused, {len(wrong)} kinds"

    def _first(self, rows: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """The first rows of the observations and of their noise."""
        return {name: values[:rows].copy() for name, values in self.observation.items()}, self.noise[:, :rows].copy()

    def _prefix(self, weights: Sequence[float], **options: Any) -> Prefix:
        """A plan for every row: the chunk of another row, held by these weights at its start."""
        rows, steps, _ = self.free.shape
        padded = np.zeros((rows, steps), np.float32)
        padded[:, : len(weights)] = weights[:steps]
        return Prefix(np.roll(self.free, 1, axis=0), padded, **options)

    def _guided(self, prefix: Prefix, label: str) -> NDArray[Any]:
        observation, noise = self._first(ROWS)
        chunk = self.engine.predict(observation, noise, [prefix])
        _require(
            chunk.shape == self.free.shape and np.isfinite(chunk).all(),
            f"a chunk guided {label} must be {self.free.shape} finite numbers, got shape {chunk.shape}",
        )
        self._agree(observation, noise, [prefix], chunk, f"guided {label}")
        return chunk

    def _agree(
        self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance], chunk: NDArray[Any], label: str
    ) -> None:
        if self.reference is None:
            return
        apart = self._difference(chunk, self.reference.predict(observation, noise, guidance))
        _require(
            apart <= self.tolerance,
            f"a chunk {label} must agree with {self.reference.name}, but differs by {apart:.2g} half ranges, of which "
            f"{self.tolerance:g} is allowed",
        )
        self.worst = max(self.worst, apart)
        self.lines["agreement"] = f"differs from {self.reference.name} by at most {self.worst:.1e} half ranges"

    def _difference(self, chunk: NDArray[Any], expected: NDArray[Any]) -> float:
        return difference(chunk, expected, self.half_range)


def _draw(stream: Stream, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Uniform values within the limits of a stream, or within [-1, 1]."""
    if stream.is_image:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    low, high = (np.array(stream.low), np.array(stream.high)) if stream.low else (-1.0, 1.0)
    return stream.cast(low + (high - low) * rng.uniform(0, 1, shape))


def _check_refused(label: str, predict: Callable[[], object]) -> None:
    try:
        predict()
    except ValueError:
        return
    except Exception as error:
        raise ValueError(
            f"a prediction {label} must raise ValueError, got {type(error).__name__}: {error}; check the input first"
        ) from error
    raise ValueError(f"a prediction {label} must raise ValueError, but gave a chunk: check the input first")


def _require(is_kept: Any, message: str) -> None:
    if not is_kept:
        raise ValueError(message)
