"""The streams of the table tasks: what a task observes and commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..specification import Specification, Stream
from .manipulator import PERIOD, Manipulator

IMAGE_SIZE = 96
"""Side length of the camera images, in pixels."""


@dataclass(frozen=True)
class Things:
    """What a scene holds beside the robot."""

    cubes: tuple[str, ...] = ()
    """Free bodies that look the same every 90 degrees."""
    blocks: tuple[str, ...] = ()
    """Free bodies that look different at every yaw."""
    slides: tuple[str, ...] = ()
    """Slide joints; each has a stream that says how far it is open."""
    marks: Mapping[str, int] = field(default_factory=dict)
    """Name -> 2 for a mark on the table (x, y), 3 for one in the air."""
    fixed: tuple[Stream, ...] = ()
    """Streams that stay as they are throughout an episode, such as its goal."""
    highest: float = 0.09
    """The highest position of a hand (m) that can be commanded."""


def specification(robot: type[Manipulator], things: Things) -> Specification:
    """The observations and the action of a robot, with the poses of cubes, blocks and marks.

    A cube looks the same every 90 degrees, so its stream holds the cosine and sine of four times its yaw. `offset` is
    the position of cubes, blocks and marks relative to every hand: a grasp needs millimetres, and the table measures
    half a metre.
    """
    turns = {**dict.fromkeys(things.cubes, "4_yaw"), **dict.fromkeys(things.blocks, "yaw")}
    sizes = {**dict.fromkeys(turns, 3), **things.marks}
    offsets = tuple(
        f"{hand.removesuffix('gripper')}{name}_{axis}"
        for hand in robot.hands
        for name, size in sizes.items()
        for axis in "xyz"[:size]
    )
    return Specification(
        observations=(
            *robot.observations,
            *(_pose(name, turn) for name, turn in turns.items()),
            *(
                Stream(name, (1,), units="m", labels=("opening",), low=-0.02, high=0.3, kinds="position")
                for name in things.slides
            ),
            *(
                Stream(name, (size,), units="m", labels=tuple("xyz"[:size]), low=-0.3, high=0.3, kinds="position")
                for name, size in things.marks.items()
            ),
            *things.fixed,
            Stream("offset", (len(offsets),), units="m", labels=offsets, low=-0.8, high=0.8, kinds="position"),
        ),
        action=robot.action(things.highest),
        control_dt=PERIOD,
    )


def _pose(name: str, turn: str) -> Stream:
    labels: dict[str, Any] = {"labels": ("x", "y", "z", f"cos_{turn}", f"sin_{turn}")}
    limits: dict[str, Any] = {"low": (-0.5, -0.5, -0.1, -1, -1), "high": (0.5, 0.5, 0.5, 1, 1)}
    kinds = (*["position"] * 3, *["cosine_sine"] * 2)
    return Stream(name, (5,), units=("m", "m", "m", "1", "1"), kinds=kinds, **labels, **limits)


def with_cameras(robot: type[Manipulator], things: Things) -> Specification:
    """The streams of the robot, the fixed streams, and the images of the cameras, which show everything else."""
    cameras = [Stream(camera, (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8") for camera in ("scene", *robot.cameras)]
    streams = specification(robot, things)
    return Specification(
        observations=(*robot.observations, *things.fixed, *cameras),
        action=streams.action,
        control_dt=streams.control_dt,
    )
