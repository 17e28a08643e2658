"""A data set whose columns have times of their own, in memory."""

from pathlib import Path

import numpy as np
from recede.datasets.facts import UNKNOWN
from recede.datasets.formats.interface import ACTION, OBSERVATION, Column, ForeignDataset
from recede.datasets.mapping import DatasetMapping, propose


class Timed(ForeignDataset):
    """episodes: each key -> times (L,) and rows (L, ...), or None for times if steps are even."""

    kind = "timed"

    def __init__(self, episodes, *, labels=(), facts=None, actions=("command",)):
        self.path, self.metadata, self.rate, self.episodes = Path("timed"), {}, None, episodes
        first = {key: np.asarray(rows) for key, (_, rows) in episodes[0].items()}
        self.columns = tuple(
            Column(
                key,
                rows.shape[1:],
                rows.dtype.name,
                role=ACTION if key in actions else OBSERVATION,
                labels=tuple(labels) if key == "pose" else (),
            )
            for key, rows in first.items()
        )
        self.episode_lengths = np.array([max(len(rows) for _, rows in episode.values()) for episode in episodes])
        self.facts, self.reads = facts, []

    @classmethod
    def recognises(cls, path):
        return False

    def read(self, key, episode, start, stop):
        self.reads.append((key, start, stop))
        return np.array(self.episodes[episode][key][1][start:stop])

    def files(self):
        return []

    def times(self, key, episode):
        times = self.episodes[episode][key][0]
        return None if times is None else np.asarray(times, dtype=np.float64)

    @property
    def episode_facts(self):
        return self.facts or [UNKNOWN] * len(self.episodes)


def mapping_of(dataset, *, rate, longest_hole=0.5, **action):
    """The proposal for a data set, as a mapping."""
    content = propose(dataset, rate=rate) | {"longest_hole": longest_hole}
    content["action"] |= action
    for column in action.get("key", ()):
        content["observations"].pop(column, None)  # the action is no observation
    return DatasetMapping.from_json(content, "the proposal")


def jittered(rng, rate, seconds, *, begin=0.0):
    """Times at a mean rate with a jitter of a third of a period, s."""
    count = int(seconds * rate)
    return begin + (np.arange(count) + rng.uniform(-1 / 3, 1 / 3, count)) / rate
