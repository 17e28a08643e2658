"""Messages of ROS 2 as rows of columns: what each type holds, in which order and units.

The names and the units are those of the definitions in sensor_msgs, geometry_msgs, trajectory_msgs and std_msgs, and of
REP 103.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .pictures import decoded, picture_format

ENCODINGS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
"""Encoding of an Image -> its channels."""

POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
POSE_KINDS = ("position",) * 3 + ("quaternion_xyzw",) * 4
TWIST = ("vx", "vy", "vz", "wx", "wy", "wz")


class Row(NamedTuple):
    """What a message holds for one column."""

    values: NDArray[Any]
    labels: tuple[str, ...] = ()
    """Names of the dimensions. Where `by_label` is true, a message may have them in another order."""
    units: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    by_label: bool = False
    note: str = ""


class MessageType(NamedTuple):
    """A type of messages. rows: a decoded message -> the end of a column's key -> its row, or ValueError."""

    has_header: bool
    rows: Callable[[Any], Mapping[str, Row]]


def _joints(message: Any) -> dict[str, Row]:
    fields = {".position": message.position, ".velocity": message.velocity, ".effort": message.effort}
    return {end: _named(message.name, values) for end, values in fields.items() if len(values)}


def _named(names: Any, values: Any) -> Row:
    labels = tuple(names)
    if labels and len(labels) != len(values):
        raise ValueError(f"it names {len(labels)} joints and has {len(values)} values")
    if len(set(labels)) < len(labels):
        raise ValueError(f"it names a joint twice: {', '.join(labels)}")
    return Row(np.array(values, np.float64), labels, by_label=bool(labels))


def _trajectory(message: Any) -> dict[str, Row]:
    if len(message.points) != 1:
        raise ValueError(f"a trajectory must have one point to be a command, and has {len(message.points)}")
    return {".positions": _named(message.joint_names, message.points[0].positions)}


def _pose(pose: Any) -> dict[str, Row]:
    place, turn = pose.position, pose.orientation
    values = np.array([place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w], np.float64)
    return {"": Row(values, POSE, ("m",) * 3 + ("1",) * 4, POSE_KINDS)}


def _twist(twist: Any) -> dict[str, Row]:
    way, turn = twist.linear, twist.angular
    values = np.array([way.x, way.y, way.z, turn.x, turn.y, turn.z], np.float64)
    return {"": Row(values, TWIST, ("m/s",) * 3 + ("rad/s",) * 3)}


def _numbers(dtype: str) -> Callable[[Any], dict[str, Row]]:
    return lambda message: {"": Row(np.atleast_1d(np.array(message.data, dtype)))}


def _image(message: Any) -> dict[str, Row]:
    channels = ENCODINGS.get(message.encoding, 0)
    if not channels:
        raise ValueError(f"the encoding of its images is {message.encoding!r}, not {', '.join(ENCODINGS)}")
    height, width, stride = message.height, message.width, message.step
    if height < 1 or not channels * width <= stride or len(message.data) != height * stride:
        raise ValueError(
            f"its image of {height} x {width} pixels must have {height} rows of {stride} bytes, got {len(message.data)}"
        )
    lines = np.frombuffer(message.data, np.uint8).reshape(height, stride)[:, : channels * width]
    image = lines.reshape(height, width, channels)
    return {"": Row(image[:, :, ::-1] if message.encoding == "bgr8" else image, note=message.encoding)}


def _compressed(message: Any) -> dict[str, Row]:
    content = bytes(message.data)
    if not (name := picture_format(content)):
        raise ValueError(f"its images ({message.format!r}) are neither JPEG nor PNG")
    return {"": Row(decoded(content, f"its {name}"), note=name)}


TYPES = {
    "sensor_msgs/msg/JointState": MessageType(True, _joints),
    "sensor_msgs/msg/Image": MessageType(True, _image),
    "sensor_msgs/msg/CompressedImage": MessageType(True, _compressed),
    "trajectory_msgs/msg/JointTrajectory": MessageType(True, _trajectory),
    "geometry_msgs/msg/PoseStamped": MessageType(True, lambda message: _pose(message.pose)),
    "geometry_msgs/msg/Pose": MessageType(False, _pose),
    "geometry_msgs/msg/TwistStamped": MessageType(True, lambda message: _twist(message.twist)),
    "geometry_msgs/msg/Twist": MessageType(False, _twist),
    "std_msgs/msg/Float64MultiArray": MessageType(False, _numbers("float64")),
    "std_msgs/msg/Float32MultiArray": MessageType(False, _numbers("float32")),
    "std_msgs/msg/Float64": MessageType(False, _numbers("float64")),
    "std_msgs/msg/Float32": MessageType(False, _numbers("float32")),
    "std_msgs/msg/Bool": MessageType(False, _numbers("bool")),
}
"""The types that are read."""
