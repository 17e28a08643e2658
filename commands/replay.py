"""`recede replay`: apply recorded actions in simulation and compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..configs.evaluation import ReplayConfig
from ..envs.catalogue import load_task
from .next_lines import print_train

if TYPE_CHECKING:
    from ..envs.task import Task
    from ..evaluation.replay import Replayed


def run(config: ReplayConfig) -> None:
    """Print how far the replayed observations deviate from the recorded ones.

    Raises ValueError, after the others are printed, if an episode broke off.
    """
    from ..datasets.opening import open_demonstrations
    from ..envs.disturbances import randomised
    from ..envs.faults import Fault, summary
    from ..evaluation.replay import replay
    from ..progress import watched

    task = randomised(load_task(config.task), config.randomise)
    demonstrations = open_demonstrations(config.dataset, task, episodes=config.episodes)
    replayed = replay(task, demonstrations)
    results = list(watched(replayed, f"replay {task.name}", unit="episodes", total=len(demonstrations)))
    faults = [result for result in results if isinstance(result, Fault)]
    replays = [result for result in results if not isinstance(result, Fault)]
    if replays:
        _print_deviations(task, replays)
    if faults:
        raise ValueError(f"{len(faults)} of {len(results)} episodes broke off: {summary(faults)}")
    print_train(config.task, config.dataset, config.imports, task.specification)


def _print_deviations(task: Task, replays: Sequence[Replayed]) -> None:
    successes = sum(episode.success for episode in replays)
    print(f"{len(replays)} episodes replayed, {successes} of them succeed; largest deviations of an episode:")
    for stream in task.specification.observations:
        worst = np.array([episode.deviations[stream.name] for episode in replays])
        units = stream.units[0] if stream.units else ""
        print(
            f"  {stream.name:<20}median {np.median(worst):.2e}  90 % under {np.quantile(worst, 0.9):.2e}  "
            f"worst {worst.max():.2e} {units} (episode {replays[int(worst.argmax())].episode})"
        )
