"""A policy on a robot: plain values, and what they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..envs.catalogue import known_task, load_task
from ..specification import Specification
from .checks import known_engine, not_negative, positive
from .executions import RecedingConfig, check_executions
from .packages import CommandConfig

if TYPE_CHECKING:
    from ..control.arm import SerialArm
    from ..control.robot import Robot
    from ..control.safety import Safety
    from ..control.simulated import SimulatedRobot


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
class SimulatedRobotConfig:
    """A task in simulation, in a process of its own, behaving like a real robot.

    task: where it is not the one that the policy was trained for. sensor_delay_ms, actuation_delay_ms, jitter_ms: from
    the capture of a reading to its arrival, from a command to its effect, and what is added to each of them at most.
    dropped: share of the readings that are lost. seed: of these.
    """

    task: str | None = None
    sensor_delay_ms: float = 0.0
    actuation_delay_ms: float = 0.0
    jitter_ms: float = 0.0
    dropped: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "sensor_delay_ms", "actuation_delay_ms", "jitter_ms", "dropped", "seed")

    def build(self, described: Mapping[str, Any], *, rate: float) -> SimulatedRobot:
        """For `rate` commands a second. described: what the policy's checkpoint says."""
        from ..control.simulated import SimulatedRobot

        task = load_task(self.task) if self.task else known_task(described["task"], key="robot.task")
        return SimulatedRobot(
            task,
            rate=rate,
            sensor_delay=self.sensor_delay_ms / 1e3,
            actuation_delay=self.actuation_delay_ms / 1e3,
            jitter=self.jitter_ms / 1e3,
            dropped=self.dropped,
            seed=self.seed,
        )


@dataclass(kw_only=True)
class SerialArmConfig:
    """An arm of six serial-bus servos, as the SO-100 and SO-101 are; see docs/your_robot.md.

    port: its name. calibration: a file, see `control.calibration`. actuation_delay_ms: from a command to its effect.
    release: whether the arm is let go in the end, which must then be supported; otherwise it holds.
    """

    port: str
    calibration: str
    actuation_delay_ms: float = 0.0
    release: bool = False

    def __post_init__(self) -> None:
        not_negative(self, "actuation_delay_ms")

    def build(self, described: Mapping[str, Any], *, rate: float) -> SerialArm:
        """For `rate` commands a second, with the control period of the policy."""
        from ..control.arm import SerialArm

        return SerialArm(
            self.port,
            self.calibration,
            rate=rate,
            control_dt=described["specification"].control_dt,
            actuation_delay=self.actuation_delay_ms / 1e3,
            release=self.release,
        )


@dataclass(kw_only=True)
class DriverConfig:
    """Your own driver. make: the "package.module:function" that is called with `rate`, the commands a second, and gives
    a `control.robot.Robot`.
    """

    make: str

    def build(self, described: Mapping[str, Any], *, rate: float) -> Robot:
        """For `rate` commands a second. Raises ValueError where there is no such function."""
        module, colon, name = self.make.partition(":")
        if not colon:
            raise ValueError(f"robot.make must be package.module:function, got {self.make!r}")
        found = getattr(import_module(module), name, None)
        if not callable(found):
            raise ValueError(f"robot.make={self.make} must be a function, but {module} has {found!r} as {name!r}")
        return found(rate=rate)  # pyright: ignore[reportReturnType]


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


ROBOTS: dict[str, Any] = {
    "simulated": SimulatedRobotConfig,
    "serial_arm": SerialArmConfig,
    "driver": DriverConfig,
}
"""Name -> what may be controlled."""
