"""`recede train`: train a policy on demonstrations, or resume training."""

from __future__ import annotations

from pathlib import Path

from ..configs.training import TrainConfig
from .next_lines import print_evaluate


def run(config: TrainConfig) -> None:
    """Train, and print how to evaluate the policy, if it has a task."""
    from ..checkpoints.runs import checkpoint_steps, read_metrics
    from ..evaluation.reports.learning import outlook
    from ..files import check_writable
    from ..training.loop import train
    from ..training.processes import joined

    check_writable(Path(config.out))
    before = checkpoint_steps(Path(config.out))
    with joined() as processes:
        path = train(config, processes)
    if not processes.is_first:
        return
    steps = int(path.name)
    print(f"{'nothing to do, trained already' if steps in before else f'trained for {steps} steps'}: {path}")
    if text := outlook(read_metrics(Path(config.out))):
        print(text)
    if (page := Path(config.out) / "training.html").exists():
        print(f"curves: {page}")
    print_evaluate(config.out, config.task, config.imports)
