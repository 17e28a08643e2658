"""The configurations of `recede check`, `recede control` and `recede serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..control.planned import ON_LOST
from .changes import accept_changes
from .checks import (
    LARGEST_SEED,
    MOST_EPISODES,
    PathName,
    is_loopback,
    known_engine,
    not_negative,
    positive,
    strictly_between,
)
from .choices import accept_none, names
from .components.executions import RecedingConfig, check_executions
from .components.robots import SafetyConfig, SimulatedRobotConfig
from .packages import CommandConfig


@dataclass(kw_only=True)
class ControlConfig(CommandConfig):
    """Control a robot in real time. Any key ends the episode and stops the robot, with takeover only Enter does; Ctrl-C
    ends all episodes.
    """

    "Policy"

    run: PathName
    """Run folder, checkpoint folder or folder of `recede export`; or ws://HOST:PORT of `recede serve`, which chose
checkpoint, sampler and engine."""
    checkpoint: str = "last"
    """Checkpoint of a run: last or best."""
    sampler: Any = None
    """Sampler to denoise with. null is that of the policy; sampler.num_steps=4 alone changes only that value."""
    guidance: Any = None
    """What guides every chunk. null leaves the policy as it was trained."""
    context: dict[str, Any] = field(default_factory=dict)
    """Context that is the same in all episodes, as context.goal=[1,0,0,0]. {} takes that of the robot."""
    words: str | None = None
    """Sentence of all episodes, for a policy that observes sentences. null takes those of the robot."""
    text_encoder: PathName | None = None
    """Folder of the text encoder, if it was moved since the training."""
    engine: str | None = None
    """What runs the policy in its own process: eager (PyTorch, on a CPU with one thread), cuda_graph, onnx, openvino,
openvino_fp32 or auto. null is the engine of an exported policy; otherwise the faster of eager and cuda_graph on a GPU,
and eager elsewhere."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""
    seed: int = 0
    """Seed of the policy's noise."""

    "Robot"

    robot: Any = field(default_factory=SimulatedRobotConfig)
    """Robot to control."""
    rate: float = 100.0
    """Commands to the robot per second."""
    execution: dict[str, Any] = field(default_factory=lambda: {"receding": RecedingConfig()})
    """How action chunks follow one another."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    """Limits of every command."""
    takeover: Any = None
    """What a person takes over with, from the policy, as the input of `recede record`. null leaves it to the policy."""

    "Monitors"

    on_lost: str | None = None
    """What to do while a monitor says that the policy is lost: slow, hold (for at most safety.patience_ms) or stop (the
episode). null monitors nothing."""
    monitor: str = "distance"
    """With on_lost=, the monitor that raises the alarm, a row of the table of `recede evaluate monitors=true`."""
    monitors: PathName | None = None
    """With on_lost=, the folder of the monitors. null is the folder monitors of the run."""
    false_alarms: float = 0.05
    """With on_lost=, the share of successful episodes that may raise an alarm."""
    end_when_still: float | None = None
    """Seconds for which the chunks stand still until the task counts as over, and the episode ends. null never does."""

    "Episodes"

    episodes: int = 10
    """Number of episodes."""
    seconds: float | None = None
    """Longest duration of an episode in seconds. null sets no limit."""
    first_seed: int = 100_000
    """Seed of the first simulated episode; episode i has the seed first_seed + i."""
    out: PathName | None = None
    """New or empty folder for the log and the report. null is runs/control/DATE-TIME."""

    def __post_init__(self) -> None:
        positive(self, "episodes", most=MOST_EPISODES)
        positive(self, "rate", most=10_000)  # commands a second; a loop in Python is slower
        not_negative(self, "first_seed", "seed", most=LARGEST_SEED)
        if self.seconds is not None:
            positive(self, "seconds", most=1e9)
        check_executions(self.execution, most=1)
        accept_changes(self, "sampler")
        accept_none(self, "takeover")
        accept_none(self, "guidance")
        known_engine(self.engine)
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if self.on_lost not in (None, *ON_LOST):
            raise ValueError(f"on_lost must be one of {', '.join(ON_LOST)}, or null, got {self.on_lost!r}")
        strictly_between(self, "false_alarms")
        if self.end_when_still is not None:
            positive(self, "end_when_still", most=1e9)
        if self.on_lost is not None and self.is_remote:
            raise ValueError(
                f"on_lost={self.on_lost} needs the policy on this machine: name its run instead of {self.run}"
            )
        chosen = self.sampler, self.guidance, self.words, self.engine, self.checkpoint, self.device, self.context
        if self.is_remote and chosen != (None, None, None, None, "last", "auto", {}):
            raise ValueError(
                f"{self.run} has a checkpoint, a sampler, guidance, context, an engine and a device: leave them out "
                "here, and give them to `recede serve`"
            )

    @property
    def is_remote(self) -> bool:
        """Whether `recede serve` runs the policy."""
        return self.run.startswith(("ws://", "wss://"))


@dataclass(kw_only=True)
class CheckConfig(CommandConfig):
    """Check every promise of a robot before a policy controls it, or of a task before one is trained for it.

    The robot is switched on, commanded to stay where it is, and stopped. Ctrl-C stops it at once.
    """

    robot: Any = None
    """Robot to check. null checks a task."""
    task: str | None = None
    """Task to check: a name, package.module:CONSTANT or gymnasium:ID, see docs/your_task.md."""
    rate: float = 100.0
    """Commands to the robot per second."""
    seconds: float = 2.0
    """How long the robot is commanded to stay where it is, in seconds."""
    max_call_ms: float = 20.0
    """Longest time that a call of the driver may take, in milliseconds. A busy machine needs more."""

    def __post_init__(self) -> None:
        accept_none(self, "robot")
        if (self.robot is None) == (self.task is None):
            raise ValueError(f"one thing is checked: give robot=NAME, one of {', '.join(names('robot'))}, or task=TASK")
        positive(self, "rate", most=10_000)
        positive(self, "seconds", most=3600)
        positive(self, "max_call_ms", most=60_000)


@dataclass(kw_only=True)
class ServeConfig(CommandConfig):
    """Serve a policy to robots over the network. `recede control ws://HOST:PORT` connects to it."""

    "Policy"

    run: PathName
    """Run folder, checkpoint folder, or folder of `recede export`."""
    checkpoint: str = "last"
    """Checkpoint of a run: last or best."""
    sampler: Any = None
    """Sampler to denoise with. null is that of the policy; sampler.num_steps=4 alone changes only that value.
An exported policy keeps its own."""
    guidance: Any = None
    """What guides every chunk. null leaves the policy as it was trained."""
    context: dict[str, Any] = field(default_factory=dict)
    """Context that is the same in all episodes, as context.goal=[1,0,0,0]. {} takes that of the robot."""
    words: str | None = None
    """Sentence of all episodes, for a policy that observes sentences. null takes those of the robot."""
    text_encoder: PathName | None = None
    """Folder of the text encoder, if it was moved since the training."""
    engine: str | None = None
    """What runs the policy: eager (PyTorch), cuda_graph, onnx, openvino, openvino_fp32, or auto for the fastest here.
null is the engine of an exported policy; otherwise the faster of eager and cuda_graph on a GPU, and eager elsewhere."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""
    seed: int = 0
    """Seed of the noise; each session adds its number."""

    "Network"

    host: str = "127.0.0.1"
    """Address to listen at. Any address but the loopback needs a token in RECEDE_TOKEN, here and at the clients."""
    port: int = 8765
    """TCP port. 0 takes a free one."""
    max_sessions: int = 16
    """Most robots at once."""
    max_batch: int = 8
    """Most sessions in one batch of predictions."""

    def __post_init__(self) -> None:
        accept_changes(self, "sampler")
        accept_none(self, "guidance")
        known_engine(self.engine)
        positive(self, "max_sessions", "max_batch", most=10_000)
        not_negative(self, "seed", most=LARGEST_SEED)
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach the server."""
        return not is_loopback(self.host)
