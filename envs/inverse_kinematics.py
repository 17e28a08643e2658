"""The joints that bring the hand of `arm.xml` towards a pose, by differential inverse kinematics with mink.

A step at a time, mink minimises the error of position and orientation over the speeds of the joints, within their
ranges and a limit of speed: a quadratic program. A pose out of reach or near a singularity is approached as far as
these allow, and nothing jumps from one solution to another, as a closed form does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .manipulator import Array
from .physics import mujoco

STEPS = 2
"""Steps of the solver in a control step; a way of 20 mm ends 0.01 mm beside its end (median), with 1 step 1 mm."""
TURN_COST = 0.3
"""An error of 1 rad counts as one of so many metres, about the way from the shoulder to the hand."""
DAMPING = 1e-6
"""Weight of the speed of the joints; it decides between speeds that do equally well."""


class PoseSolver:
    """Solves for one arm. A copy or a pickled copy makes its own parts of mink.

    speed: the highest speed of a joint (rad/s).
    duration: the time in which the joints may move (s).

    Raises ImportError, with the remedy, if mink is not installed.
    """

    def __init__(self, *, speed: float, duration: float) -> None:
        self._speed, self._dt = speed, duration / STEPS
        self._mink = _mink()
        model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("tasks") / "arm.xml"))
        names = [model.joint(index).name for index in range(6)]
        self._low, self._high = model.jnt_range[:6].T
        self._configuration = self._mink.Configuration(model)
        self._task = self._mink.FrameTask("hand", "body", position_cost=1.0, orientation_cost=TURN_COST)
        self._limits = [
            self._mink.ConfigurationLimit(model),
            self._mink.VelocityLimit(model, dict.fromkeys(names, speed)),
        ]

    def solve(self, joints: Array, pose: Array) -> Array:
        """The joints (6,) after `duration` on the way from `joints` (6,) to a pose (6,) of the hand.

        A pose is x, y, z, yaw, pitch, roll as `arm_kinematics` has them.
        """
        start = np.zeros(8)
        start[:6] = np.clip(joints, self._low, self._high)
        self._configuration.update(start)
        self._task.set_target(self._target(pose))
        for _ in range(STEPS):
            speeds = self._mink.solve_ik(
                self._configuration, [self._task], self._dt, "daqp", damping=DAMPING, limits=self._limits
            )
            self._configuration.integrate_inplace(speeds, self._dt)
        return self._configuration.q[:6].copy()

    def _target(self, pose: Array) -> Any:
        turns = self._mink.SO3
        rotation = turns.from_y_radians(pose[4]) @ turns.from_x_radians(pose[5]) @ turns.from_z_radians(pose[3])
        return self._mink.SE3.from_rotation_and_translation(rotation, pose[:3])

    def __reduce__(self) -> Any:
        return _solver, (self._speed, self._dt * STEPS)


def _solver(speed: float, duration: float) -> PoseSolver:
    return PoseSolver(speed=speed, duration=duration)


def _mink() -> Any:
    try:
        import mink
    except ImportError as error:
        raise ImportError("an arm that is commanded by poses needs mink: pip install 'recede[arm_ik]'") from error
    return mink
