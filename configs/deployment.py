"""The configurations of `recede control` and `recede serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from .checks import known_engine, not_negative, positive
from .components.executions import RecedingConfig, check_executions
from .components.robots import SafetyConfig, SimulatedRobotConfig
from .packages import CommandConfig


@dataclass(kw_only=True)
class ControlConfig(CommandConfig):
    """Control a robot in real time; any key ends an episode and stops the robot, an interrupt ends all of them.

    run: a run folder, a checkpoint folder or a folder of `recede export`; or ws://host:port of `recede serve`, where
    the policy then runs, with the checkpoint, the sampler and the engine that it was given there. checkpoint: which of
    a run's, "last" or "best". robot: what is controlled. rate: commands a second. episodes: how many, in simulation on
    the seeds from `first_seed` on. seconds: that an episode takes at most. seed: of the policy's noise. out: the folder
    of the log, new or empty; runs/control/DATE-TIME where it is not given. execution: how chunks follow one another.
    sampler: to denoise with, where it is not the policy's own. engine: what runs the policy, in a process of its own,
    as in `recede evaluate`: eager, where it is not given, is PyTorch with one thread of the CPU, and cuda_graph a GPU.

    safety: what is commanded at most. speed, acceleration and jump are shares of the range of each dimension of the
    action (a second, a second squared); workspace is [[low, ...], [high, ...]] in its units. Observations older than
    stale_ms are not acted on, and a robot that was held for patience_ms is stopped.
    """

    run: str
    checkpoint: str = "last"
    robot: Any = field(default_factory=SimulatedRobotConfig)
    rate: float = 100.0
    episodes: int = 10
    first_seed: int = 100_000
    seconds: float | None = None
    seed: int = 0
    out: str | None = None
    execution: dict[str, Any] = field(default_factory=lambda: {"receding": RecedingConfig()})
    sampler: Any = None
    engine: str | None = None
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    def __post_init__(self) -> None:
        positive(self, "episodes", "rate")
        not_negative(self, "first_seed", "seed")
        if self.seconds is not None:
            positive(self, "seconds")
        check_executions(self.execution, most=1)
        known_engine(self.engine)
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if self.is_remote and (self.sampler is not None or self.engine is not None or self.checkpoint != "last"):
            raise ValueError(
                f"{self.run} is served with its checkpoint, its sampler and its engine: leave them out here, and give "
                "them to recede serve"
            )

    @property
    def is_remote(self) -> bool:
        """Whether the policy is one that `recede serve` offers over the network."""
        return self.run.startswith(("ws://", "wss://"))


@dataclass(kw_only=True)
class ServeConfig(CommandConfig):
    """Serve a policy to robots over the network; `recede control ws://host:port` is led by it.

    run: a run folder, a checkpoint folder, or a folder of `recede export`, which has its sampler and its engine
    already. checkpoint: which of a run's, "last" or "best". sampler: to denoise with, where it is not the policy's own.
    engine: what runs the policy, as in `recede evaluate`. device: of torch, or auto for a GPU where there is one. seed:
    of the noise, beside the number of each session.

    host: the address of this machine to listen at; any but the loopback needs a token in the environment variable
    RECEDE_TOKEN, which clients must then have too. port: 0 takes a free one. max_sessions: robots that are served at
    once. max_batch: sessions that are predicted together.
    """

    run: str
    checkpoint: str = "last"
    sampler: Any = None
    engine: str | None = None
    device: str = "auto"
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 8765
    max_sessions: int = 16
    max_batch: int = 8

    def __post_init__(self) -> None:
        known_engine(self.engine)
        positive(self, "max_sessions", "max_batch")
        not_negative(self, "seed")
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie between 0 and 65535, got {self.port}")

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"
