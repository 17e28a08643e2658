"""`recede train`: train a policy on demonstrations, or resume training."""

from __future__ import annotations

from pathlib import Path

from ..configs.notation import shown
from ..configs.training import TrainConfig


def run(config: TrainConfig) -> None:
    """Train, and print the next command."""
    from ..checkpoints.runs import checkpoint_steps
    from ..training.loop import train

    is_done = config.steps in checkpoint_steps(Path(config.out))
    path = train(config)
    print(f"{'nothing to do, trained already' if is_done else f'trained for {config.steps} steps'}: {path}")
    print(f"next: {shown('evaluate' if config.task else 'control', config.out, imports=config.imports)}")
