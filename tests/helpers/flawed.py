"""Demonstrations in memory, and copies of them with one fault each."""

from dataclasses import replace

import numpy as np
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.facts import UNKNOWN, EpisodeFacts
from recede.specification import Specification, Stream


class InMemory(Demonstrations):
    """Episodes as mappings of a stream's name to its rows."""

    def __init__(self, specification, episodes, facts=None):
        self.path, self.specification = "in memory", specification
        self.episodes, self.facts = episodes, facts or [UNKNOWN] * len(episodes)
        self.episode_ends = np.cumsum([len(episode["action"]) for episode in episodes])
        self.episode_seeds = np.full(len(episodes), -1)
        self.streams = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}

    @property
    def episode_facts(self):
        return self.facts

    def read(self, name, start=0, stop=None):
        return self.streams[self.stream(name).name][start:stop].copy()

    def but(self, change, *, episodes=None):
        """A copy in which `change(rows)` replaces some streams of some episodes, of all if None."""
        places = range(len(self)) if episodes is None else episodes
        changed = [e | change(e) if i in places else e for i, e in enumerate(self.episodes)]
        return InMemory(self.specification, changed, self.facts)


SPECIFICATION = Specification(
    (Stream("hand", (2,), units="m", labels=("x", "y")), Stream("image", (24, 24, 1), "uint8")),
    Stream("action", (3,), labels=("x", "y", "grip"), low=-1.0, high=1.0),
    control_dt=0.1,
)


def reach(seed, *, side=0.0):
    """A smooth motion to a goal, by a way that bends to one side; the hand follows the action a step later."""
    rng = np.random.default_rng(seed)
    start, goal = rng.uniform((-0.8, -0.8), (-0.4, 0.8)), rng.uniform((0.4, -0.4), (0.8, 0.4))
    length = int(rng.integers(45, 60))
    time = np.linspace(0, 1, length)[:, None]
    wobble = np.concatenate([np.sin(2 * np.pi * (time * rng.uniform(1, 4) + rng.random())) for _ in range(2)], axis=1)
    path = start + (goal - start) * time**1.3 + side * np.sin(np.pi * time) * np.array([0.0, 0.5])
    path = (path + 0.08 * wobble * np.sin(np.pi * time)).astype(np.float32)
    grip = np.where(time > rng.uniform(0.6, 0.8), 1.0, -1.0).astype(np.float32)
    action = np.concatenate([path, grip], axis=1)
    hand = np.concatenate([path[:1], path[:-1]])
    return {"hand": hand, "image": draw(hand), "action": action}


def draw(hand):
    """A grey blob at the place of the hand, (L, 24, 24, 1)."""
    grid = np.linspace(-1.2, 1.2, 24)
    distance = (grid[None, None, :] - hand[:, 0, None, None]) ** 2 + (grid[None, :, None] - hand[:, 1, None, None]) ** 2
    return np.round(40 + 200 * np.exp(-distance / 0.05)).astype(np.uint8)[..., None]


def reaches(count=24, *, sides=(0.0,)):
    return InMemory(SPECIFICATION, [reach(seed, side=sides[seed % len(sides)]) for seed in range(count)])


def waiting(rows, *, steps=14, at_end=False):
    index = np.arange(len(rows["action"]))
    index = np.append(index, [index[-1]] * steps) if at_end else np.append([0] * steps, index)
    return {name: values[index] for name, values in rows.items()}


def shifted(rows, names, steps):
    """Some streams late by so many steps."""
    index = np.maximum(np.arange(len(rows["action"])) - steps, 0)
    return {name: rows[name][index] for name in names}


def repeating(rows, name, start, stop):
    """A stream that stays as it was at step `start`."""
    index = np.arange(len(rows["action"]))
    index[start:stop] = start
    return {name: rows[name][index]}


def every_second(rows, name):
    index = np.arange(len(rows["action"]))
    return {name: rows[name][index - index % 2]}


def jumping(rows, name, size):
    """A vector that is displaced from the middle on."""
    values = rows[name].copy()
    values[len(values) // 2 :, 0] += size
    return {name: values}


def noisy(rows, name, size):
    rng = np.random.default_rng(0)
    return {name: (rows[name] + rng.normal(size=rows[name].shape) * size).astype(rows[name].dtype)}


def starting(rows, first, names):
    """Vectors that begin at `first`."""
    return {name: rows[name] - rows[name][0] + first[name][0] for name in names}


def constant(rows, name, index):
    values = rows[name].copy()
    values[:, index] = values[0, index]
    return {name: values}


def noted(demonstrations, episode, **facts):
    entries = list(demonstrations.facts)
    entries[episode] = replace(EpisodeFacts(), **facts)
    return InMemory(demonstrations.specification, demonstrations.episodes, entries)
