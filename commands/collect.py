"""`recede collect`: record demonstrations with a task's scripted expert."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import CollectConfig
from ..configs.notation import shown
from ..envs.catalogue import load_task
from ..envs.faults import summary


def run(config: CollectConfig) -> None:
    """Record, and print how often the expert succeeded. Raises ValueError, after all, if an episode broke off."""
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
    if collected.faults:
        num = len(collected.faults)
        raise ValueError(
            f"{num} {'episode' if num == 1 else 'episodes'} broke off and {'is' if num == 1 else 'are'} not recorded: "
            f"{summary(collected.faults)}"
        )
    out = f"runs/{config.task}"
    line = shown("train", task=config.task, dataset=config.out, out=out, imports=config.imports)
    print(f"next: {line}")
