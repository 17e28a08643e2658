"""`recede collect`: record demonstrations with a task's scripted expert."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import CollectConfig
from ..configs.notation import shown
from ..envs.catalogue import load_task


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
    out = f"runs/{config.task}"
    line = shown("train", task=config.task, dataset=config.out, out=out, imports=config.imports)
    print(f"next: {line}")
