"""`recede collect`: record demonstrations with a task's scripted expert."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import CollectConfig
from ..envs.catalogue import load_task
from ..envs.faults import summary
from .next_lines import print_train


def run(config: CollectConfig) -> None:
    """Record, and print how often the expert succeeded. Raises ValueError, after all, if an episode broke off."""
    from ..envs.disturbances import randomised
    from ..recording.scripted import collect

    collected = collect(
        randomised(load_task(config.task), config.randomise),
        Path(config.out),
        episodes=config.episodes,
        first_seed=config.first_seed,
        images=config.images,
        notes={"randomise": config.randomise} if config.randomise else {},
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
    if collected.successes:
        print_train(config.task, config.out, config.imports)
