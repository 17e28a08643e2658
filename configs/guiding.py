"""The configuration of `recede train-classifier`."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import LARGEST_SEED, LARGEST_SIZE, MOST_UPDATES, PathName, condition, not_negative, positive, share
from .packages import CommandConfig


@dataclass(kw_only=True)
class TrainClassifierConfig(CommandConfig):
    """Train a small classifier of noisy chunks: does the episode of a chunk fulfil a condition?

    `guidance=classifier` then makes the policy prefer chunks of such episodes, or of the others.
    """

    "Policy and demonstrations"

    run: PathName
    """Run folder of the policy to guide."""
    dataset: PathName
    """Store of demonstrations of both kinds: of those that fulfil the condition and of others."""
    condition: str
    """Condition of the episodes to prefer, as outcome=success or notes.side=left."""
    out: PathName
    """Folder for the classifier. One that is there is replaced."""
    checkpoint: str = "last"
    """Checkpoint of the run: last or best."""

    "Training"

    steps: int = 1000
    """Weight updates."""
    batch_size: int = 256
    """Windows per update."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    size: int = 128
    """Size of the two hidden layers."""
    held_out: float = 0.1
    """Share of the episodes that measure the accuracy."""
    seed: int = 0
    """Seed of the weights, the order of the windows and the noise."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        condition(self, "condition")
        positive(self, "steps", "batch_size", most=MOST_UPDATES)
        positive(self, "learning_rate", most=1.0)
        positive(self, "size", most=LARGEST_SIZE)
        share(self, "held_out")
        not_negative(self, "seed", most=LARGEST_SEED)
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
