"""Robots and the limits of their commands: plain values whose `build` makes a `Robot` or a `Safety`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...envs.catalogue import imported_module, known_task, load_task
from ...specification import Specification, nearest
from ..checks import LARGEST_SEED, LONGEST_MS, PathName, not_negative, positive

if TYPE_CHECKING:
    from ...control.safety import Safety
    from ...robots.feetech.arm import SerialArm
    from ...robots.interface import Robot
    from ...robots.simulated import SimulatedRobot


ROBOT = ("specification", "rate", "actuation_delay", "start", "read", "position", "command", "stop", "close")
"""What every `Robot` has."""


@dataclass(kw_only=True)
class SafetyConfig:
    """The limits of commands, as multiples of the range of each action dimension; see `control.safety`."""

    speed: float = 2.0
    """Highest speed, in ranges per second."""

    lost_speed: float = 0.2
    """Highest speed while the policy is lost and on_lost=slow, in ranges per second."""

    acceleration: float = 40.0
    """Highest acceleration, in ranges per second squared."""

    jump: float = 1.0
    """Longest way from the last command to a target, in ranges; 1 allows a gripper to go from end to end."""

    workspace: list[Any] | None = None
    """Limits of the commands, [[low], [high]], in units of the action; null for the limits of the action."""

    stale_ms: float = 500.0
    """Oldest observation that the robot acts on, in milliseconds."""

    patience_ms: float = 2000.0
    """How long the robot is held before it is stopped, in milliseconds."""

    def __post_init__(self) -> None:
        positive(self, "speed", "lost_speed", "jump", most=1e3)
        positive(self, "acceleration", most=1e6)
        positive(self, "stale_ms", "patience_ms", most=LONGEST_MS)
        if self.workspace is not None and (len(self.workspace) != 2 or not all(map(_are_positions, self.workspace))):
            raise ValueError(f"safety.workspace must be [[low], [high]], numbers below 1e9, got {self.workspace}")

    def build(self, specification: Specification, rate: float) -> Safety:
        """For a robot that takes `rate` commands per second. Raises ValueError if its action has no limits."""
        from ...control.safety import Limits, Safety

        size = np.subtract(specification.action.high, specification.action.low)
        limits = Limits.of(
            specification,
            speed=self.speed * size,
            acceleration=self.acceleration * size,
            jump=self.jump * size,
            workspace=None if self.workspace is None else (self.workspace[0], self.workspace[1]),
        )
        return Safety(
            limits,
            1 / rate,
            stale_s=self.stale_ms / 1e3,
            patience_s=self.patience_ms / 1e3,
            slow_speed=self.lost_speed * size,
        )


def _are_positions(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) and abs(value) < 1e9 for value in values)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


@dataclass(kw_only=True)
class SimulatedRobotConfig:
    """A simulated task in its own process, which behaves like a real robot."""

    task: str | None = None
    """Task to simulate; null for the task of the policy."""

    sensor_delay_ms: float = 0.0
    """Time from the capture of a reading to its arrival, in milliseconds."""

    actuation_delay_ms: float = 0.0
    """Time from a command to its effect, in milliseconds."""

    jitter_ms: float = 0.0
    """Upper bound of a random time added to each delay, in milliseconds."""

    dropped: float = 0.0
    """Fraction of the readings that are lost."""

    seed: int = 0
    """Seed of the random delays and losses."""

    def __post_init__(self) -> None:
        not_negative(self, "sensor_delay_ms", "actuation_delay_ms", "jitter_ms", most=60_000)
        not_negative(self, "dropped", most=1)
        not_negative(self, "seed", most=LARGEST_SEED)

    def build(self, described: Mapping[str, Any], *, rate: float) -> SimulatedRobot:
        """For `rate` commands per second. described: the manifest of the policy, empty if there is none."""
        from ...robots.simulated import SimulatedRobot

        if not described and not self.task:
            raise ValueError("a simulated robot without a policy needs a task: give robot.task=")
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
    """An arm of six serial-bus servos, such as an SO-100 or SO-101; see docs/your_robot.md."""

    port: PathName
    """Name of the serial port."""

    calibration: PathName
    """Calibration file; see `robots.feetech.calibration`."""

    actuation_delay_ms: float = 0.0
    """Time from a command to its effect, in milliseconds."""

    release: bool = False
    """Whether the joints lose their torque in the end, so that somebody must support the arm; false holds them."""

    def __post_init__(self) -> None:
        not_negative(self, "actuation_delay_ms", most=60_000)

    def build(self, described: Mapping[str, Any], *, rate: float) -> SerialArm:
        """For `rate` commands per second, with the control period of the policy if there is one."""
        from ...robots.feetech.arm import SerialArm

        period = {"control_dt": described["specification"].control_dt} if described else {}
        return SerialArm(
            self.port,
            self.calibration,
            rate=rate,
            actuation_delay=self.actuation_delay_ms / 1e3,
            release=self.release,
            **period,
        )


@dataclass(kw_only=True)
class DriverConfig:
    """Your own driver."""

    make: str
    """Function that makes the `Robot`, "package.module:function"; it is called with `rate`, the commands per second."""

    def build(self, described: Mapping[str, Any], *, rate: float) -> Robot:
        """For `rate` commands per second. Raises ValueError unless the function exists and makes a `Robot`."""
        module, colon, name = self.make.partition(":")
        if not (module and colon) or module.startswith("."):
            raise ValueError(f"robot.make must be package.module:function, got {self.make!r}")
        imported = imported_module(module, f"robot.make={self.make}")
        make = getattr(imported, name, None)
        if not callable(make):
            has = f"{make!r} as {name!r}" if hasattr(imported, name) else f"no {name!r}"
            functions = [key for key, value in vars(imported).items() if inspect.isfunction(value)]
            raise ValueError(f"robot.make must be a function, but {module} has {has}: {nearest(name, functions)}")
        try:
            with contextlib.suppress(ValueError):  # of what has no signature
                inspect.signature(make).bind(rate=rate)
        except TypeError as error:
            raise ValueError(f"robot.make={self.make} must be a function that takes rate=: {error}") from None
        try:
            robot: Any = make(rate=rate)
        except (ValueError, OSError, ImportError):
            raise
        except Exception as error:
            raise ValueError(f"robot.make={self.make} failed: {type(error).__name__}: {error}") from error
        if missing := [name for name in ROBOT if not hasattr(robot, name)]:
            raise ValueError(
                f"robot.make={self.make} must return a Robot, but a {type(robot).__name__} has no "
                f"{', '.join(missing)}: see docs/your_robot.md"
            )
        return robot


ROBOTS: dict[str, Any] = {
    "simulated": SimulatedRobotConfig,
    "serial_arm": SerialArmConfig,
    "driver": DriverConfig,
}
"""The name of a robot -> its configuration."""
