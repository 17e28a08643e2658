"""The configurations of `recede export` and `recede import-checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..policy.engines.interface import FORMATS
from ..specification import nearest
from .changes import accept_changes
from .checks import PathName, condition, positive
from .choices import require_choices
from .components.policies import HorizonsConfig
from .packages import CommandConfig


@dataclass(kw_only=True)
class ImportCheckpointConfig(CommandConfig):
    """Convert a policy that another library trained into a checkpoint.

    The imported policy acts as the original. The weights show the network, except for the heads of a transformer: if
    it does not have 4, add policy/network=transformer policy.network.num_heads=N. A LeRobot folder names its sampler. A
    state dict does not; it is sampled by DDPM in 100 steps, as in the reference implementation. If it was sampled by
    DDIM, add policy/sampler=reference_ddim policy.sampler.num_steps=N.
    """

    "Source and result"

    source: PathName
    """State dict (safetensors or torch) of the reference implementation, without images; or a LeRobot policy folder."""
    out: PathName
    """Checkpoint folder to write."""

    "What a state dict does not say"

    task: str | None = None
    """Task that the policy was trained for. null needs control_dt."""
    streams: list[str] = field(default_factory=list)
    """Observations of the task that the policy takes, in the order of its input. Needed if it has several of a kind."""
    control_dt: float | None = None
    """Control period in seconds. null takes the period of the task."""
    horizons: HorizonsConfig = field(default_factory=HorizonsConfig)
    """Horizons of the training, in control steps. A LeRobot folder contains its own."""
    policy: Any = field(metadata={"choice": "reference"})
    """Configuration of the trained policy. A LeRobot folder contains its own."""

    def __post_init__(self) -> None:
        require_choices(self, "policy")
        self.horizons.build()
        if self.control_dt is not None:
            positive(self, "control_dt", most=3600)


@dataclass(kw_only=True)
class ExportConfig(CommandConfig):
    """Export a policy to a folder that predicts without PyTorch.

    `recede evaluate`, `recede control`, `recede serve` and `recede.load_engine` open it. An engine whose chunks differ
    from those of PyTorch is excluded.
    """

    run: PathName
    """Run folder or checkpoint folder."""
    out: PathName
    """Folder to write. It must not exist yet."""
    engine: str = "auto"
    """onnx, openvino (which chooses its precision where it runs), openvino_fp32, or auto for the fastest here."""
    checkpoint: str = "last"
    """Checkpoint of a run: last or best."""
    sampler: Any = None
    """Sampler to denoise with, which the folder keeps. null is that of the policy; sampler.num_steps=4 alone
changes only that value."""
    dataset: PathName | None = None
    """Demonstrations whose observations compare the engines. null draws observations from the normaliser's ranges."""
    episodes: str | None = None
    """Which of its episodes, as in "outcome=success and operator!=script". null takes all."""
    task: str | None = None
    """Task that the dataset shows, for replay buffers."""

    def __post_init__(self) -> None:
        accept_changes(self, "sampler")
        if self.engine not in (*FORMATS, "auto"):
            raise ValueError(
                f"engine must be auto or one that runs without PyTorch, got {self.engine!r}: "
                + nearest(self.engine, (*FORMATS, "auto"))
            )
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        condition(self, "episodes")
        if self.episodes is not None and self.dataset is None:
            raise ValueError(f"episodes={self.episodes} needs a dataset: add dataset=, or leave episodes out")
        if self.task is not None and self.dataset is None:
            raise ValueError(f"task={self.task} needs a dataset: add dataset=, or leave task out")
