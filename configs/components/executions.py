"""How chunks become actions: plain values whose `build` makes an `Execution`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar

from ...execution import guided, overlapping, receding
from ...execution.interface import Execution
from ...policy.denoising.guidance import Prefix
from ...specification import Horizons
from ..checks import MOST_CHUNK, not_negative, positive


@dataclass(kw_only=True)
class ExecutionConfig:
    """The fields of every execution."""

    kind: ClassVar[Callable[..., Execution]]

    every: int | None = None
    """Control steps from one request for a chunk to the next; null for the action horizon."""

    def __post_init__(self) -> None:
        if self.every is not None:
            positive(self, "every", most=MOST_CHUNK)

    def build(self, horizons: Horizons, *, delay: int = 0, hold: Sequence[str] = ()) -> Execution:
        """Make the execution of one episode, robot or session.

        delay: steps that a chunk is expected to take until a delay has been measured. hold: that of the action stream.
        """
        return type(self).kind(horizons, delay=delay, hold=hold, **asdict(self))


@dataclass(kw_only=True)
class RecedingConfig(ExecutionConfig):
    """Execute the first actions of a chunk, stop, and plan again."""

    kind: ClassVar[Any] = receding.RecedingHorizon


@dataclass(kw_only=True)
class AsyncReplaceConfig(ExecutionConfig):
    """Execute the old chunk until the new one arrives, and then the new one."""

    kind: ClassVar[Any] = overlapping.AsyncReplace


@dataclass(kw_only=True)
class CrossFadeConfig(ExecutionConfig):
    """Change linearly from the old chunk to the new one."""

    kind: ClassVar[Any] = overlapping.CrossFade

    steps: int = 4
    """Control steps that the change from the old chunk to the new one takes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "steps", most=MOST_CHUNK)


@dataclass(kw_only=True)
class TemporalEnsembleConfig(ExecutionConfig):
    """Average all chunks that plan the same step (ACT)."""

    kind: ClassVar[Any] = overlapping.TemporalEnsemble

    every: int | None = 1
    """Control steps from one request for a chunk to the next; null for the action horizon."""

    decay: float = 0.01
    """The i-th oldest chunk has the weight exp(-decay * i); 0 weighs all chunks alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "decay", most=1000)


@dataclass(kw_only=True)
class RealTimeChunkingConfig(ExecutionConfig):
    """Sample each chunk so that it continues the last one (real-time chunking)."""

    kind: ClassVar[Any] = guided.RealTimeChunking

    limit: float = Prefix.limit
    """Upper bound of the weight of the correction towards the last chunk."""

    exact: bool = Prefix.exact
    """Whether to take the gradient through the network, which only PyTorch can; false approximates it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "limit", most=1e6)


@dataclass(kw_only=True)
class WarmStartConfig(ExecutionConfig):
    """Start sampling each chunk from the last one with noise added."""

    kind: ClassVar[Any] = guided.WarmStart

    start: float = 0.4
    """Fraction of the denoising steps to run, above 0; 1 starts from pure noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.start <= 1:
            raise ValueError(
                f"start must be above 0 and at most 1, a fraction of the denoising steps, got {self.start}"
            )


EXECUTIONS: dict[str, Any] = {
    "receding": RecedingConfig,
    "async_replace": AsyncReplaceConfig,
    "crossfade": CrossFadeConfig,
    "temporal_ensemble": TemporalEnsembleConfig,
    "rtc": RealTimeChunkingConfig,
    "warm_start": WarmStartConfig,
}
"""The name of an execution -> its configuration."""


def check_executions(execution: dict[str, Any], *, most: int | None = None) -> None:
    """Raises ValueError unless the command names at least one execution, and at most `most`, and sets their fields."""
    for name, option in execution.items():
        if not is_dataclass(option):
            raise ValueError(
                f"execution.{name} must be set by its keys, as in execution.{name}.every=2, got {option!r}"
            )
    if not execution or (most is not None and len(execution) > most):
        number = "at least one" if most is None else "one"
        raise ValueError(
            f"execution must name {number} of {', '.join(EXECUTIONS)}, got {', '.join(execution) or 'none'}"
        )
