"""Measure a policy in closed loop: success rates and scores, each with its interval."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..configs.evaluation import EvaluateConfig
from ..envs.faults import Fault, summary
from ..envs.task import Task
from ..execution.interface import Execution
from ..execution.receding import RecedingHorizon
from ..policy.device import processor
from ..policy.engines.eager import as_engine
from ..policy.engines.interface import Engine
from ..policy.interface import Policy
from .episode import Filmed, Outcome
from .intervals import bootstrap, wilson
from .journal import Journal
from .rollout import Monitoring, Roll, latency, rollout
from .view import Embed

CHOICE_SEED = 50_000
"""Seed of the first episode that chooses the best checkpoint of a run. Demonstrations start at seed 0."""


@dataclass(frozen=True)
class Evaluation:
    """The outcomes of a policy's episodes."""

    task: str
    """The name of the task."""

    seed: int
    """Seed of the policy's noise."""

    outcomes: list[Outcome]
    """One for each episode."""

    wall_s: float
    """The duration of all episodes, in seconds."""

    latency: dict[str, float]
    """Milliseconds of one prediction for one robot; see `rollout.latency`."""

    processor: str
    """What the latency was measured on; see `device.processor`."""

    def followed_by(self, other: Evaluation) -> Evaluation:
        """Its episodes, and behind them those of another evaluation of the same policy."""
        return replace(self, outcomes=[*self.outcomes, *other.outcomes], wall_s=self.wall_s + other.wall_s)

    @property
    def faults(self) -> list[Fault]:
        """Why episodes broke off. Such an episode counts as failed, with a score of 0."""
        return [outcome.fault for outcome in self.outcomes if outcome.fault is not None]

    @property
    def broken(self) -> str:
        """A sentence on the episodes that broke off; empty if there are none."""
        if not self.faults:
            return ""
        verb = "counts" if len(self.faults) == 1 else "count"
        return (
            f"{len(self.faults)} of {len(self.outcomes)} episodes broke off and {verb} as failed: "
            f"{summary(self.faults)}"
        )

    @property
    def phases(self) -> str:
        """The phases in which failed episodes ended, and how many in each; empty if the task names none."""
        counts = Counter(outcome.phase for outcome in self.outcomes if outcome.phase is not None)
        return ", ".join(f"{count} {phase}" for phase, count in counts.most_common())

    @property
    def success_rate(self) -> float:
        """The fraction of episodes that succeeded."""
        return float(np.mean([outcome.success for outcome in self.outcomes]))

    @property
    def mean_score(self) -> float:
        """The mean score; the score of an episode is the best of its steps."""
        return float(np.mean([outcome.score for outcome in self.outcomes]))

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        successes = [outcome.success for outcome in self.outcomes]
        scores = [outcome.score for outcome in self.outcomes]
        return {
            "task": self.task,
            "episodes": len(self.outcomes),
            "success_rate": self.success_rate,
            "success_rate_95": wilson(sum(successes), len(successes)),
            "mean_score": self.mean_score,
            "mean_score_95": bootstrap(scores),
            "mean_steps": float(np.mean([outcome.num_steps for outcome in self.outcomes])),
            "wall_s": self.wall_s,
            "latency": self.latency,
            "processor": self.processor,
            "seed": self.seed,
            "seeds": [outcome.seed for outcome in self.outcomes],
            "success": successes,
            "score": scores,
            "final_score": [outcome.final_score for outcome in self.outcomes],
            "steps": [outcome.num_steps for outcome in self.outcomes],
            "steps_to_success": [outcome.success_step for outcome in self.outcomes],
            "start": _columns([outcome.start for outcome in self.outcomes]),
            "phase": [outcome.phase for outcome in self.outcomes],
            "broken": [asdict(fault) for fault in self.faults],
        }

    def __str__(self) -> str:
        content = self.to_json()
        success, score = content["success_rate_95"], content["mean_score_95"]
        return (
            f"{self.task}: success {100 * self.success_rate:.0f} % [{100 * success[0]:.0f}, {100 * success[1]:.0f}], "
            f"score {self.mean_score:.3f} [{score[0]:.3f}, {score[1]:.3f}] over {len(self.outcomes)} episodes"
            + (f" (broken off, and counted as failed: {len(self.faults)})" if self.faults else "")
            + (f"; failed: {self.phases}" if self.phases else "")
        )


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Label -> its number in each episode; None in one that broke off before it began."""
    return {label: [row.get(label) for row in rows] for label in dict.fromkeys(label for row in rows for label in row)}


def choice_scores(policy: Policy, task: Task, *, episodes: int, embed: Embed | None = None) -> dict[str, float]:
    """What a training notes of a checkpoint: its mean score, success rate and number of episodes.

    embed: embeds the sentences of the episodes, if the policy observes them.

    If episodes broke off, it is their number alone, and a warning names them: the best checkpoint is chosen among those
    that were measured in the same episodes.
    """
    seeds = range(CHOICE_SEED, CHOICE_SEED + episodes)
    execution = partial(RecedingHorizon, policy.horizons, hold=policy.specification.action.hold)
    outcomes = rollout(policy, task, seeds, execution=execution, embed=embed)
    if faults := [outcome.fault for outcome in outcomes if outcome.fault is not None]:
        print(
            f"warning: {len(faults)} of {episodes} episodes broke off, so this checkpoint has no success rate: "
            f"{summary(faults)}",
            file=sys.stderr,
        )
        return {"broken": len(faults)}
    success, score = ([getattr(outcome, name) for outcome in outcomes] for name in ("success", "score"))
    return {"mean_score": float(np.mean(score)), "success_rate": float(np.mean(success)), "episodes": episodes}


def evaluate(
    policy: Policy | Engine,
    task: Task,
    *,
    episodes: int = EvaluateConfig.episodes,
    first_seed: int = EvaluateConfig.first_seed,
    seed: int = EvaluateConfig.seed,
    execution: Callable[[], Execution] | None = None,
    delay: int = 0,
    workers: int = EvaluateConfig.workers,
    num_parallel: int = EvaluateConfig.parallel,
    videos: int = 0,
    progress: bool = True,
    journal: Journal | None = None,
    is_timed: bool = True,
    embed: Embed | None = None,
    monitor: Monitoring | None = None,
    elsewhere: Callable[[Filmed], Roll] | None = None,
) -> Evaluation:
    """Roll `policy` out in `episodes` episodes, of seeds from `first_seed` on, and film the first `videos` of them.

    execution: makes the `Execution` of an episode, `RecedingHorizon` if None. journal: notes the episodes as they end;
    those that it has are not run again, unless they are to be filmed. is_timed: whether to measure the latency. For the
    other arguments and the errors see `rollout`.

    Raises ValueError if every episode broke off, because that says nothing of the policy.
    """
    seeds = range(first_seed, first_seed + episodes)
    engine, start = as_engine(policy), time.perf_counter()
    before, wall_s = dict[int, Outcome](), 0.0
    if journal is not None and (before := {s: journal.outcomes[s] for s in seeds[videos:] if s in journal.outcomes}):
        wall_s = journal.seconds
        print(f"{len(before)} episodes of an interrupted evaluation are in {journal.path}; the others follow")
    outcomes = rollout(
        engine,
        task,
        [one for one in seeds if one not in before],
        execution=execution or partial(RecedingHorizon, policy.horizons, hold=policy.specification.action.hold),
        delay=delay,
        seed=seed,
        workers=workers,
        num_parallel=num_parallel,
        filmed=dict.fromkeys(seeds[:videos]),
        progress=progress,
        embed=embed,
        note=None if journal is None else journal.note,
        monitor=monitor,
        elsewhere=elsewhere,
    )
    outcomes = sorted([*before.values(), *outcomes], key=lambda outcome: outcome.seed)
    wall_s += time.perf_counter() - start
    faults = [outcome.fault for outcome in outcomes if outcome.fault is not None]
    if len(faults) == len(outcomes):
        raise ValueError(f"every episode of task {task.name!r} broke off, so nothing was measured: {summary(faults)}")
    device = getattr(engine, "device", torch.device("cpu"))
    return Evaluation(task.name, seed, outcomes, wall_s, latency(engine) if is_timed else {}, processor(device))
