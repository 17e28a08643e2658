"""Everything that a training starts from, in one value."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..configs.training import TrainConfig
from ..datasets.augmentation import Augmentation
from ..datasets.demonstrations import Demonstrations
from ..datasets.windows import Windows
from ..envs.task import Task
from ..policy.encoders.text import TextEncoder
from ..policy.interface import Policy
from .order import Mix
from .schedule import Stage


class Prepared(NamedTuple):
    """Everything that a training starts from; nothing is written yet."""

    config: TrainConfig
    """With a value for every setting that was chosen from the demonstrations."""
    chosen: dict[str, str]
    """Key of each such setting -> the reason."""
    task: Task | None
    text: TextEncoder | None
    """Embeds the sentences of the episodes, if the policy observes them."""
    demonstrations: Demonstrations
    """All episodes, perhaps followed by their mirror images."""
    windows: Windows
    """Windows of the training episodes."""
    mix: Mix | None
    """How often those of each dataset are drawn; None if all are drawn equally often."""
    validation: Windows
    """Windows of the held-out episodes."""
    validation_of: dict[str, Windows]
    """Name of each of several datasets -> those of its held-out episodes; a dataset without any is left out."""
    augmentation: Augmentation
    policy: Any
    teacher: Policy | None
    device: torch.device
    manifest: dict[str, Any]
    """What a checkpoint says of the policy and its training."""
    begun: dict[str, Any] | None
    """The manifest of the checkpoint that the training resumes from."""
    stages: list[Stage]
    """The last one is that of this command."""
    notes: list[str]
    """What the user should know, a sentence each."""
