"""`recede collect`: record a task's scripted expert into a store."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import CollectConfig
from ..envs.catalogue import load_task


def run(config: CollectConfig) -> None:
    """Record, and say how often the expert succeeded."""
    from ..recording.scripted import collect

    found = collect(
        load_task(config.task),
        Path(config.out),
        episodes=config.episodes,
        first_seed=config.first_seed,
        images=config.images,
    )
    print(f"{found.successes} demonstrations in {config.out}")
    if found.failures:
        print(f"{found.failures} failures of the expert, kept apart in {found.failures_path}")
    print(f"next: recede train task={config.task} dataset={config.out} out=runs/{config.task}{config.again}")
