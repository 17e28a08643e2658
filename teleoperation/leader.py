"""Leader arms as the hands: a person moves an arm without torque, and the robot goes where its joints are."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from ..realtime import Clock, MonotonicClock
from ..robots.feetech.bus import BAUD_RATE, TORQUE, Bus
from ..robots.feetech.calibration import JOINTS
from ..robots.feetech.joints import ArmJoints
from ..robots.interface import Reading
from .axes import Axes, axis_names
from .interface import Order, Status

TRIGGER = "gripper"
"""The joint of a leader that is a trigger: its whole range opens and closes the gripper of the robot."""

_TRIGGER = JOINTS.index(TRIGGER)

MOST_APART = 0.2
"""How far an end of a joint's range may be from the end of the robot's, rad (11 degrees)."""


class LeaderArm:
    """An absolute input: the joints of an arm of six serial-bus servos, rad from the middle of each range.

    `start` checks that the servos hold the calibration, and then takes their torque away: somebody must hold the arm.
    Nothing else is written. A thread reads the positions; the time of a reading is the time of its request. The arm
    stays without torque after `close`.

    port: name of the serial port. calibration: file, as of the robot; see `robots.feetech.calibration`.
    name: comes before the names of the joints, if there are several arms.
    rate: readings a second. clock: that of the loop; None for the monotonic clock of the machine.

    Raises ValueError for an impossible calibration or rate, and FileNotFoundError if the calibration does not exist.
    """

    kind = "absolute"

    def __init__(
        self,
        port: str,
        calibration: str | Path,
        *,
        name: str = "",
        rate: float = 100.0,
        baud_rate: int = BAUD_RATE,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be above 0, got {rate}")
        self.joints = ArmJoints(calibration)
        self.port, self.rate, self.baud_rate, self.clock = port, rate, baud_rate, clock or MonotonicClock()
        self.axes = tuple(f"{name}_{joint}" if name else joint for joint in JOINTS)
        self.trigger = self.axes[_TRIGGER]
        """The name of the axis of the gripper."""
        self._pulled = self.ends(self.trigger)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._reading: Reading | None = None
        self._lost: Exception | None = None

    def ends(self, axis: str) -> tuple[float, float]:
        """The values of a joint at the ends of its range, rad."""
        end = float(self.joints.ends[self.axes.index(axis)])
        return -end, end

    def pull(self, low: float, high: float) -> None:
        """Give the gripper these values at the ends of its range."""
        self._pulled = low, high

    def start(self) -> None:
        """Check the servos, take their torque away, and read them from now on.

        Raises ConnectionError if the port cannot be opened or a servo reports a fault, TimeoutError if a servo does not
        reply, and ValueError if a servo has another model, mode or calibration.
        """
        if self._over.is_set():
            raise ConnectionError(f"the leader at {self.port} is closed: make another one")
        bus = self.joints.open(self.port, self.baud_rate)
        try:
            bus.write(TORQUE, [0] * len(JOINTS))
            self._read(bus)
        except BaseException:
            bus.close()
            raise
        self._thread = threading.Thread(target=self._serve, args=(bus,), name=f"leader at {self.port}", daemon=True)
        self._thread.start()

    def read(self, now: float) -> Reading | None:
        """The newest positions of the joints. A leader is always held: lay it down before you let it go."""
        del now
        if self._thread is None:
            raise RuntimeError("start() the leader first")
        if self._lost:
            raise ConnectionError(
                f"the leader at {self.port} is lost: {self._lost}; check its cable and its power, and begin again"
            ) from self._lost
        return self._reading

    def orders(self, status: Status) -> Sequence[Order]:
        """None: an arm has no buttons. Raises ConnectionError if the leader is lost."""
        self.read(0.0)
        return []

    def close(self) -> None:
        """Stop reading, and close the port."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _read(self, bus: Bus) -> None:
        moment = self.clock.now()
        value = self.joints.angles(self.joints.read(bus))
        value[_TRIGGER] = np.interp(value[_TRIGGER], self.ends(self.trigger), self._pulled)
        self._reading = Reading(value, moment)

    def _serve(self, bus: Bus) -> None:
        """The thread. Runs until the leader is closed or lost."""
        try:
            with closing(bus):
                following = time.monotonic()
                while not self._over.wait(following - time.monotonic()):
                    following = max(following + 1 / self.rate, time.monotonic())
                    self._read(bus)
        except Exception as error:
            self._lost = error


def fit(leader: LeaderArm, axes: Axes) -> None:
    """Let the trigger open and close what it drives from end to end, and compare the joints with those of the robot.

    axes: between the leader and the robot.
    Raises ValueError if a joint that drives one of the same name has another range, in units of the action.
    """
    action = axes.action
    for index, name in enumerate(axis_names(action)):
        low, high = action.low[index], action.high[index]
        for factor, axis in zip(axes.matrix[index].tolist(), axes.names, strict=True):
            if not factor or axis not in leader.axes:
                continue
            if axis == leader.trigger:
                leader.pull(min(low / factor, high / factor), max(low / factor, high / factor))
                continue
            least, most = sorted(end * factor for end in leader.ends(axis))
            if axis == name and max(abs(least - low), abs(most - high)) > MOST_APART * abs(factor):
                raise ValueError(
                    f"joint {axis} must have one range in both arms, but is {least:.3g} to {most:.3g} by "
                    f"{leader.joints.calibration}, and {low:.3g} to {high:.3g} in the robot: calibrate both arms from "
                    "end to end, with one drive_mode, or name the axes in the units of the robot with input.scale"
                )
