"""Episodes that are rolled out by the processes of a Ray cluster, each of which has the policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from ..cluster import Cluster, Lost
from ..envs.faults import Fault
from .episode import Filmed, Outcome
from .workers import MOST_DEATHS

Share: TypeAlias = tuple[Sequence[int], Filmed]
"""The seeds of episodes that run at once in one process, and which of them to film."""


class Elsewhere:
    """A `rollout.Roll` on a cluster.

    job: what `Cluster.check` has returned; it carries out a `Share` and yields the outcomes. filmed: which episodes to
    film.

    The episodes of a `Lost` share have a fault without a step, because nobody knows which of them ended its process. It
    raises ChildProcessError if episodes end their processes one after the other and none has run to its end.
    """

    def __init__(self, cluster: Cluster, job: bytes, filmed: Filmed) -> None:
        self._cluster, self._job, self._filmed = cluster, job, filmed
        self._has_outcome, self._num_deaths = False, 0

    def __call__(self, seeds: Sequence[int], most: int) -> Iterator[Outcome]:
        """The outcome of each episode once it has ended. most: the episodes that run at once in each process."""
        size = max(min(most, math.ceil(len(seeds) / self._cluster.workers)), 1)
        waiting = set(seeds)
        for (share, _), answer in self._cluster.run(self._job, self._shares(seeds, size)):
            answers = self._lost(waiting.intersection(share), answer) if isinstance(answer, Lost) else [answer]
            for outcome in answers:
                waiting.remove(outcome.seed)
                yield outcome
            self._has_outcome |= not isinstance(answer, Lost)

    def _shares(self, seeds: Sequence[int], size: int) -> Iterator[Share]:
        for first in range(0, len(seeds), size):
            share = seeds[first : first + size]
            yield share, {seed: self._filmed[seed] for seed in share if seed in self._filmed}

    def _lost(self, seeds: set[int], lost: Lost) -> list[Outcome]:
        self._num_deaths += len(seeds) == 1
        if not self._has_outcome and self._num_deaths == MOST_DEATHS:
            raise ChildProcessError(
                f"the processes of {MOST_DEATHS} episodes died on the cluster, and no episode has run to its end "
                f"({lost.why}): read their own messages above, or leave out cluster="
            )
        faults = {seed: Fault(seed, None, "its process", ChildProcessError.__name__, lost.why) for seed in seeds}
        return [Outcome(seed, False, 0.0, 0, fault=fault) for seed, fault in faults.items()]
