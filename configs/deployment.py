"""A policy on a robot: plain values, and what they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..specification import Specification
from .checks import not_negative, positive
from .executions import RecedingConfig, check_executions

if TYPE_CHECKING:
    from ..control.safety import Safety


@dataclass(kw_only=True)
class SafetyConfig:
    """What is commanded at most, as shares of the range of each dimension of the action; see `control.safety`.

    speed: ranges a second. acceleration: ranges a second squared. jump: from the last command to a target, ranges; a
    gripper's target may go from one end to the other, so that 1, everything, is the default. workspace: [[low], [high]]
    within the limits of the action. stale_ms: observations that are older are not acted on. patience_ms: how long the
    robot may be held before it is stopped.
    """

    speed: float = 2.0
    acceleration: float = 40.0
    jump: float = 1.0
    workspace: list[Any] | None = None
    stale_ms: float = 500.0
    patience_ms: float = 2000.0

    def __post_init__(self) -> None:
        positive(self, "speed", "acceleration", "jump", "stale_ms", "patience_ms")
        if self.workspace is not None and len(self.workspace) != 2:
            raise ValueError(f"safety.workspace must be [[low], [high]], got {self.workspace}")

    def build(self, specification: Specification, rate: float) -> Safety:
        """For a robot that takes `rate` commands a second. Raises ValueError where its action has no limits."""
        from ..control.safety import Limits, Safety

        size = np.subtract(specification.action.high, specification.action.low)
        limits = Limits.of(
            specification,
            speed=self.speed * size,
            acceleration=self.acceleration * size,
            jump=self.jump * size,
            workspace=None if self.workspace is None else (self.workspace[0], self.workspace[1]),
        )
        return Safety(limits, 1 / rate, stale_s=self.stale_ms / 1e3, patience_s=self.patience_ms / 1e3)


@dataclass(kw_only=True)
class ControlConfig:
    """Control a robot in real time; here one that is simulated in a process of its own, and behaves like a real one.

    run: a run folder or a checkpoint folder, or ws://host:port of `recede serve`, where the policy then runs, with the
    checkpoint, the sampler and the engine that it was given there. checkpoint: which of a run's, "last" or "best".
    task: to simulate, where it is not the one that the policy was trained for. episodes: how many, on the seeds from
    `first_seed` on, each until it is over. seed: of the policy's noise and of the disturbances. rate: commands a
    second. out: where to write `control.json`. execution: how chunks follow one another. sampler: to denoise with,
    where it is not the policy's own. engine: what runs the policy, in a process of its own: as in `recede evaluate`,
    and run may be a folder of `recede export` too.

    sensor_delay_ms, actuation_delay_ms, jitter_ms: from the capture of a reading to its arrival, from a command to its
    effect, and what is added to each of them at most. dropped: share of the readings that are lost. safety: what is
    commanded at most.
    """

    run: str
    checkpoint: str = "last"
    task: str | None = None
    episodes: int = 10
    first_seed: int = 100_000
    seed: int = 0
    rate: float = 100.0
    out: str | None = None
    execution: dict[str, Any] = field(default_factory=lambda: {"receding": RecedingConfig()})
    sampler: Any = None
    engine: str | None = None
    sensor_delay_ms: float = 0.0
    actuation_delay_ms: float = 0.0
    jitter_ms: float = 0.0
    dropped: float = 0.0
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    def __post_init__(self) -> None:
        positive(self, "episodes", "rate")
        not_negative(self, "first_seed", "seed", "sensor_delay_ms", "actuation_delay_ms", "jitter_ms", "dropped")
        check_executions(self.execution, most=1)
        if self.is_remote and (self.sampler is not None or self.engine is not None or self.checkpoint != "last"):
            raise ValueError(
                f"{self.run} is served with its checkpoint, its sampler and its engine: leave them out here, and give "
                "them to recede serve"
            )

    @property
    def is_remote(self) -> bool:
        """Whether the policy is one that `recede serve` offers over the network."""
        return self.run.startswith(("ws://", "wss://"))
