"""The streams of the tasks of the gantry gripper: what a task observes and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..specification import Specification, Stream

IMAGE_SIZE = 96
"""Side length of the camera images, in pixels."""


def specification(
    *,
    cubes: Sequence[str] = (),
    blocks: Sequence[str] = (),
    slides: Sequence[str] = (),
    marks: Mapping[str, int],
    fixed: Sequence[Stream] = (),
    highest: float = 0.09,
) -> Specification:
    """The observations and the action of a task with the poses of cubes, blocks and marks.

    `gripper` is the point between the fingertips, their yaw, and the distance between them. The action is the gripper
    state to move to. A cube looks the same every 90 degrees, so its stream holds the cosine and sine of four times its
    yaw. `offset` is the position of cubes, blocks and marks relative to the gripper: a grasp needs millimetres, and the
    table measures half a metre.

    blocks: free bodies that look different at every yaw.
    slides: slide joints; each has a stream that says how far it is open.
    marks: name -> 2 for a mark on the table (x, y), 3 for one in the air.
    fixed: streams that stay as they are throughout an episode, such as its goal.
    highest: the highest position of the gripper (m).
    """
    axes: dict[str, Any] = {"units": ("m", "m", "m", "rad", "m"), "labels": ("x", "y", "z", "yaw", "opening")}
    turns = {**dict.fromkeys(cubes, "4_yaw"), **dict.fromkeys(blocks, "yaw")}
    sizes = {**dict.fromkeys(turns, 3), **marks}
    offsets = tuple(f"{name}_{axis}" for name, size in sizes.items() for axis in "xyz"[:size])
    return Specification(
        observations=(
            Stream("gripper", (5,), **axes, low=(-0.3, -0.3, -0.05, -1.5, -0.02), high=(0.3, 0.3, 0.2, 1.5, 0.1)),
            *(
                Stream(
                    name,
                    (5,),
                    units=("m", "m", "m", "1", "1"),
                    labels=("x", "y", "z", f"cos_{turn}", f"sin_{turn}"),
                    low=(-0.5, -0.5, -0.1, -1, -1),
                    high=(0.5, 0.5, 0.5, 1, 1),
                )
                for name, turn in turns.items()
            ),
            *(Stream(name, (1,), units="m", labels=("opening",), low=-0.02, high=0.3) for name in slides),
            *(
                Stream(name, (size,), units="m", labels=tuple("xyz"[:size]), low=-0.3, high=0.3)
                for name, size in marks.items()
            ),
            *fixed,
            Stream("offset", (len(offsets),), units="m", labels=offsets, low=-0.8, high=0.8),
        ),
        action=Stream(
            "action", (5,), **axes, low=(-0.26, -0.22, 0.016, -1.2, 0), high=(0.26, 0.22, highest, 1.2, 0.08)
        ),
        control_dt=0.1,
    )


def with_cameras(streams: Specification, fixed: Sequence[Stream]) -> Specification:
    """The gripper state, the streams `fixed`, and the images of two cameras, which show everything else."""
    cameras = [Stream(camera, (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8") for camera in ("scene", "wrist")]
    return Specification(
        observations=(streams.observations[0], *fixed, *cameras), action=streams.action, control_dt=streams.control_dt
    )
