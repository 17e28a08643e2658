"""The configurations of the commands on trained policies: `recede export` and `import-checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..policy.engines.interface import FORMATS
from ..specification import nearest
from .choices import require_choices
from .components.policies import HorizonsConfig
from .packages import CommandConfig


@dataclass(kw_only=True)
class ImportCheckpointConfig(CommandConfig):
    """Make a checkpoint of a policy that another implementation has trained.

    source: a file with the state dict of a policy for vectors of the reference implementation, of safetensors or torch,
    or a folder of LeRobot's, whose policies may see images too. out: the checkpoint folder. task: what it was trained
    for, and streams: the task's observations in the order in which they lie side by side there, where there is more
    than one of a kind. Without a task the control period, control_dt, is needed, in seconds.

    horizons and policy: as it was trained; a folder of LeRobot contains them. The weights show the network, except for
    policy/network=transformer policy.network.num_heads=N if a transformer does not have 4 heads.

    The policy acts as it did there. LeRobot's settings name its sampler. A state dict does not: it is sampled as the
    reference implementation does by default, by DDPM in 100 steps. If it was sampled by DDIM, add
    policy/sampler=reference_ddim policy.sampler.num_steps=N. Both visit the levels of spacing=leading, and DDIM keeps
    the epsilon of the network, as diffusers does.
    """

    source: str
    out: str
    policy: Any = field(metadata={"choice": "reference"})
    task: str | None = None
    streams: list[str] = field(default_factory=list)
    control_dt: float | None = None
    horizons: HorizonsConfig = field(default_factory=HorizonsConfig)

    def __post_init__(self) -> None:
        require_choices(self, "policy")
        self.horizons.build()


@dataclass(kw_only=True)
class ExportConfig(CommandConfig):
    """Make a folder of a trained policy that predicts without PyTorch, by `recede.load_engine`.

    run: a run folder or a checkpoint folder. out: the folder to write, which must not be there yet. engine: onnx,
    openvino (in the precision that it chooses on the machine where it runs) or openvino_fp32, or auto for the fastest
    of them here. An engine whose chunks are not those of PyTorch is excluded. checkpoint: which of a run's, "last" or
    "best". sampler: to denoise with, where it is not the one that the policy was trained to have; the folder keeps it.
    dataset: demonstrations whose observations the engines are compared on; without them these are drawn from the ranges
    of the normalizer. task: what the dataset is of, for a replay buffer of others.
    """

    run: str
    out: str
    engine: str = "auto"
    checkpoint: str = "last"
    sampler: Any = None
    dataset: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in (*FORMATS, "auto"):
            raise ValueError(
                f"engine must be one that needs no PyTorch, or auto, got {self.engine!r}: "
                + nearest(self.engine, (*FORMATS, "auto"))
            )
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if self.task is not None and self.dataset is None:
            raise ValueError("task says what the dataset is of: give dataset= too, or leave it out")
