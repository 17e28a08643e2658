"""The configuration of `recede doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import MOST_UPDATES, PathName, condition, positive
from .choices import accept_none
from .datasets import PICTURES
from .packages import CommandConfig


@dataclass(kw_only=True)
class DoctorConfig(CommandConfig):
    """Say what works here and what does not: the machine, and a store, a run or a robot. Each finding has a remedy.

    The exit status is 1 if there is a problem.
    """

    "What to look at"

    path: PathName | None = None
    """Folder of a store, of a run or of a checkpoint. null looks at the machine and at the robot alone."""
    machine: bool = True
    """Look at packages, cores, memory, disk, GPU and renderer. false leaves them out, which saves time."""

    "Demonstrations"

    dataset: PathName | None = None
    """Demonstrations that a run is held against. null is those that it was trained on."""
    task: str | None = None
    """Task of the demonstrations. A replay buffer needs one."""
    episodes: str | None = None
    """Which of the episodes, as in "episode=3". null takes all."""

    "Training on one episode"

    overfit: bool = False
    """Train on the first of the episodes alone, and say whether the pipeline can learn at all."""
    steps: int = 300
    """Updates of that training."""
    device: str = "auto"
    """Device of that training, such as cpu or cuda:0. auto takes a GPU if there is one."""

    "Robot"

    robot: Any = None
    """Robot to check, as `recede check` does: it is switched on and stopped. null looks at none."""
    rate: float = 100.0
    """Commands to the robot per second."""
    seconds: float = 2.0
    """How long the robot is commanded to stay where it is, in seconds."""
    max_call_ms: float = 20.0
    """Longest time that a call of the driver may take, in milliseconds. A busy machine needs more."""

    "Results"

    json: PathName | None = None
    """File for all findings and facts, for a bug report. It holds no secrets, no user names and no homes."""
    out: PathName | None = None
    """File of the picture of what the encoder sees. null is doctor.png in the run folder."""

    def __post_init__(self) -> None:
        accept_none(self, "robot")
        condition(self, "episodes")
        positive(self, "steps", most=MOST_UPDATES)
        positive(self, "rate", most=10_000)
        positive(self, "seconds", most=3600)
        positive(self, "max_call_ms", most=60_000)
        if self.overfit and self.path is None:
            raise ValueError("overfit=true needs demonstrations: name a store or a run")
        if not self.machine and self.path is None and self.robot is None:
            raise ValueError("machine=false leaves nothing to look at: name a store, a run or a robot")
        for name in ("dataset", "task", "episodes", "out"):
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} needs a store or a run: name one, or leave it out")
        if self.out is not None and not self.out.lower().endswith(PICTURES):
            raise ValueError(
                f"out must be the file of a picture, which ends in {', '.join(PICTURES)}, got {self.out!r}"
            )
