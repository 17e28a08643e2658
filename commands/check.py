"""`recede check`: try every promise of a robot or of a task before a policy acts in it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any, Protocol

from ..configs.components.robots import SimulatedRobotConfig
from ..configs.deployment import CheckConfig
from ..specification import Specification


class RobotChoice(Protocol):
    """The fields by which a command chooses a robot to check."""

    robot: Any
    rate: float
    seconds: float
    max_call_ms: float


def run(config: CheckConfig) -> None:
    """Check a task or a robot, and print what was tried. Raises an error for the first broken promise."""
    if config.task is None:
        print(check_chosen(config, {})[0].splitlines()[-1])
        return
    from ..envs.catalogue import load_task
    from ..envs.check import check_task

    print(check_task(load_task(config.task)))


def check_chosen(config: RobotChoice, described: Mapping[str, Any]) -> tuple[str, Specification]:
    """Say what will move, and check the robot; returns the report of `check_robot`, and what the robot observes.

    described: the manifest of the policy that will control it, empty if there is none. Raises what `check_robot` does.
    """
    from ..realtime import MonotonicClock
    from ..robots.check import check_robot

    robot, is_simulated = (
        config.robot.build(described, rate=config.rate),
        isinstance(config.robot, SimulatedRobotConfig),
    )
    with ExitStack() as stack:
        stack.enter_context(closing(robot))
        print(
            f"the {'simulated robot' if is_simulated else 'robot'} will be switched on, commanded to stay where it is, "
            f"and stopped, which takes about {2 * config.seconds:g} s"
        )
        if not is_simulated:
            print(
                "it should not move, but a wrong driver may move it: keep its emergency stop within reach", flush=True
            )
            if sys.stdin.isatty():
                print("Enter begins, Ctrl-C stops the robot", flush=True)
                if not sys.stdin.readline():
                    raise KeyboardInterrupt
        report = check_robot(robot, MonotonicClock(), seconds=config.seconds, max_call_s=config.max_call_ms / 1e3)
    return report, robot.specification
