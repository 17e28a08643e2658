"""MCAP recordings of ROS 2, written with the writer of the format and the definitions of the messages."""

import io
from types import SimpleNamespace as Message

import numpy as np
from mcap.writer import Writer as Container
from mcap_ros2.writer import Writer
from PIL import Image

BAR = "=" * 80
HEADER = f"""{BAR}
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
{BAR}
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
POSE = f"""geometry_msgs/Point position
geometry_msgs/Quaternion orientation
{BAR}
MSG: geometry_msgs/Point
float64 x
float64 y
float64 z
{BAR}
MSG: geometry_msgs/Quaternion
float64 x
float64 y
float64 z
float64 w
"""
TWIST = f"""geometry_msgs/Vector3 linear
geometry_msgs/Vector3 angular
{BAR}
MSG: geometry_msgs/Vector3
float64 x
float64 y
float64 z
"""
LAYOUT = f"""{BAR}
MSG: std_msgs/MultiArrayLayout
std_msgs/MultiArrayDimension[] dim
uint32 data_offset
{BAR}
MSG: std_msgs/MultiArrayDimension
string label
uint32 size
uint32 stride
"""
DEFINITIONS = {
    "sensor_msgs/msg/JointState": f"""std_msgs/Header header
string[] name
float64[] position
float64[] velocity
float64[] effort
{HEADER}""",
    "sensor_msgs/msg/Image": f"""std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
{HEADER}""",
    "sensor_msgs/msg/CompressedImage": f"std_msgs/Header header\nstring format\nuint8[] data\n{HEADER}",
    "trajectory_msgs/msg/JointTrajectory": f"""std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint[] points
{BAR}
MSG: trajectory_msgs/JointTrajectoryPoint
float64[] positions
float64[] velocities
float64[] accelerations
float64[] effort
builtin_interfaces/Duration time_from_start
{BAR}
MSG: builtin_interfaces/Duration
int32 sec
uint32 nanosec
{HEADER}""",
    "geometry_msgs/msg/PoseStamped": (
        f"std_msgs/Header header\nPose pose\n{HEADER}{BAR}\nMSG: geometry_msgs/Pose\n{POSE}"
    ),
    "geometry_msgs/msg/Pose": POSE,
    "geometry_msgs/msg/TwistStamped": (
        f"std_msgs/Header header\nTwist twist\n{HEADER}{BAR}\nMSG: geometry_msgs/Twist\n{TWIST}"
    ),
    "geometry_msgs/msg/Twist": TWIST,
    "std_msgs/msg/Float64MultiArray": f"std_msgs/MultiArrayLayout layout\nfloat64[] data\n{LAYOUT}",
    "std_msgs/msg/Float32MultiArray": f"std_msgs/MultiArrayLayout layout\nfloat32[] data\n{LAYOUT}",
    "std_msgs/msg/Float64": "float64 data\n",
    "std_msgs/msg/Float32": "float32 data\n",
    "std_msgs/msg/Bool": "bool data\n",
    "std_msgs/msg/String": "string data\n",
}
BEGIN = 1_700_000_000_000_000_000
"""When the recordings begin, ns."""


def nanoseconds(time):
    return BEGIN + round(time * 1e9)


def header(time):
    """A header of a time in seconds from the beginning; None is the time 0, as of a driver that sets none."""
    stamp = 0 if time is None else nanoseconds(time)
    return Message(stamp=Message(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="")


def joints(time, position, names=("a", "b", "c"), velocity=(), effort=()):
    return Message(header=header(time), name=list(names), position=list(position), velocity=velocity, effort=effort)


def image(time, pixels, encoding="rgb8", padding=0):
    height, width, channels = pixels.shape
    lines = np.pad(pixels.reshape(height, width * channels), ((0, 0), (0, padding)), constant_values=77)
    return Message(
        header=header(time),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * channels + padding,
        data=lines.tobytes(),
    )


def compressed(time, pixels, kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, kind)
    return Message(header=header(time), format=kind, data=buffer.getvalue())


def pose(values):
    x, y, z, qx, qy, qz, qw = values
    return Message(position=Message(x=x, y=y, z=z), orientation=Message(x=qx, y=qy, z=qz, w=qw))


def twist(values):
    vx, vy, vz, wx, wy, wz = values
    return Message(linear=Message(x=vx, y=vy, z=vz), angular=Message(x=wx, y=wy, z=wz))


def numbers(values):
    return Message(layout=Message(dim=[], data_offset=0), data=list(values))


def write(path, messages, *, silent=(), chunk_size=20_000, **options):
    """Write messages (log time in s, topic, type, message), in this order.

    silent: topics (name, type) that are announced and never speak. options: of the writer of the container.
    """
    with path.open("wb") as file:
        writer = Writer(io.BytesIO())
        writer._writer = Container(file, chunk_size=chunk_size, **options)
        writer._writer.start(profile="ros2")
        schemas = {name: writer.register_msgdef(name, text) for name, text in DEFINITIONS.items()}
        for topic, kind in silent:
            writer._writer.register_channel(topic, "cdr", schemas[kind].id)
        for time, topic, kind, message in messages:
            writer.write_message(topic, schemas[kind], message, log_time=nanoseconds(time))
        writer.finish()
    return path


def write_bag(folder, pieces):
    """A folder of rosbag2 whose recording is split into several files."""
    folder.mkdir(parents=True)
    names = [f"{folder.name}_{index}.mcap" for index in range(len(pieces))]
    for name, messages in zip(names, pieces, strict=True):
        write(folder / name, messages)
    listed = "".join(f"    - {name}\n" for name in names)
    text = f"rosbag2_bagfile_information:\n  version: 5\n  storage_identifier: mcap\n  relative_file_paths:\n{listed}"
    (folder / "metadata.yaml").write_text(text)
    return folder


def in_turn(*streams):
    """The messages of several streams in the order of their log times."""
    return sorted((message for stream in streams for message in stream), key=lambda message: message[0])
