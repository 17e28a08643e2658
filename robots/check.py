"""A check of your own driver. It commands only the current position of the robot.

It stops the robot while its position is misread by a tenth of the limits: a driver that goes to a reading then moves.
Only `read` and `position` can be made to misread: a `stop` that takes a reading from a private field is not noticed.

Shapes: Da size of the action.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..realtime import Clock
from ..specification import Stream, nearest
from .interface import TOLERANCE_S, Answer, Reading, Robot, call_robot


def check_robot(
    robot: Robot,
    clock: Clock,
    *,
    seconds: float = 2.0,
    start_s: float = 5.0,
    max_age_s: float = 1.0,
    max_call_s: float = 0.02,
    max_move: float = 0.05,
) -> str:
    """Start a robot, hold its position, and check every promise of `Robot`; a report to print, whose last line sums up.

    The robot is stopped in the end, but not closed. While it is stopped, `robot.read` and `robot.position` give a wrong
    position, to which it must not go. A `stop` that takes a reading from a private field is not noticed.

    seconds: how long to hold the position, s.
    start_s: time within which every stream must arrive, s.
    max_age_s: upper bound of the age of a reading, s.
    max_call_s: upper bound of the duration of a call, s of real time, even if `clock` is virtual.
    max_move: how far the robot may leave its position, as a fraction of the limits of the action; in its units if it
        has no limits.

    Raises ValueError for the first broken promise, TimeoutError if a stream does not arrive or a call blocks, and
    ConnectionError if the robot is lost or its driver fails.
    """
    _check_description(robot)
    watch = _Watch(robot, clock, max_age_s, max_call_s, max_move)
    try:
        call_robot(robot.start)
        watch.wait(start_s)
        watch.stop()
        watch.hold(seconds / 4, "stopped before its first command")
        call_robot(robot.start)
        watch.wait(start_s)
        watch.hold(seconds, "commanded its own position", is_commanded=True)
        for _ in range(2):
            watch.stop()
        watch.hold(seconds / 2, "stopped")
    except BaseException:
        with suppress(Exception):  # the error that came first is raised
            robot.stop()
        raise
    watch.check_progress(seconds)
    return watch.report(seconds)


def _check_description(robot: Robot) -> None:
    if not (math.isfinite(robot.rate) and robot.rate > 0):
        raise ValueError(f"rate must be a positive number of commands a second, got {robot.rate}")
    if not (math.isfinite(robot.actuation_delay) and robot.actuation_delay >= 0):
        raise ValueError(f"actuation_delay must be 0 seconds or more, got {robot.actuation_delay}")


@dataclass
class _Watch:
    """Calls a robot, checks every answer, and records the extremes."""

    robot: Robot
    clock: Clock
    max_age_s: float
    max_call_s: float
    max_move: float
    newest: dict[str, Reading] = field(default_factory=lambda: dict[str, Reading]())
    num_readings: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    oldest_s: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    slowest_s: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    home: NDArray[Any] | None = None
    moved: float = 0.0

    def wait(self, start_s: float) -> None:
        """Wait, after `start`, for every stream and the position. A robot may never know its position."""
        self.newest.clear()
        self.num_readings.clear()
        until = self.clock.now() + start_s
        streams = self.robot.specification.observations
        while True:
            self._read()
            self.home = self._position()
            missing = [stream.name for stream in streams if stream.name not in self.newest]
            if not missing and self.home is not None:
                return
            if self.clock.now() >= until:
                break
            self._sleep()
        if missing:
            raise TimeoutError(f"every stream must arrive within {start_s:g} s of start(), {missing} did not")

    def hold(self, seconds: float, state: str, *, is_commanded: bool = False) -> None:
        """Read the robot in each period, and with `is_commanded` command its position."""
        until = self.clock.now() + seconds
        while self.clock.now() < until - TOLERANCE_S:
            self._read()
            self._check_rest(state)
            if is_commanded and self.home is not None:
                self.call("command", self.robot.command, self._within_limits(self.home), self.clock.now())
            self._sleep()

    def call(self, name: str, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """The answer of a call, which must come within `max_call_s`."""
        begin = time.perf_counter()
        answer = call_robot(function, *arguments)
        taken = time.perf_counter() - begin
        self.slowest_s[name] = max(taken, self.slowest_s.get(name, 0.0))
        if taken > self.max_call_s:
            raise TimeoutError(
                f"{name}() must return within {self.max_call_s:g} s, but took {taken:.3g} s: talk to the robot in "
                "a thread or process of its own, and keep its newest readings"
            )
        return answer

    def stop(self) -> None:
        """Stop the robot while its own methods give a wrong position."""
        with self._wrong_position():
            self.call("stop", self.robot.stop)

    def check_progress(self, seconds: float) -> None:
        """Every stream must have new readings."""
        for name, count in self.num_readings.items():
            if count < 2:
                raise ValueError(
                    f"stream {name!r}: capture times must grow, but in {seconds:g} s no reading followed the one "
                    f"of {self.newest[name].time:.3f} s"
                )

    def report(self, seconds: float) -> str:
        """What the check measured, in lines to print. The last one says what was tried."""
        robot = self.robot
        lines = [f"{robot.rate:g} commands/s, each {1e3 * robot.actuation_delay:.1f} ms before its effect"]
        lines += [
            f"{name:<20}{self.num_readings[name]} readings, at most {1e3 * self.oldest_s[name]:.1f} ms old"
            for name in self.newest
        ]
        lines += [f"{name + '()':<20}at most {1e3 * taken:.2f} ms" for name, taken in self.slowest_s.items()]
        tried = f"commanded its own position for {seconds:g} s and stopped 3 times while its position was misread"
        kept = f"it moved by at most {self.moved:.2g} of its limits where {self.max_move:g} is allowed"
        if self.home is None:
            tried, kept = "stopped 3 times", "its position is unknown, so nothing was commanded"
        return "\n".join(
            [
                *lines,
                f"all right: the robot was started twice, {tried}; {kept}, readings were at most "
                f"{1e3 * max(self.oldest_s.values()):.1f} ms old, and calls took at most "
                f"{1e3 * max(self.slowest_s.values()):.2f} ms",
            ]
        )

    @contextmanager
    def _wrong_position(self) -> Generator[None]:
        """Meanwhile `robot.read` and `robot.position` are wrong by twice `max_move`, towards the middle."""
        robot, home, own = self.robot, self.home, getattr(self.robot, "__dict__", None)
        if home is None or own is None:  # a class with slots cannot be lied to
            yield
            return
        action, scale, read = robot.specification.action, self._scale(), robot.read
        middle = np.add(action.low, action.high) / 2 if action.low else home + 1
        shift = np.where(home < middle, 2, -2) * self.max_move * scale
        streams = [stream.name for stream in robot.specification.observations if stream.shape == action.shape]

        def misread() -> Mapping[str, Reading]:
            readings = read()
            wrong = {name: readings[name] for name in streams if name in readings}
            return {
                **readings,
                **{name: Reading((old + shift).astype(old.dtype), moment) for name, (old, moment) in wrong.items()},
            }

        wrong = {"read": misread, "position": lambda: (home + shift).astype(action.dtype)}
        before = {name: own[name] for name in wrong if name in own}
        own.update(wrong)
        try:
            yield
        finally:
            for name in wrong:
                del own[name]
            own.update(before)

    def _sleep(self) -> None:
        self.clock.sleep_until(self.clock.now() + 1 / self.robot.rate)

    def _read(self) -> None:
        readings = self.call("read", self.robot.read)
        now = self.clock.now()
        streams = {stream.name: stream for stream in self.robot.specification.observations}
        for name, reading in readings.items():
            if name not in streams:
                raise ValueError(
                    f"read() must return streams of the specification, got {name!r}: {nearest(name, streams)}"
                )
            self._check_time(name, reading.time, now)
            _check_value(streams[name], reading.value)
            if name not in self.newest or reading.time > self.newest[name].time:
                self.num_readings[name] = self.num_readings.get(name, 0) + 1
            self.newest[name] = reading
        if lost := self.newest.keys() - readings.keys():
            raise ValueError(f"read() must return every stream that has arrived, {sorted(lost)} came and went")

    def _check_time(self, name: str, captured: float, now: float) -> None:
        place = f"stream {name!r}: a capture time"
        if not captured <= now + TOLERANCE_S:
            raise ValueError(f"{place} must not be in the future, got {captured:.6f} s at {now:.6f} s: use one clock")
        if now - captured > self.max_age_s:
            raise ValueError(f"{place} must be at most {self.max_age_s:g} s ago, got {now - captured:.3g} s")
        if name in self.newest and captured < self.newest[name].time:
            raise ValueError(f"{place} must not go back, got {captured:.6f} s after {self.newest[name].time:.6f} s")
        self.oldest_s[name] = max(now - captured, self.oldest_s.get(name, 0.0))

    def _position(self) -> NDArray[Any] | None:
        position, stream = self.call("position", self.robot.position), self.robot.specification.action
        if position is None:
            return None
        if np.shape(position) != stream.shape or not np.isfinite(position).all():
            raise ValueError(f"position() must be {stream.size} finite numbers or None, got {position}")
        return np.array(position, dtype=np.float64)

    def _check_rest(self, state: str) -> None:
        position = self._position()
        if self.home is None or position is None:
            return
        action = self.robot.specification.action
        shares = np.abs(position - self.home) / self._scale()
        self.moved = max(self.moved, float(shares.max()))
        if self.moved > self.max_move:
            worst = int(shares.argmax())
            raise ValueError(
                f"a robot that is {state} must stay there, but {action.label(worst)} went from {self.home[worst]:.4g} "
                f"to {position[worst]:.4g}, {shares[worst]:.2g} of its limits where {self.max_move:g} is allowed"
                + (": stop() must hold the last command, and never a reading" if "stopped" in state else "")
            )

    def _scale(self) -> NDArray[Any]:
        """The size of the limits of the action (Da,), or ones."""
        action = self.robot.specification.action
        return np.subtract(action.high, action.low) if action.low else np.ones(action.shape)

    def _within_limits(self, position: NDArray[Any]) -> NDArray[Any]:
        action = self.robot.specification.action
        return action.cast(np.clip(position, action.low, action.high) if action.low else position)


def _check_value(stream: Stream, value: Any) -> None:
    place = f"stream {stream.name!r}: a reading"
    if not isinstance(value, np.ndarray) or (value.shape, value.dtype.name) != (stream.shape, stream.dtype):
        actual = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{place} must be an array of {stream.dtype} of shape {stream.shape}, got {actual}")
    if stream.low:
        low, high = stream.cast(stream.low), stream.cast(stream.high)
        for index in np.flatnonzero(~((low <= value) & (value <= high))):  # true for NaN
            raise ValueError(
                f"{place} must lie within its limits, but {stream.label(int(index))} is {value[index]} "
                f"and not in [{low[index]}, {high[index]}]: convert its units, or state wider limits"
            )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{place} must be finite, got {value}")
