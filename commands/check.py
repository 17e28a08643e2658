"""`recede check`: try every promise of a robot or of a task before a policy acts in it."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing

from ..configs.components.robots import SimulatedRobotConfig
from ..configs.deployment import CheckConfig


def run(config: CheckConfig) -> None:
    """Check a task or a robot, and print what was tried. Raises an error for the first broken promise."""
    if config.task is None:
        _check_robot(config)
        return
    from ..envs.catalogue import load_task
    from ..envs.check import check_task

    print(check_task(load_task(config.task)))


def _check_robot(config: CheckConfig) -> None:
    """Say what will move, check the robot, and print one sentence."""
    from ..realtime import MonotonicClock
    from ..robots.check import check_robot

    robot, is_simulated = config.robot.build({}, rate=config.rate), isinstance(config.robot, SimulatedRobotConfig)
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
    print(report.splitlines()[-1])
