"""`recede collect`: record demonstrations with a task's scripted expert."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import CollectConfig
from ..envs.catalogue import load_task
from .next_lines import print_train


def run(config: CollectConfig) -> None:
    """Record, and print how often the expert succeeded."""
    from ..recording.scripted import collect

    collected = collect(
        load_task(config.task),
        Path(config.out),
        episodes=config.episodes,
        first_seed=config.first_seed,
        images=config.images,
    )
    print(f"{collected.successes} demonstrations in {config.out}")
    if collected.failures:
        print(f"{collected.failures} failures of the expert in {collected.failures_path}")
    if collected.successes:
        print_train(config.task, config.out, config.imports)
