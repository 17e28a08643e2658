"""`recede replay`: apply recorded actions in simulation and compare."""

from __future__ import annotations

import numpy as np

from ..configs.evaluation import ReplayConfig
from ..envs.catalogue import load_task


def run(config: ReplayConfig) -> None:
    """Print how far the replayed observations deviate from the recorded ones."""
    from tqdm import tqdm

    from ..datasets.opening import open_demonstrations
    from ..evaluation.replay import replay

    task = load_task(config.task)
    demonstrations = open_demonstrations(config.dataset, task)
    count = len(demonstrations)
    episodes = range(min(config.episodes or count, count))
    replays = list(tqdm(replay(task, demonstrations, episodes), total=len(episodes), desc="replay", unit="episode"))
    successes = sum(episode.success for episode in replays)
    print(f"{len(replays)} episodes replayed, {successes} of them succeed; largest deviations of an episode:")
    for stream in task.specification.observations:
        worst = np.array([episode.deviations[stream.name] for episode in replays])
        units = stream.units[0] if stream.units else ""
        print(
            f"  {stream.name:<20}median {np.median(worst):.2e}  90 % under {np.quantile(worst, 0.9):.2e}  "
            f"worst {worst.max():.2e} {units} (episode {replays[worst.argmax()].episode})"
        )
