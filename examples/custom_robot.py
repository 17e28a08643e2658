"""A driver for a robot of your own, and the check of all that a driver promises.

python examples/custom_robot.py
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from recede import Specification, Stream
from recede.realtime import MonotonicClock
from recede.robots.check import check_robot
from recede.robots.interface import Reading, checked_action


class Turntable:
    """A motor that turns to an angle. Nothing here waits: a real driver would talk to its hardware in a thread."""

    specification = Specification(
        observations=(Stream("angle", (1,), units="rad", low=-3.2, high=3.2),),  # what the sensor can report
        action=Stream("action", (1,), units="rad", low=-3.0, high=3.0),  # what it may be commanded
        control_dt=0.1,
    )
    rate, actuation_delay = 50.0, 0.0  # commands a second; seconds from a command to its effect

    def __init__(self, clock: MonotonicClock) -> None:
        self.clock, self.state, self.angle = clock, "new", np.zeros(1, np.float32)

    def start(self) -> None:
        self.state = "running"  # connect, without moving

    def read(self) -> dict[str, Reading]:
        self._require()
        return {"angle": Reading(self.angle.copy(), self.clock.now())}  # the newest values, and when they were captured

    def position(self) -> NDArray[np.float32]:
        return self.read()["angle"].value  # as an action: commanding it means staying there

    def command(self, action: ArrayLike, at_time: float) -> None:
        """Here the motor is there at once. Commands after `stop` are ignored."""
        angle = checked_action(action, at_time, self.specification)  # a ValueError unless it is finite and fits
        self._require()
        if self.state == "running":
            self.angle = angle

    def stop(self) -> None:
        """Hold the last command; never go to a reading, which may be wrong."""
        self.state = "stopped" if self.state == "running" else self.state

    def close(self) -> None:
        self.state = "closed"

    def _require(self) -> None:
        if self.state == "closed":
            raise ConnectionError("the turntable is closed")
        if self.state == "new":
            raise RuntimeError("start() the turntable first")


clock = MonotonicClock()
print(check_robot(Turntable(clock), clock))  # holds it for two seconds; a broken promise is an error with its remedy
