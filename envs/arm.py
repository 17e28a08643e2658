"""Arms of six joints with a gripper, commanded by targets of their joints or by a pose of the hand.

`arm.xml` has the proportions of an SO-101, whose hand cannot leave the plane of its arm. A sixth joint, `wrist_yaw`,
lets it take any pose. It stands between `wrist_flex` and `wrist_roll`, so that the three axes are perpendicular where
the hand points down: the wrist is farthest from its singularity there.

An action is followed at `SPEED` at most: a target that is far away, out of reach or singular moves the arm no faster.

Shapes: A arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..specification import Stream
from .arm_kinematics import forward, inverse
from .inverse_kinematics import PoseSolver
from .manipulator import PERIOD, Array, Manipulator, limited

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_yaw", "wrist_roll")
LOW, HIGH = (-1.9, -0.9, 0.05, -1.9, -1.2, -2.8, 0.0), (1.9, 1.9, 2.8, 2.0, 1.2, 2.8, 0.08)
"""Limits of the joints (rad) and of the distance between the fingertips (m), those of `arm.xml`."""
POSE = ("x", "y", "z", "yaw", "pitch", "roll", "opening")
POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad", "m")
POSE_KINDS = ("position", "position", "position", *["euler_zyx_yxz"] * 3, "gripper")
SPEED = 1.5
"""The highest speed of a joint (rad/s)."""
AHEAD = SPEED * PERIOD
"""How far (rad) the target of a joint may be ahead of it: a control step at `SPEED`."""


@dataclass(frozen=True)
class Foot:
    """Where an arm stands."""

    x: float
    y: float
    forward: tuple[int, int]
    """The direction in which it faces: one of the axes."""

    def outside(self, position: Array) -> Array:
        """Positions (..., 3) from the foot (m) in the world."""
        (along, across), (x, y, z) = self.forward, np.moveaxis(position, -1, 0)
        return np.stack([self.x + along * x - across * y, self.y + across * x + along * y, z], axis=-1)

    def inside(self, position: Array) -> Array:
        """Positions (..., 3) in the world from the foot (m); the inverse of `outside`."""
        (along, across), (x, y, z) = self.forward, np.moveaxis(position, -1, 0)
        x, y = x - self.x, y - self.y
        return np.stack([along * x + across * y, along * y - across * x, z], axis=-1)

    def joints(self, pose: ArrayLike) -> Array:
        """The joints and the opening (..., 7) of poses (..., 7) of the hand in the world."""
        pose = np.asarray(pose, np.float64)
        return np.concatenate([inverse(self.inside(pose[..., :3]), pose[..., 3:6]), pose[..., 6:]], axis=-1)

    def pose(self, joints: Array) -> Array:
        """The poses (..., 7) of the hand in the world at joints and openings (..., 7); the inverse of `joints`."""
        position, orientation = forward(joints[..., :6])
        return np.concatenate([self.outside(position), orientation, joints[..., 6:]], axis=-1)


def _joints(name: str, sides: Sequence[str], *, margin: float) -> Stream:
    """Joints and openings of arms; margin: how far beyond the limits a reading may be (rad, m)."""
    low = tuple(value - margin for value in LOW) * len(sides)
    high = tuple(value + margin for value in HIGH) * len(sides)
    labels = tuple(f"{side}{joint}" for side in sides for joint in (*JOINTS, "gripper"))
    units, kinds = (*["rad"] * 6, "m") * len(sides), (*["position"] * 6, "gripper") * len(sides)
    return Stream(name, (7 * len(sides),), units=units, labels=labels, low=low, high=high, kinds=kinds)


def _streams(*sides: str) -> tuple[Stream, ...]:
    low, high = (-0.8, -0.8, -0.1, -3.2, -3.2, -1.6, -0.02), (0.8, 0.8, 0.8, 3.2, 3.2, 1.6, 0.1)
    poses = [Stream(f"{side}gripper", (7,), "float32", POSE_UNITS, POSE, low, high, kinds=POSE_KINDS) for side in sides]
    return (_joints("joints", sides, margin=0.05), *poses)


class Arm(Manipulator):
    """An arm whose action is the targets of its joints and of its gripper.

    `joints` holds its six joints and the distance between the fingertips. `gripper` follows from it: the point between
    the fingertips, the orientation of the hand, and that distance. The orientation is relative to a hand that points
    down and faces as the arm does: it turns about its own axis by the yaw, then leans to the side by the roll and back
    by the pitch.
    """

    observations = _streams("")
    position = "joints"
    hands: ClassVar[Mapping[str, str]] = {"gripper": "arm_hand"}
    cameras: ClassVar[Mapping[str, str]] = {"wrist": "arm_wrist"}
    feet: ClassVar[Mapping[str, Foot]] = {"arm_": Foot(0.27, 0.0, (-1, 0))}
    """The prefix of the names of an arm in the model -> where it stands, in the order of the streams."""
    joints = tuple(f"arm_{name}" for name in (*JOINTS, "left_finger", "right_finger"))

    @classmethod
    def action(cls, highest: float) -> Stream:
        """See `Manipulator.action`."""
        sides = [name.removesuffix("gripper") for name in cls.hands]
        return _joints("action", sides, margin=0.0)

    @classmethod
    def at(cls, pose: ArrayLike) -> dict[str, Array]:
        """See `Manipulator.at`; (A, 5) for several arms."""
        x, y, z, yaw, opening = np.moveaxis(np.asarray(pose, np.float64).reshape(-1, 5), -1, 0)
        poses = np.stack([x, y, z, yaw, 0 * yaw, 0 * yaw, opening], axis=-1)
        return {"joints": np.concatenate([foot.joints(p) for foot, p in zip(cls.feet.values(), poses, strict=True)])}

    def read(self, positions: Array) -> dict[str, Array]:
        """See `Manipulator.read`."""
        joints = self._measured(positions)
        poses = [foot.pose(part) for foot, part in self._arms(joints)]
        return {"joints": joints, **dict(zip(self.hands, poses, strict=True))}

    def set(self, data: Any, state: Mapping[str, Array]) -> None:
        """See `Manipulator.set`."""
        rows = state["joints"].reshape(-1, 7)
        half = rows[:, 6:] / 2
        data.qpos[self._place] = np.concatenate([rows[:, :6], half, half], axis=1).ravel()
        data.ctrl[:] = rows.ravel()

    def controls(self, positions: Array, actions: Array) -> Array:
        """See `Manipulator.controls`."""
        ahead = np.tile([AHEAD] * 6 + [1.0], len(self.feet))  # the fingers have a force of their own
        joints = self._measured(positions)
        return limited(actions, joints - ahead, joints + ahead)

    def points(self, actions: Array) -> Array:
        """See `Manipulator.points`."""
        foot, joints = next(self._arms(np.asarray(actions, np.float64)))
        return foot.outside(forward(joints[..., :6])[0])

    def speed(self, state: Mapping[str, Array], velocities: Array) -> Array:
        """See `Manipulator.speed`; of the faster hand, if there are two."""
        moves = velocities[..., self._speeds].reshape(*velocities.shape[:-1], -1, 8)[..., :6]
        joints = state["joints"].astype(np.float64).reshape(*moves.shape[:-1], 7)[..., :6]
        step = 1e-4  # s
        ways = forward(joints + step * moves)[0] - forward(joints)[0]
        return np.linalg.norm(ways, axis=-1).max(-1) / step

    def _measured(self, positions: Array) -> Array:
        """Joints and openings (..., 7 A) at positions (..., nq)."""
        parts = positions[..., self._place].reshape(*positions.shape[:-1], len(self.feet), 8)
        opening = parts[..., 6:7] + parts[..., 7:]
        return np.concatenate([parts[..., :6], opening], axis=-1).reshape(*positions.shape[:-1], -1)

    def _arms(self, joints: Array) -> Iterator[tuple[Foot, Array]]:
        """Each foot and the part (..., 7) of `joints` (..., 7 A) that is of its arm."""
        for index, foot in enumerate(self.feet.values()):
            yield foot, joints[..., 7 * index : 7 * index + 7]


class PoseArm(Arm):
    """An arm whose action is the pose of its hand and the opening of its gripper, as `gripper` holds them.

    Its position is in the frame of the world, where the task states the cube. Its orientation is relative to the foot:
    in the frame of the world, the yaw of an arm that faces -x would jump between pi and -pi in the middle of its work.
    So `policy.elements.Pose` computes the way between two poses in the hand's frame only for a foot that is not turned.
    This foot is turned by pi: where the hand leans, the way leans to the other side. Its inverse is exact all the same.
    """

    position = "gripper"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._solver = PoseSolver(speed=SPEED, duration=PERIOD)

    @classmethod
    def action(cls, highest: float) -> Stream:
        """See `Manipulator.action`."""
        low, high = (-0.15, -0.2, 0.016, -1.2, -0.6, -0.6, 0.0), (0.11, 0.2, highest, 1.2, 0.6, 0.6, 0.08)
        return Stream("action", (7,), units=POSE_UNITS, labels=POSE, low=low, high=high, kinds=POSE_KINDS)

    def controls(self, positions: Array, actions: Array) -> Array:
        """See `Manipulator.controls`."""
        joints, (foot,), poses = self._measured(positions), self.feet.values(), np.asarray(actions, np.float64)
        poses = np.concatenate([foot.inside(poses[..., :3]), poses[..., 3:]], axis=-1)
        rows = zip(joints.reshape(-1, 7), poses.reshape(-1, 7), strict=True)
        targets = np.array([[*self._solver.solve(joint[:6], pose[:6]), pose[6]] for joint, pose in rows])
        return super().controls(positions, targets.reshape(joints.shape))

    def points(self, actions: Array) -> Array:
        """See `Manipulator.points`."""
        return np.asarray(actions)[..., :3]


class TwoArms(Arm):
    """Two arms that face each other across the table, with an action of the joints of the left and of the right arm."""

    observations = _streams("left_", "right_")
    hands: ClassVar[Mapping[str, str]] = {f"{side}_gripper": f"{side}_hand" for side in ("left", "right")}
    cameras: ClassVar[Mapping[str, str]] = {f"{side}_wrist": f"{side}_wrist" for side in ("left", "right")}
    feet: ClassVar[Mapping[str, Foot]] = {"left_": Foot(0.0, 0.36, (0, -1)), "right_": Foot(0.0, -0.36, (0, 1))}
    joints = tuple(f"{side}{name}" for side in ("left_", "right_") for name in (*JOINTS, "left_finger", "right_finger"))
