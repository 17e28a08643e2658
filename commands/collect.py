"""`recede collect`: record demonstrations with a task's scripted expert."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.datasets import CollectConfig
from ..configs.packages import import_packages
from ..envs.catalogue import load_task
from ..envs.faults import summary
from .next_lines import print_train

if TYPE_CHECKING:
    from ..envs.task import Task


def run(config: CollectConfig) -> None:
    """Record, and print how often the expert succeeded. Raises ValueError, after all, if an episode broke off."""
    from ..cluster import joined
    from ..recording.scripted import Elsewhere, collect

    task, elsewhere = _task(config), None
    if config.cluster is not None:
        elsewhere = Elsewhere(joined(config.cluster, config.workers), partial(_task, config))
    collected = collect(
        task,
        Path(config.out),
        episodes=config.episodes,
        first_seed=config.first_seed,
        images=config.images,
        notes={"randomise": config.randomise} if config.randomise else {},
        elsewhere=elsewhere,
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
        print_train(config.task, config.out, config.imports, task.specification)


def _task(config: CollectConfig) -> Task:
    """The task, also in a process that has imported no packages yet."""
    from ..envs.disturbances import randomised

    import_packages(config.imports)
    return randomised(load_task(config.task), config.randomise)
