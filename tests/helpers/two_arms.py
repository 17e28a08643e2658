"""A robot with two arms of six joints each, which is at once where it is commanded."""

import math

import numpy as np
from recede.realtime import MonotonicClock
from recede.robots.feetech.calibration import JOINTS
from recede.robots.interface import Reading
from recede.specification import Specification, Stream

BOTH = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS)
REACH = {"units": "rad", "labels": BOTH, "low": -1.5, "high": 1.5}
SPECIFICATION = Specification((Stream("joints", (12,), **REACH),), Stream("action", (12,), **REACH), 0.05)


class TwoArms:
    """`commands` are all that it was given, and `is_stopped` says whether it holds."""

    specification, actuation_delay = SPECIFICATION, 0.0

    def __init__(self, rate):
        self.rate, self.clock = rate, MonotonicClock()
        self.commands, self.is_stopped = [np.zeros(12)], True

    def start(self):
        self.is_stopped = False

    def read(self):
        moment = math.floor(self.clock.now() * self.rate) / self.rate
        return {"joints": Reading(self.commands[-1].astype(np.float32), moment)}

    def position(self):
        return self.commands[-1].copy()

    def command(self, action, at_time):
        if not self.is_stopped:
            self.commands.append(np.array(action))

    def stop(self):
        self.is_stopped = True

    def close(self):
        pass
