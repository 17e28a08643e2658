"""What robomimic and robosuite note of an environment in `env_args`, and what that says of the actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .hdf5_arrays import number

ARMS = ("OSC", "IK")
"""How the names of controllers of a hand's pose begin. If there are any, those of a torso or a base do not count."""

PLURALS = {"difference": "differences", "target": "targets", "velocity": "velocities"}


def control_rate(arguments: Any) -> float | None:
    """Actions a second, if they are noted."""
    return number(_settings(arguments), "control_freq")


def action_meaning(arguments: Any, size: int) -> tuple[str | list[str], str]:
    """What an action of `size` dimensions is proposed to mean, as in a mapping, and why.

    The controller says whether poses are differences. The last dimension of each robot is the target of its gripper.
    """
    settings = _settings(arguments)
    marks = list(_marks(settings.get("controller_configs")))
    arms = {mark for name, mark in marks if name.startswith(ARMS)} or {mark for _, mark in marks}
    if len(arms) != 1:
        return "target", "its controllers take different things" if arms else ""
    pose = arms.pop()
    why = f"the controller takes {PLURALS[pose]}"
    if pose == "target":
        return pose, why
    robots = settings.get("robots")
    count = len(robots) if isinstance(robots, list) and robots else 1
    if size % count or size // count < 2:
        return pose, why
    one = [pose] * (size // count - 1) + ["target"]
    return one * count, f"{why}, and the last dimension of each robot is its gripper's target"


def _settings(arguments: Any) -> Mapping[str, Any]:
    """`env_kwargs`, or nothing."""
    settings = arguments.get("env_kwargs") if isinstance(arguments, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}


def _marks(controller: Any) -> Iterator[tuple[str, str]]:
    """The name of each controller, and what it takes. Controllers may lie within others."""
    if isinstance(controller, list):
        for entry in controller:
            yield from _marks(entry)
    if not isinstance(controller, Mapping):
        return
    name, mode = str(controller.get("type", "")), controller.get("input_type")
    if name == "JOINT_VELOCITY":
        yield name, "velocity"
    elif name.startswith((*ARMS, "JOINT_POSITION")):
        is_difference = controller.get("control_delta", True if mode is None else mode == "delta")
        yield name, "difference" if is_difference else "target"
    for key, value in controller.items():
        if key != "gripper":
            yield from _marks(value)
