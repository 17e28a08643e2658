"""The kinds of disturbances. They are loaded with the command line, so they import nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

PUSH_SHARE = 0.1
"""The share of control steps in which the robot is pushed."""


@dataclass(frozen=True)
class Kind:
    """A kind of disturbance."""

    unit: str
    """What its severity is measured in."""
    what: str
    """What happens at severity s."""
    most: float
    """The largest severity."""
    usual: float | None = None
    """The severity of `randomise=`; None if it is no randomisation of the world."""


KINDS = {
    "observation_noise": Kind("of the range", "normal noise of standard deviation s on all numbers and pixels", 1.0),
    "action_noise": Kind("of the range", "normal noise of standard deviation s on every action", 1.0),
    "delay": Kind("ms", "chunks arrive s after they were requested", 3_600_000.0),
    "push": Kind("N", f"a push of s in a random direction in {100 * PUSH_SHARE:g} % of the control steps", 1000.0),
    "camera": Kind("m", "each camera is moved by s in a random direction for an episode", 10.0, 0.02),
    "light": Kind("of the brightness", "the light is brighter or darker by up to s for an episode", 1.0, 0.3),
    "mass": Kind("of the mass", "each loose body is heavier or lighter by up to s for an episode", 0.95, 0.5),
    "friction": Kind("of the friction", "each surface has up to s more or less friction for an episode", 0.95, 0.3),
    "colour": Kind("of full colour", "each colour is shifted by up to s for an episode", 1.0, 0.15),
}
"""Name -> kind. An environment carries out push and all that has a usual severity itself; see `envs.task`."""

RANDOMISED = tuple(name for name, kind in KINDS.items() if kind.usual is not None)
"""What `randomise=` may name."""
