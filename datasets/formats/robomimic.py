"""What robomimic and robosuite note of an environment in `env_args`, and what that says of the actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .hdf5_arrays import number


def control_rate(arguments: Any) -> float | None:
    """Actions a second, if they are noted."""
    return number(_settings(arguments), "control_freq")


def action_meaning(arguments: Any, size: int) -> tuple[str | list[str], str]:
    """What an action of `size` dimensions is proposed to mean, as in a mapping, and why.

    The controller says whether poses are differences. The last dimension of each robot is the target of its gripper.
    """
    settings = _settings(arguments)
    marks = set(_marks(settings.get("controller_configs")))
    if "velocity" in marks and len(marks) == 1:
        pose, why = "velocity", "the controller takes velocities"
    elif marks == {"difference"}:
        pose, why = "difference", "the controller takes differences"
    else:
        why = "the controller takes targets" if marks == {"target"} else "" if not marks else "controllers differ"
        return "target", why
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


def _marks(controller: Any) -> Iterator[str]:
    """What each controller of an arm takes: difference, target or velocity. Controllers may lie within others."""
    if isinstance(controller, list):
        for entry in controller:
            yield from _marks(entry)
    if not isinstance(controller, Mapping):
        return
    name, mode = str(controller.get("type", "")), controller.get("input_type")
    if name == "JOINT_VELOCITY":
        yield "velocity"
    elif name.startswith(("OSC", "IK", "JOINT_POSITION")):
        is_difference = controller.get("control_delta", True if mode is None else mode == "delta")
        yield "difference" if is_difference else "target"
    for key, value in controller.items():
        if key != "gripper":
            yield from _marks(value)
