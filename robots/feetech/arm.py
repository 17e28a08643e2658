"""An arm of six serial-bus servos as a robot, as an SO-100 or SO-101 is.

Positions and actions are radians about the middle of each joint's calibrated range, the gripper's too: it is closed at
one of its limits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...realtime import Clock, MonotonicClock
from ...specification import Specification, Stream
from ..interface import Reading, checked_action
from .bus import (
    BAUD_RATE,
    GOAL,
    HOMING_OFFSET,
    LOAD,
    MODE,
    POSITION,
    RANGE_MAX,
    RANGE_MIN,
    STEPS,
    TEMPERATURE,
    TORQUE,
    VOLTAGE,
    Bus,
    Fault,
    open_port,
)
from .calibration import JOINTS, Joint, check_models, read_calibration

SLACK = 23
"""Steps, 2 degrees: a joint that is so little outside its range counts as at its end. Cables push, gears have play."""

REMEDIES = {
    Fault.VOLTAGE: "give it the supply that it is made for",
    Fault.SENSOR: "it needs repair",
    Fault.TEMPERATURE: "let it cool",
    Fault.CURRENT: "free the joint, and switch the power off and on",
    Fault.OVERLOAD: "free the joint, and switch the power off and on",
}


class SerialArm:
    """Six servos on a serial port. The stream `joints` (6,) says where they are, an action (6,) where they should go.

    A thread of its own talks to the servos: it passes each command on at once, and then reads where they are, which it
    also does when nothing is commanded. A reading is as old as its request.

    At `start` the servos are told to go where they are before they have torque, so nothing jumps. `stop` tells them the
    same, and they hold. `close` leaves them holding, because an arm without torque falls; with release they are
    let go, for an arm that is supported. Where the port or this program is lost, they hold the last command by
    themselves. What a servo reports of its voltage, temperature, current, load or sensor stops all of them, and the
    arm is lost until `start`.

    port: its name. calibration: a file, see `robots.feetech.calibration`. rate: commands a second. control_dt: seconds
    between control steps, those of the demonstrations. actuation_delay: seconds from a command to its effect, to be measured.

    Raises ValueError for a calibration or a number that is impossible, and FileNotFoundError without a calibration.
    """

    def __init__(
        self,
        port: str,
        calibration: str | Path,
        *,
        rate: float = 60.0,
        control_dt: float = 1 / 30,
        actuation_delay: float = 0.0,
        baud_rate: int = BAUD_RATE,
        release: bool = False,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < rate < math.inf or not 0 <= actuation_delay < math.inf:
            raise ValueError(f"rate must be above 0 and actuation_delay at least 0, got {rate} and {actuation_delay}")
        self.joints = read_calibration(calibration)
        self.specification = _specification(self.joints, control_dt)
        self.port, self.calibration, self.rate, self.actuation_delay = port, calibration, rate, actuation_delay
        self.baud_rate, self.release, self.clock = baud_rate, release, clock or MonotonicClock()
        joints = self.joints.values()
        self._low = np.array([joint.range_min for joint in joints])
        self._high = np.array([joint.range_max for joint in joints])
        self._radians = np.array([(-1 if joint.drive_mode else 1) * 2 * math.pi / STEPS for joint in joints])
        self._thread: threading.Thread | None = None
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._reading = Reading(np.zeros(len(JOINTS), np.float32), 0.0)
        self._goal: list[int] | None = None  # the newest one that was not sent
        self._is_hold_owed, self._is_stopped, self._is_closed = False, False, False
        self._lost: Exception | None = None

    def start(self) -> None:
        """Check the servos and give them torque where they are, or after `stop` take commands again.

        Raises ConnectionError where the port cannot be opened or a servo reports a fault, TimeoutError where a servo
        does not answer, and ValueError for one of another model, mode, calibration or place.
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
        """The newest positions (6,), rad; of a joint that is pushed out of its range, the end of that."""
        self._require()
        action = self.specification.action
        return np.clip(self._reading.value, action.low, action.high).astype(action.dtype)

    def command(self, action: NDArray[Any], at_time: float) -> None:
        """Send the joints to positions (6,), rad, within their ranges. Raises ValueError where it is no action."""
        action = checked_action(action, at_time, self.specification)
        self._require()
        steps = self._inside(action / self._radians + (self._low + self._high) / 2)
        with self._lock:
            if not self._is_stopped:
                self._goal, self._is_hold_owed = steps, False
        self._wake.set()

    def stop(self) -> None:
        """Hold, with torque, where the joints are when the thread reads this."""
        with self._lock:
            if self._thread is not None and not self._is_stopped:
                self._goal, self._is_hold_owed, self._is_stopped = None, True, True
        self._wake.set()

    def close(self) -> None:
        """Release the port, after what was told before; and where that is wanted the joints too."""
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
        bus = Bus(open_port(self.port, self.baud_rate), {joint.id: name for name, joint in self.joints.items()})
        try:
            self._check(bus)
            steps = self._read(bus)
            self._check_place(steps)
            bus.write(GOAL, self._inside(steps))
            bus.write(TORQUE, [1] * len(JOINTS))
        except BaseException:
            bus.close()
            raise
        self._goal, self._is_hold_owed, self._lost = None, False, None
        self._thread = threading.Thread(target=self._serve, args=(bus,), name=f"arm at {self.port}", daemon=True)
        self._thread.start()

    def _check(self, bus: Bus) -> None:
        """The servos must be what the calibration is of."""
        check_models(bus)
        found = bus.sync_read(RANGE_MIN, RANGE_MAX, HOMING_OFFSET, MODE)
        for (name, joint), answer in zip(self.joints.items(), found.values(), strict=True):
            low, high, offset, mode = answer.values
            servo = f"servo {joint.id} ({name})"
            if mode != 0:
                raise ValueError(f"{servo} must be in the mode of positions, 0, got {mode}: write that to register 33")
            if (offset, low, high) != (joint.homing_offset, joint.range_min, joint.range_max):
                raise ValueError(
                    f"{servo} must hold the calibration of {self.calibration}, offset {joint.homing_offset} and range "
                    f"{joint.range_min} to {joint.range_max}, got {offset} and {low} to {high}: calibrate again"
                )

    def _check_place(self, steps: NDArray[np.int64]) -> None:
        for index in np.flatnonzero((steps < self._low - SLACK) | (steps > self._high + SLACK)):
            raise ValueError(
                f"joint {JOINTS[index]} must begin within its range, {self._low[index]} to {self._high[index]} steps, "
                f"but is at {steps[index]}: move it there by hand"
            )

    def _read(self, bus: Bus) -> NDArray[np.int64]:
        """Where the servos are; kept as the newest reading. Where one reports a fault, all hold and the arm is lost."""
        moment = self.clock.now()
        found = bus.sync_read(POSITION, LOAD, VOLTAGE, TEMPERATURE)
        steps = np.array([answer.values[0] for answer in found.values()])
        for (servo, name), answer in zip(bus.servos.items(), found.values(), strict=True):
            if answer.fault:
                with suppress(OSError):  # the fault is what matters, and the port may be gone
                    bus.write(GOAL, self._inside(steps))
                raise ConnectionError(f"servo {servo} ({name}) reports {_told(answer.fault, answer.values)}")
        value = (steps - (self._low + self._high) / 2) * self._radians
        self._reading = Reading(value.astype(np.float32), moment)
        return steps

    def _inside(self, steps: NDArray[Any]) -> list[int]:
        """The whole steps nearest to these, within the ranges."""
        return np.rint(np.clip(steps, self._low, self._high)).astype(np.int64).tolist()

    def _serve(self, bus: Bus) -> None:
        """The thread: until the arm is closed or lost."""
        try:
            with closing(bus):
                is_last = False
                while not is_last:
                    self._wake.wait(2 / self.rate)  # commands, which come in every period, set the pace
                    self._wake.clear()
                    is_last = self._is_closed  # known before the exchange, so that what was told before is done
                    self._exchange(bus)
                if self.release:
                    bus.write(TORQUE, [0] * len(JOINTS))
        except Exception as error:  # whatever ends the thread, nothing is commanded any more
            self._lost = error

    def _exchange(self, bus: Bus) -> None:
        with self._lock:
            goal, self._goal = self._goal, None
            is_hold_owed, self._is_hold_owed = self._is_hold_owed, False
        if goal is not None:
            bus.sync_write(GOAL, goal)
        steps = self._read(bus)
        if is_hold_owed:
            bus.write(GOAL, self._inside(steps))


def _specification(joints: Mapping[str, Joint], control_dt: float) -> Specification:
    size = (len(JOINTS),)
    high = np.array([math.pi * (joint.range_max - joint.range_min) / STEPS for joint in joints.values()])
    action = Stream("action", size, units="rad", labels=JOINTS, low=tuple(-high), high=tuple(high))
    return Specification((Stream("joints", size, units="rad", labels=JOINTS),), action, control_dt)


def _told(fault: Fault, values: tuple[int, ...]) -> str:
    """What a servo reports, with what it measures and what helps."""
    _, load, voltage, temperature = values
    names = " and ".join((each.name or "").lower() for each in REMEDIES if each in fault) or f"fault {int(fault)}"
    helps = next((remedy for each, remedy in REMEDIES.items() if each in fault), "see its manual")
    return f"{names}, at {load / 10:.0f} % load, {voltage / 10:.1f} V and {temperature} °C: {helps}"
