"""Robots and the limits of what is commanded: plain values whose `build` makes a `Robot` or a `Safety`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ...envs.catalogue import known_task, load_task
from ...specification import Specification
from ..checks import not_negative, positive

if TYPE_CHECKING:
    from ...control.safety import Safety
    from ...robots.feetech.arm import SerialArm
    from ...robots.interface import Robot
    from ...robots.simulated import SimulatedRobot


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
        from ...control.safety import Limits, Safety

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
        from ...robots.simulated import SimulatedRobot

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

    port: its name. calibration: a file, see `robots.feetech.calibration`. actuation_delay_ms: from a command to its
    effect. release: whether the arm is let go in the end, which must then be supported; otherwise it holds.
    """

    port: str
    calibration: str
    actuation_delay_ms: float = 0.0
    release: bool = False

    def __post_init__(self) -> None:
        not_negative(self, "actuation_delay_ms")

    def build(self, described: Mapping[str, Any], *, rate: float) -> SerialArm:
        """For `rate` commands a second, with the control period of the policy."""
        from ...robots.feetech.arm import SerialArm

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
    a `robots.interface.Robot`.
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


ROBOTS: dict[str, Any] = {
    "simulated": SimulatedRobotConfig,
    "serial_arm": SerialArmConfig,
    "driver": DriverConfig,
}
"""Name -> what may be controlled."""
