"""How action chunks follow one another: plain values whose `build` makes an `Execution`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ...execution import guided, overlapping, receding
from ...execution.interface import Execution
from ...specification import Horizons
from ..checks import not_negative, positive


@dataclass(kw_only=True)
class ExecutionConfig:
    """The values of one kind of execution. every: steps from one request to the next, the action horizon where it is
    not given.
    """

    kind: ClassVar[Callable[..., Execution]]
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None:
            positive(self, "every")

    def build(self, horizons: Horizons, *, delay: int = 0, hold: Sequence[str] = ()) -> Execution:
        """For one episode, robot or session; delay: the steps that its first chunks are expected to take.

        hold: that of the action stream.
        """
        return type(self).kind(horizons, delay=delay, hold=hold, **asdict(self))


@dataclass(kw_only=True)
class RecedingConfig(ExecutionConfig):
    """Stop, plan, and execute the first actions of the plan."""

    kind: ClassVar[Any] = receding.RecedingHorizon


@dataclass(kw_only=True)
class AsyncReplaceConfig(ExecutionConfig):
    """Go on with the old chunk until the new one comes, then with that."""

    kind: ClassVar[Any] = overlapping.AsyncReplace


@dataclass(kw_only=True)
class CrossFadeConfig(ExecutionConfig):
    """From the old chunk to the new one within so many `steps`."""

    kind: ClassVar[Any] = overlapping.CrossFade
    steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "steps")


@dataclass(kw_only=True)
class TemporalEnsembleConfig(ExecutionConfig):
    """The average of all chunks, each newer one counting exp(-`decay`) of the last."""

    kind: ClassVar[Any] = overlapping.TemporalEnsemble
    every: int | None = 1
    decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "decay")


@dataclass(kw_only=True)
class RealTimeChunkingConfig(ExecutionConfig):
    """Chunks that are sampled to go on from the last one; `exact` takes the gradient, `limit` bounds the pull."""

    kind: ClassVar[Any] = guided.RealTimeChunking
    limit: float = 5.0
    exact: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "limit")


@dataclass(kw_only=True)
class WarmStartConfig(ExecutionConfig):
    """Chunks that are denoised from the last one, in the last share `start` of the denoising steps."""

    kind: ClassVar[Any] = guided.WarmStart
    start: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be above 0 and at most 1, a share of the denoising steps, got {self.start}")


EXECUTIONS: dict[str, Any] = {
    "receding": RecedingConfig,
    "async_replace": AsyncReplaceConfig,
    "crossfade": CrossFadeConfig,
    "temporal_ensemble": TemporalEnsembleConfig,
    "rtc": RealTimeChunkingConfig,
    "warm_start": WarmStartConfig,
}
"""Name -> how chunks follow one another."""


def check_executions(execution: dict[str, Any], *, most: int | None = None) -> None:
    """Raises ValueError unless at least one execution is named, and at `most` so many."""
    if not execution or (most is not None and len(execution) > most):
        number = "at least one" if most is None else "one"
        raise ValueError(
            f"execution must name {number} of {', '.join(EXECUTIONS)}, got {', '.join(execution) or 'none'}"
        )
