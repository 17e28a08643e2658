"""The joints of an arm of six serial-bus servos: between encoder steps, and radians from the middle of each range."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bus import (
    HOMING_OFFSET,
    LOAD,
    MODE,
    POSITION,
    RANGE_MAX,
    RANGE_MIN,
    STEPS,
    TEMPERATURE,
    VOLTAGE,
    Bus,
    Fault,
    open_port,
)
from .calibration import check_models, read_calibration

REMEDIES = {
    Fault.VOLTAGE: "give it the supply that it is made for",
    Fault.SENSOR: "it needs repair",
    Fault.TEMPERATURE: "let it cool",
    Fault.CURRENT: "free the joint, and switch the power off and on",
    Fault.OVERLOAD: "free the joint, and switch the power off and on",
}


class ArmJoints:
    """The joints of an arm, by its calibration file.

    Raises FileNotFoundError if the file does not exist, and ValueError if it is damaged or impossible.
    """

    def __init__(self, calibration: str | Path) -> None:
        self.calibration = calibration
        self._joints = read_calibration(calibration)
        joints = self._joints.values()
        self.low = np.array([joint.range_min for joint in joints])
        """The lower end of each range (6,), steps."""
        self.high = np.array([joint.range_max for joint in joints])
        """The upper end of each range (6,), steps."""
        self._radians = np.array([(-1 if joint.drive_mode else 1) * 2 * math.pi / STEPS for joint in joints])

    @property
    def ends(self) -> NDArray[np.float64]:
        """Half of each range (6,), rad."""
        return math.pi * (self.high - self.low) / STEPS

    def angles(self, steps: ArrayLike) -> NDArray[np.float64]:
        """Radians from the middle of each range (6,), of positions in steps."""
        return (np.asarray(steps) - (self.low + self.high) / 2) * self._radians

    def steps(self, angles: ArrayLike) -> NDArray[np.float64]:
        """The inverse of `angles`; its steps are not whole."""
        return np.asarray(angles) / self._radians + (self.low + self.high) / 2

    def inside(self, steps: ArrayLike) -> list[int]:
        """The nearest whole steps within the ranges."""
        return np.rint(np.clip(steps, self.low, self.high)).astype(np.int64).tolist()

    def open(self, port: str, baud_rate: int) -> Bus:
        """The bus of the servos, which are of the right model and hold this calibration. Nothing is written.

        Raises ConnectionError if the port cannot be opened, TimeoutError if a servo does not reply, and ValueError if
        a servo has another model, mode or calibration.
        """
        bus = Bus(open_port(port, baud_rate), {joint.id: name for name, joint in self._joints.items()})
        try:
            check_models(bus)
            self._check(bus)
        except BaseException:
            bus.close()
            raise
        return bus

    def _check(self, bus: Bus) -> None:
        replies = bus.sync_read(RANGE_MIN, RANGE_MAX, HOMING_OFFSET, MODE)
        for (name, joint), reply in zip(self._joints.items(), replies.values(), strict=True):
            low, high, offset, mode = reply.values
            servo = f"servo {joint.id} ({name})"
            if mode != 0:
                raise ValueError(f"{servo} must be in position mode, 0, got {mode}: write that to register 33")
            if (offset, low, high) != (joint.homing_offset, joint.range_min, joint.range_max):
                raise ValueError(
                    f"{servo} must hold the calibration of {self.calibration}, offset {joint.homing_offset} and range "
                    f"{joint.range_min} to {joint.range_max}, got {offset} and {low} to {high}: calibrate again"
                )

    def read(self, bus: Bus) -> NDArray[np.int64]:
        """The positions (6,), in steps.

        Raises ConnectionError if a servo reports a fault, because what it measures may be wrong then.
        """
        replies = bus.sync_read(POSITION, LOAD, VOLTAGE, TEMPERATURE)
        for (servo, name), reply in zip(bus.servos.items(), replies.values(), strict=True):
            if reply.fault:
                raise ConnectionError(f"servo {servo} ({name}) reports {_fault_text(reply.fault, reply.values)}")
        return np.array([reply.values[0] for reply in replies.values()])


def _fault_text(fault: Fault, values: tuple[int, ...]) -> str:
    """A fault, the measurements of the servo, and the remedy."""
    _, load, voltage, temperature = values
    names = " and ".join((kind.name or "").lower() for kind in REMEDIES if kind in fault) or f"fault {int(fault)}"
    helps = next((remedy for kind, remedy in REMEDIES.items() if kind in fault), "see its manual")
    return f"{names}, at {load / 10:.0f} % load, {voltage / 10:.1f} V and {temperature} °C: {helps}"
