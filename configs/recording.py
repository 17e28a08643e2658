"""The configuration of `recede record`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..datasets.facts import ACTIONS, COMMANDED
from ..specification import nearest
from .checks import LARGEST_SEED, MOST_EPISODES, PathName, not_negative, positive
from .components.robots import SafetyConfig, SimulatedRobotConfig
from .packages import CommandConfig

FARTHEST = 1e9
"""Largest number of a start pose, in units of the action."""


@dataclass(kw_only=True)
class RecordConfig(CommandConfig):
    """Record demonstrations that a person drives. The same command goes on with an interrupted recording."""

    "Episodes"

    task: str
    """Task to record: of a simulated robot its name or location, else any words."""
    out: PathName
    """Folder of the store."""
    episodes: int | None = None
    """Number of episodes that the store shall hold. null goes on until you end it."""
    seconds: float | None = None
    """Longest duration of an episode in seconds. null sets no limit."""
    sentence: str = ""
    """What the episodes show, in a sentence."""
    operator: str | None = None
    """Who drives. null is the name of the user, or script for input=expert."""
    first_seed: int = 0
    """Seed of the first simulated episode; the following episodes use the following seeds."""
    action: str = COMMANDED
    """What the actions of the steps are: commanded, after safety, or input, where the input was."""
    images: str = "zstd"
    """Compression of images in a new store: zstd and png are lossless, jpeg and h264 are not."""

    "Input and robot"

    input: Any
    """What the person drives with."""
    robot: Any = field(default_factory=SimulatedRobotConfig)
    """Robot to drive."""
    rate: float = 100.0
    """Commands to the robot per second."""
    start: list[float] | None = None
    """Pose of a robot before each episode, in units of the action. null is where it is at first."""
    approach: float = 0.1
    """Speed of the way to that pose, in ranges of the action per second."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    """Limits of every command."""

    def __post_init__(self) -> None:
        positive(self, "episodes", most=MOST_EPISODES)
        positive(self, "seconds", most=1e9)
        positive(self, "rate", most=10_000)
        positive(self, "approach", most=1e3)
        not_negative(self, "first_seed", most=LARGEST_SEED)
        if self.action not in ACTIONS:
            raise ValueError(
                f"action must be one of {', '.join(ACTIONS)}, got {self.action!r}: {nearest(self.action, ACTIONS)}"
            )
        if self.start is not None and not all(abs(value) <= FARTHEST for value in self.start):
            raise ValueError(
                f"start must be numbers of at most {FARTHEST:g}, got {self.start}: give a pose of the robot"
            )
