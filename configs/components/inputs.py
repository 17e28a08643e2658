"""The inputs of a person: plain values whose `build` makes a `Teleoperator`, and the clutch between it and a robot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import LONGEST_MS, PathName, is_loopback, positive, share

if TYPE_CHECKING:
    from ...robots.interface import Robot
    from ...specification import Specification
    from ...teleoperation.clutch import Clutch
    from ...teleoperation.gamepad import Device
    from ...teleoperation.interface import Teleoperator
    from ...teleoperation.leader import LeaderArm
    from ...teleoperation.together import Together


@dataclass(kw_only=True)
class InputConfig:
    """What the configurations of all inputs share: which axis drives what, and the clutch. Derive yours from it."""

    axes: list[str] | None = None
    """Axis of the input that drives each dimension of the action, as [x,-y,none]; null takes those of the same names,
or the first ones."""

    scale: Any = 1.0
    """Units of the action for a unit of the input: one number, or one for each dimension."""

    near: Any = 0.05
    """How near an absolute input must come to the robot before the robot follows, in ranges of the action."""

    step: Any = 0.2
    """Largest way of the input from one reading to the next, in ranges; beyond it the robot is let go."""

    stale_ms: float = 200.0
    """Time without a reading after which the robot is let go, in milliseconds."""

    def __post_init__(self) -> None:
        for name in ("scale", "near", "step"):
            values = getattr(self, name)
            values = values if isinstance(values, list) else [values]
            if not all(type(value) in (int, float) and abs(value) < 1e9 for value in values):
                raise ValueError(f"input.{name} must be a number below 1e9 or a list of them, got {values}")
        positive(self, "stale_ms", most=LONGEST_MS)

    def build(self, robot: Robot) -> Teleoperator:
        """The input, for a robot that is not started yet. It may read the robot, to show what it observes."""
        raise NotImplementedError(f"{type(self).__name__} must have a method build(robot) that makes a Teleoperator")

    def clutch(self, teleoperator: Teleoperator, specification: Specification) -> Clutch:
        """The clutch between the input and a robot of that specification."""
        from ...teleoperation.axes import Axes
        from ...teleoperation.clutch import Clutch

        axes = Axes(teleoperator.axes, specification.action, drives=self.axes, scale=self.scale)
        return Clutch(teleoperator.kind, axes, near=self.near, step=self.step, stale_s=self.stale_ms / 1e3)


@dataclass(kw_only=True)
class ExpertInputConfig(InputConfig):
    """The scripted expert of a simulated task as the hands: it drives, begins and decides by itself."""

    near: Any = 1.0
    """How near an absolute input must come to the robot before the robot follows, in ranges of the action."""

    step: Any = 1.0
    """Largest way of the input from one reading to the next, in ranges; beyond it the robot is let go."""

    stale_ms: float = 500.0
    """Time without a reading after which the robot is let go, in milliseconds."""

    after: float = 3.0
    """When taking over: time for which the policy drives before the expert does, again and again, in seconds."""

    seconds: float = 2.0
    """When taking over: time for which the expert then drives, in seconds."""

    if_stuck: bool = False
    """When taking over: only if the score of the simulation has not risen for that time, as somebody who watches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "after", "seconds", most=1e6)

    def build(self, robot: Robot) -> Teleoperator:
        """For a simulated robot. Raises ValueError for any other."""
        from ...robots.simulated import SimulatedRobot
        from ...teleoperation.expert import ExpertHands

        if not isinstance(robot, SimulatedRobot):
            raise ValueError("the expert drives a simulated robot alone: choose robot=simulated, or another input")
        return ExpertHands(robot, after=self.after, seconds=self.seconds, if_stuck=self.if_stuck)


@dataclass(kw_only=True)
class KeyboardInputConfig(InputConfig):
    """The keys of the terminal: two for each dimension of the action, each press a small step."""

    press: Any = 0.01
    """Way of one key press, in ranges of the action: one number, or one for each dimension."""

    step: Any = 1.0
    """Largest way of the input from one reading to the next, in ranges; beyond it the robot is let go."""

    def build(self, robot: Robot) -> Teleoperator:
        """For any robot whose action has limits."""
        from ...teleoperation.keyboard import Keyboard

        action = robot.specification.action
        if not action.low:
            raise ValueError("the action must have limits to be led by hand: give its stream low and high")
        ranges = np.subtract(action.high, action.low)
        return Keyboard(action, np.asarray(self.press) * ranges)


@dataclass(kw_only=True)
class GamepadInputConfig(InputConfig):
    """A gamepad on Linux: its sticks, triggers and bumpers are velocities, and its buttons begin, end and decide."""

    scale: Any = 1.0
    """Factor of the speed: one number, or one for each dimension."""

    device: PathName | None = None
    """Name of the device, as in /dev/input/by-id; null for the only one."""

    speed: float = 0.25
    """Speed of an axis at its end, in ranges of the action per second."""

    dead: float = 0.1
    """Share of the way of an axis that does not count, about its middle."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "speed", most=1e3)
        share(self, "dead")

    def build(self, robot: Robot) -> Device:
        """For any robot whose action has limits."""
        from ...teleoperation.gamepad import Gamepad

        return Gamepad(self.device, dead=self.dead)

    def clutch(self, teleoperator: Teleoperator, specification: Specification) -> Clutch:
        """The clutch between the device and a robot of that specification."""
        action, scale = specification.action, self.scale
        if action.low and np.size(scale) in (1, action.size):
            scale = (np.asarray(scale) * self.speed * np.subtract(action.high, action.low)).tolist()
        return InputConfig.clutch(replace(self, scale=scale), teleoperator, specification)


@dataclass(kw_only=True)
class SpaceMouseInputConfig(GamepadInputConfig):
    """A 3D mouse on Linux: the ways and turns of its cap are velocities, and its buttons begin, end and decide."""

    def build(self, robot: Robot) -> Device:
        """For any robot whose action has limits."""
        from ...teleoperation.gamepad import SpaceMouse

        return SpaceMouse(self.device, dead=self.dead)


@dataclass(kw_only=True)
class BrowserInputConfig(InputConfig):
    """A page in a browser: it shows the robot; keys, mouse, touch and gamepads move it."""

    host: str = "127.0.0.1"
    """Address to serve the page at. For any address but the loopback, the printed address of the page holds a token."""

    port: int = 8770
    """TCP port of the page. 0 takes a free one."""

    stale_ms: float = 300.0
    """Time without a reading after which the robot is let go, in milliseconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise ValueError(f"input.port must be between 0 and 65535, got {self.port}")

    def build(self, robot: Robot) -> Teleoperator:
        """For any robot whose action has limits. Raises ValueError for a token in the environment that is too short."""
        from ...serving.wire import read_token
        from ...teleoperation.browser import Browser

        if not robot.specification.action.low:
            raise ValueError("the action must have limits to be led by hand: give its stream low and high")
        token = None if is_loopback(self.host) else read_token() or token_urlsafe(24)
        return Browser(robot, host=self.host, port=self.port, token=token)


@dataclass(kw_only=True)
class LeaderInputConfig(InputConfig):
    """A second arm of six serial-bus servos, such as an SO-101, without torque: the robot goes where it is."""

    port: PathName
    """Name of the serial port."""

    calibration: PathName
    """Calibration file; see `robots.feetech.calibration`."""

    rate: float = 100.0
    """Readings of the arm per second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rate", most=1e3)

    def build(self, robot: Robot) -> LeaderArm:
        """For a robot with the same joints, or one whose `axes` are named.

        Raises ValueError if the robot has other joints, other ranges or the same port.
        """
        from ...teleoperation.leader import LeaderArm

        leader = LeaderArm(self.port, self.calibration, rate=self.rate)
        _fit(self, [leader], robot)
        return leader


@dataclass(kw_only=True)
class TwoLeadersInputConfig(InputConfig):
    """Two leader arms, for a robot with two arms: their joints are left_shoulder_pan to right_gripper."""

    left_port: PathName
    """Name of the serial port of the left arm."""

    left_calibration: PathName
    """Calibration file of the left arm; see `robots.feetech.calibration`."""

    right_port: PathName
    """Name of the serial port of the right arm."""

    right_calibration: PathName
    """Calibration file of the right arm."""

    rate: float = 100.0
    """Readings of each arm per second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rate", most=1e3)

    def build(self, robot: Robot) -> Together:
        """For a robot with the same joints, or one whose `axes` are named.

        Raises ValueError if the robot has other joints or other ranges, or if two arms have the same port.
        """
        from ...teleoperation.leader import LeaderArm
        from ...teleoperation.together import Together

        arms = {"left": (self.left_port, self.left_calibration), "right": (self.right_port, self.right_calibration)}
        leaders = [LeaderArm(*arm, name=name, rate=self.rate) for name, arm in arms.items()]
        _fit(self, leaders, robot)
        return Together(*leaders)


def _fit(config: InputConfig, leaders: list[LeaderArm], robot: Robot) -> None:
    """Fit leaders to a robot. Raises ValueError if its joints, ranges or ports forbid it."""
    from ...teleoperation.axes import Axes, axis_names
    from ...teleoperation.leader import fit

    action, names = robot.specification.action, [name for leader in leaders for name in leader.axes]
    if not action.low:
        raise ValueError("the action must have limits to be led by hand: give its stream low and high")
    if config.axes is None and not {*axis_names(action)} <= {*names}:
        raise ValueError(
            f"the leader has the joints {', '.join(names)}, and the robot {', '.join(axis_names(action))}: name the "
            "joint that drives each dimension of the robot with input.axes"
        )
    ports = [Path(port).resolve() for port in (*(leader.port for leader in leaders), getattr(robot, "port", ""))]
    for leader, port in zip(leaders, ports, strict=False):
        if ports.count(port) > 1:
            raise ValueError(f"the arms must have ports of their own, got {leader.port} twice")
    axes = Axes(names, action, drives=config.axes, scale=config.scale)
    for leader in leaders:
        fit(leader, axes)


INPUTS: dict[str, Any] = {
    "browser": BrowserInputConfig,
    "expert": ExpertInputConfig,
    "gamepad": GamepadInputConfig,
    "keyboard": KeyboardInputConfig,
    "leader": LeaderInputConfig,
    "space_mouse": SpaceMouseInputConfig,
    "two_leaders": TwoLeadersInputConfig,
}
"""The name of an input -> its configuration."""
