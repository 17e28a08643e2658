"""`recede check`: try every promise of a robot or of a task before a policy acts in it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Protocol

from ..configs.components.robots import SimulatedRobotConfig
from ..configs.deployment import CheckConfig
from ..robots.interface import Robot
from ..specification import Specification


class RobotChoice(Protocol):
    """The fields by which a command chooses a robot to check."""

    robot: Any
    rate: float
    seconds: float
    max_call_ms: float


LONGEST_S = 120.0
"""Seconds beyond the check itself after which a driver counts as blocked: a robot may drive home first."""


@contextmanager
def limited(seconds: float) -> Generator[None]:
    """Raise TimeoutError in what runs inside if it takes longer, in s, naming the line that has not returned.

    The line is interrupted by SIGALRM, so this works in the main thread, and on a line that signals can interrupt.
    """

    def stop(_: int, frame: FrameType | None) -> None:
        while frame is not None and Path(frame.f_code.co_filename).is_relative_to(Path(signal.__file__).parent):
            frame = frame.f_back  # to the line of the driver that called the library of Python, or a package
        place = f", at {frame.f_code.co_filename}, line {frame.f_lineno}" if frame is not None else ""
        raise TimeoutError(f"the driver has not returned after {seconds:g} s{place}: give its calls a time limit")

    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _closing(robot: Robot) -> Generator[None]:
    """Close the robot at the end, and wait for that no longer than for anything else."""
    try:
        yield
    finally:
        with limited(LONGEST_S):
            robot.close()


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

    is_simulated = isinstance(config.robot, SimulatedRobotConfig)
    with limited(LONGEST_S):
        robot = config.robot.build(described, rate=config.rate)
    with _closing(robot):
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
        with limited(LONGEST_S + 2 * config.seconds):
            report = check_robot(robot, MonotonicClock(), seconds=config.seconds, max_call_s=config.max_call_ms / 1e3)
    return report, robot.specification
