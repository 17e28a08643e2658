"""The hands of a person, as `recede record` and `recede control` build them."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Any

from ..configs.components.inputs import ExpertInputConfig, InputConfig, KeyboardInputConfig
from ..configs.notation import describe

if TYPE_CHECKING:
    from ..control.led import Led
    from ..robots.interface import Robot


def build_hands(chosen: InputConfig, robot: Robot) -> Led:
    """The input of a person and its clutch, for a robot that is not started yet.

    Raises ValueError if the input cannot drive the robot, or needs a terminal that is not there.
    """
    from ..control.led import Led

    teleoperator = chosen.build(robot)
    clutch = chosen.clutch(teleoperator, robot.specification)
    if isinstance(chosen, KeyboardInputConfig) and not sys.stdin.isatty():
        raise ValueError("a keyboard needs a terminal to type at: run the command in one, or choose another input")
    return Led(teleoperator, clutch)


def facts_of(chosen: InputConfig, operator: str | None = None) -> dict[str, Any]:
    """Who drives, and with what, for `EpisodeFacts`. operator: by default the user, or "script" for the expert."""
    default = "script" if isinstance(chosen, ExpertInputConfig) else getpass.getuser()
    return {"operator": operator or default, "input": describe(chosen)["choice"]}
