"""The interface between a person's hands and a recording.

An input implements `Teleoperator`; `teleoperation.check.check_teleoperator` checks every promise of it.

Shapes: A axes of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..robots.interface import Reading

KINDS = ("absolute", "relative", "velocity")
"""What the values of an input mean: a position, a way since an arbitrary moment, or a velocity."""

PHASES = ("ready", "recording", "ended", "preparing", "controlled")
"""What a recording does: it waits to begin, records, waits for the decision about an episode, or resets the robot. Or a
policy controls the robot, and the hands may take over."""

ORDERS = ("begin", "end", "keep", "discard", "success", "failure", "task", "sentence", "undo", "quit")
"""What hands may ask of a recording; see `Order`."""


class Order(NamedTuple):
    """What hands ask of a recording.

    `begin` and `end` bound an episode; `keep` and `discard` decide about it, and end it first if need be. `success` and
    `failure` mark its outcome. `task` and `sentence` describe it, and the episodes after it, in the words of `text`.
    `undo` removes the last episode that this recording kept; `quit` ends the recording. While a policy controls the
    robot, `end`, `success`, `failure` and `quit` count.
    """

    kind: str
    """One of `ORDERS`."""
    text: str = ""
    """The words of `task` and `sentence`."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a recording shows to the hands."""

    phase: str
    """One of `PHASES`."""
    num_episodes: int
    """Number of episodes in the store."""
    seconds: float = 0.0
    """Duration of the episode under way, or of the one that ended, s."""
    is_led: bool = False
    """Whether the clutch is closed, so that the robot follows the hands."""
    outcome: str | None = None
    """`success` or `failure`, by the mark of the hands or the judgement of the simulation; None without either."""
    message: str = ""
    """What the hands should know now: why the robot does not follow, or why an episode cannot be kept."""
    task: str = ""
    """The task of the episode."""
    sentence: str = ""
    """The description of the episode."""
    keys: bytes = b""
    """Keys that were typed at the terminal since the last call, and that the recording does not use itself."""


class Teleoperator(Protocol):
    """An input that the hands of a person move. All times are seconds on the clock of the loop.

    `read` and `orders` return at once. They raise RuntimeError before `start`, and ConnectionError if the input is
    lost.
    """

    kind: str
    """One of `KINDS`."""
    axes: tuple[str, ...]
    """Names of its axes; `teleoperation.axes` maps them to the dimensions of a robot."""

    def start(self) -> None:
        """Connect. Raises ConnectionError if the input cannot be reached."""
        ...

    def read(self, now: float) -> Reading | None:
        """The newest value of its axes (A,), and when the hands were there. A velocity is a second's way.

        None if nobody holds the input: the robot then stays where it is.
        """
        ...

    def orders(self, status: Status) -> Sequence[Order]:
        """What the hands have asked for since the last call, by buttons for instance; empty if the input has none."""
        ...

    def close(self) -> None:
        """Release the input for good. May be called more than once."""
        ...
