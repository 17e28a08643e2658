"""An ideal robot, a planner with a delay, and a control loop of both on a virtual clock."""

import math

import numpy as np
from recede.control.loop import Controller
from recede.control.planned import SURE, Planned
from recede.control.safety import Limits, Safety
from recede.execution.overlapping import AsyncReplace
from recede.robots.interface import Reading
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("moment", (1,), "float64"), Stream("place", (2,), "float64"), Stream("camera", (2, 2, 3), "uint8")),
    Stream("action", (2,), "float64", low=-10.0, high=10.0),
    control_dt=0.1,
)
HORIZONS = Horizons(observation=1, prediction=16, action=4)
FREE = Limits.of(SPECIFICATION, speed=np.inf, acceleration=np.inf, jump=np.inf)


class Ideal:
    """A robot that moves to its command at once, with late sensors. It records its commands."""

    specification = SPECIFICATION

    def __init__(
        self, clock, *, rate=100.0, sensor_delay=0.0, actuation_delay=0.0, camera_dt=0.1, silent_from=math.inf
    ):
        self.clock, self.rate, self.actuation_delay = clock, rate, actuation_delay
        self.sensor_delay, self.camera_dt, self.silent_from = sensor_delay, camera_dt, silent_from
        self.commands, self.is_stopped, self.place = [], False, np.zeros(2)

    def start(self):
        self.started_at = self.clock.now()

    def read(self):
        now = min(self.clock.now(), self.silent_from)
        captured = now - self.sensor_delay
        frame = math.floor(captured / self.camera_dt + 1e-9)
        if captured < self.started_at - 1e-9:
            return {}
        return {
            "moment": Reading(np.array([now]), now),  # never late, so the loop must look back for its value
            "place": Reading(self.place.copy(), captured),
            "camera": Reading(np.full((2, 2, 3), frame % 256, dtype=np.uint8), frame * self.camera_dt),
        }

    def position(self):
        return self.place.copy()

    def command(self, action, at_time):
        assert not self.is_stopped
        self.place = np.array(action)
        self.commands.append((at_time, self.place))

    def stop(self):
        self.is_stopped = True

    def close(self):
        pass


class Delayed:
    """A planner that answers with a function of the request after `delay_s`; it is lost during `lost`."""

    def __init__(self, clock, answer, delay_s=0.0, lost=(math.inf, math.inf)):
        self.clock, self.answer, self.delay_s, self.lost = clock, answer, delay_s, lost
        self.pending, self.num_requests, self.doubt = None, 0, SURE

    def ask(self, request):
        self.check()
        assert self.pending is None
        self.num_requests += 1
        self.pending = self.clock.now() + self.delay_s, self.answer(request)

    def poll(self):
        self.check()
        if self.pending is None or self.clock.now() < self.pending[0] - 1e-9:
            return None
        chunk, self.pending = self.pending[1], None
        return chunk

    def check(self):
        if self.lost[0] <= self.clock.now() < self.lost[1]:
            self.pending = None
            raise ConnectionError("gone")


def path(moment):
    """The desired place at a moment: on a line, so that linear interpolation is exact."""
    return np.stack([0.3 * moment, 1 - 0.2 * moment], axis=-1)


def line(request):
    """The chunk of a policy that reads the moment of the observation, and follows the path."""
    return path(request.history["moment"][-1, 0] + 0.1 * np.arange(HORIZONS.prediction))


def control(robot, planner, clock, *, execution=None, safety=None, seconds=5.0, **options):
    execution = execution or AsyncReplace(HORIZONS)
    safety = safety or Safety(FREE, 1 / robot.rate)
    controller = Controller(robot, Planned(planner, execution), safety, clock, **options)
    return controller.run(lambda: clock.now() >= seconds - 1e-9)
