"""`recede train`: train a policy on demonstrations, or resume training."""

from __future__ import annotations

from pathlib import Path

from ..configs.training import TrainConfig
from .next_lines import print_evaluate


def run(config: TrainConfig) -> None:
    """Train, and print how to evaluate the policy, if it has a task."""
    from ..checkpoints.runs import checkpoint_steps
    from ..training.loop import train

    is_done = config.steps in checkpoint_steps(Path(config.out))
    path = train(config)
    print(f"{'nothing to do, trained already' if is_done else f'trained for {config.steps} steps'}: {path}")
    print_evaluate(config.out, config.task, config.imports)
