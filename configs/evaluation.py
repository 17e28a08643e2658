"""The configurations of the commands that measure: `recede evaluate`, `compare` and `replay`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from .checks import known_engine, not_negative, positive
from .components.executions import RecedingConfig, check_executions
from .packages import CommandConfig


@dataclass(kw_only=True)
class EvaluateConfig(CommandConfig):
    """Measure a policy in closed loop.

    run: a run folder or a checkpoint folder. checkpoint: which of a run's, "last" or "best"; the best was chosen on
    seeds from 50,000 on, and is not measured on those. task: to evaluate in, if not the one that it was trained for.
    episodes: how many, on the seeds from `first_seed` on. seed: of the policy's noise. workers: processes that step
    environments. parallel: episodes under way at once. videos: episodes to film. out: the folder of the results; beside
    the policy where it is not given. sampler: to denoise with, where it is not the one that the policy was trained to
    have. execution: how chunks follow one another. delay_ms: from the request of a chunk to its arrival, in which the
    robot goes on; rounded up to whole control steps. engine: what runs the policy: eager (PyTorch, the default),
    cuda_graph, onnx, openvino, openvino_fp32, or auto for the fastest here.

    run may be a folder of `recede export` too, which has its sampler and its engine already.

    Several of these, execution=[receding,rtc] delay_ms=[0,200], are all measured, each pair in a folder of its own.
    """

    run: str
    checkpoint: str = "last"
    episodes: int = 50
    first_seed: int = 100_000
    seed: int = 0
    task: str | None = None
    device: str = "auto"
    workers: int = 0
    parallel: int = 64
    videos: int = 3
    out: str | None = None
    sampler: Any = None
    execution: dict[str, Any] = field(default_factory=lambda: {"receding": RecedingConfig()})
    delay_ms: Any = 0
    engine: str | None = None

    def __post_init__(self) -> None:
        known_engine(self.engine)
        check_executions(self.execution)
        self.delays  # noqa: B018 - it raises
        positive(self, "episodes", "parallel")
        not_negative(self, "first_seed", "seed", "workers", "videos")
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")

    @property
    def pairs(self) -> list[EvaluateConfig]:
        """Of every execution and every delay the configuration of its own."""
        changes = [
            {"execution": {name: each}, "delay_ms": ms} for name, each in self.execution.items() for ms in self.delays
        ]
        return [replace(self, **change) for change in changes]  # pyright: ignore[reportReturnType]

    @property
    def delays(self) -> list[float]:
        """The delays in milliseconds, of which one may stand alone. Raises ValueError for others than numbers >= 0."""
        values = self.delay_ms if isinstance(self.delay_ms, list) else [self.delay_ms]
        if not values or not all(isinstance(value, int | float) and 0 <= value < math.inf for value in values):
            raise ValueError(f"delay_ms must be milliseconds of at least 0, or a list of them, got {self.delay_ms}")
        return [float(value) for value in values]


@dataclass(kw_only=True)
class ReplayConfig(CommandConfig):
    """Apply the recorded actions of `dataset` open loop in `task` and compare; `episodes` 0 stands for all of them."""

    task: str
    dataset: str
    episodes: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "episodes")


@dataclass(kw_only=True)
class CompareConfig(CommandConfig):
    """Put many evaluations into one table.

    results: a folder, of which every `evaluation.json` in it and below is taken, or a file that `lines` wrote.
    out: a markdown file to write the table to.
    lines: a file, results.jsonl, to add the evaluations to, a line each; one of the same path is replaced.
    """

    results: str
    out: str | None = None
    lines: str | None = None

    def __post_init__(self) -> None:
        if self.lines is not None and not self.lines.endswith(".jsonl"):
            raise ValueError(f"lines={self.lines} must end in .jsonl, a file with a line of JSON for an evaluation")
