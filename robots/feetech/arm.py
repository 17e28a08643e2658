"""An arm of six serial-bus servos, such as an SO-100 or SO-101, as a robot.

Positions and actions are radians from the middle of each joint's calibrated range. This includes the gripper, which is
closed at one of its limits.
"""

from __future__ import annotations

import math
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...realtime import Clock, MonotonicClock
from ...specification import Specification, Stream
from ..interface import Reading, checked_action
from .bus import BAUD_RATE, GOAL, TORQUE, Bus
from .calibration import JOINTS
from .joints import ArmJoints

SLACK = 23
"""Steps (2 degrees) that a joint may be outside its range at the start, because cables push and gears have play."""


class SerialArm:
    """Six servos on a serial port. The stream `joints` (6,) is their positions, an action (6,) their goals.

    A thread talks to the servos. It sends each command at once and then reads the positions; it also reads them if
    nothing is commanded. The time of a reading is the time of its request.

    `start` sets the goals to the current positions before it switches the torque on, so nothing jumps. After `stop` the
    servos hold the last goals that were sent. `close` leaves them holding, because an arm without torque falls; with
    `release` it switches the torque off, for an arm that is supported. If the port or this program is lost, the servos
    hold the last command by themselves. If a servo reports a fault (voltage, temperature, current, load or sensor),
    nothing more is sent, so all servos hold the last command, and the arm is lost until `start`.

    port: name of the serial port.
    calibration: calibration file, see `robots.feetech.calibration`.
    release: whether `close` switches the torque off.
    actuation_delay: time from a command to its effect, s; measure it.
    rate: commands per second.
    control_dt: time between control steps, s; that of the demonstrations.
    baud_rate: that of the servos.
    clock: the clock of the readings; None for the monotonic clock of the machine.

    Raises ValueError for an impossible calibration or number, and FileNotFoundError if the calibration does not exist.
    """

    def __init__(
        self,
        port: str,
        calibration: str | Path,
        *,
        release: bool,
        actuation_delay: float,
        rate: float = 60.0,
        control_dt: float = 1 / 30,
        baud_rate: int = BAUD_RATE,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < rate < math.inf or not 0 <= actuation_delay < math.inf:
            raise ValueError(f"rate must be above 0 and actuation_delay at least 0, got {rate} and {actuation_delay}")
        self.joints = ArmJoints(calibration)
        self.specification = _specification(self.joints, control_dt)
        self.port, self.rate, self.actuation_delay = port, rate, actuation_delay
        self.baud_rate, self.release, self.clock = baud_rate, release, clock or MonotonicClock()
        self._thread: threading.Thread | None = None
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._reading = Reading(np.zeros(len(JOINTS), np.float32), 0.0)
        self._goal: list[int] | None = None  # the newest unsent goal
        self._is_stopped, self._is_closed = False, False
        self._lost: Exception | None = None

    def start(self) -> None:
        """Check the servos and switch their torque on, or after `stop` accept commands again.

        Raises ConnectionError if the port cannot be opened or a servo reports a fault, TimeoutError if a servo does not
        reply, and ValueError if a servo has another model, mode or calibration, or begins outside its range.
        """
        if self._is_closed:
            raise ConnectionError(f"the arm at {self.port} is closed: make another one")
        if self._thread is None or self._lost:
            self._connect()
        self._is_stopped = False

    def read(self) -> dict[str, Reading]:
        """The newest positions of the joints, rad."""
        self._require()
        return {"joints": self._reading}

    def position(self) -> NDArray[Any]:
        """The newest positions (6,), rad, clipped to the ranges of the joints."""
        self._require()
        action = self.specification.action
        return action.cast(np.clip(self._reading.value, action.low, action.high))

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Send goals (6,), rad, clipped to the ranges of the joints. Raises ValueError if they are not finite."""
        action = checked_action(action, at_time, self.specification)
        self._require()
        steps = self.joints.inside(self.joints.steps(action))
        with self._lock:
            if not self._is_stopped:
                self._goal = steps
        self._wake.set()

    def stop(self) -> None:
        """Hold the last goals that were sent, with torque; a command that is not sent yet is dropped."""
        with self._lock:
            if self._thread is not None:
                self._goal, self._is_stopped = None, True

    def close(self) -> None:
        """Send what is queued, then close the port. With `release`, the joints lose their torque as well."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _require(self) -> None:
        if self._is_closed:
            raise ConnectionError(f"the arm at {self.port} is closed: make another one")
        if self._thread is None:
            raise RuntimeError("start() the arm first")
        if self._lost:
            raise ConnectionError(f"the arm at {self.port} is lost: {self._lost}")

    def _connect(self) -> None:
        bus = self.joints.open(self.port, self.baud_rate)
        try:
            steps = self._read(bus)
            self._check_place(steps)
            bus.write(GOAL, self.joints.inside(steps))
            bus.write(TORQUE, [1] * len(JOINTS))
        except BaseException:
            bus.close()
            raise
        self._goal, self._lost = None, None
        self._thread = threading.Thread(target=self._serve, args=(bus,), name=f"arm at {self.port}", daemon=True)
        self._thread.start()

    def _check_place(self, steps: NDArray[np.int64]) -> None:
        low, high = self.joints.low, self.joints.high
        for index in np.flatnonzero((steps < low - SLACK) | (steps > high + SLACK)):
            raise ValueError(
                f"joint {JOINTS[index]} must begin within its range, {low[index]} to {high[index]} steps, but "
                f" is at {steps[index]}: move it there by hand"
            )

    def _read(self, bus: Bus) -> NDArray[np.int64]:
        """Read the positions in steps, and keep them as the newest reading. Raises what `ArmJoints.read` raises."""
        moment = self.clock.now()
        steps = self.joints.read(bus)
        self._reading = Reading(self.joints.angles(steps).astype(np.float32), moment)
        return steps

    def _serve(self, bus: Bus) -> None:
        """The thread. Runs until the arm is closed or lost."""
        try:
            with closing(bus):
                is_last = False
                while not is_last:
                    self._wake.wait(2 / self.rate)  # commands, one in every period, set the pace
                    self._wake.clear()
                    is_last = self._is_closed  # read before the exchange, so that queued commands are sent
                    self._exchange(bus)
                if self.release:
                    bus.write(TORQUE, [0] * len(JOINTS))
        except Exception as error:  # after any error, nothing more is commanded
            self._lost = error

    def _exchange(self, bus: Bus) -> None:
        with self._lock:
            goal, self._goal = self._goal, None
        if goal is not None:
            bus.sync_write(GOAL, goal)
        self._read(bus)


def _specification(joints: ArmJoints, control_dt: float) -> Specification:
    size, ends = (len(JOINTS),), joints.ends
    action = Stream("action", size, units="rad", labels=JOINTS, low=tuple(-ends), high=tuple(ends))
    return Specification((Stream("joints", size, units="rad", labels=JOINTS),), action, control_dt)
