"""Cut episodes: idle ends off, and apart into the runs of steps that fulfil a condition.

Cost: the vectors that a condition names, in pieces of whole episodes, and two passes over all vectors for idle ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..specification import nearest
from .demonstrations import Demonstrations
from .facts import EpisodeFacts
from .filters import Condition, names
from .led import led_steps, led_within
from .quality import Dimension, episodes_of
from .selection import Selected
from .step_conditions import COUNTS, holds


class Cut(Selected):
    """Pieces of episodes, in order, as episodes.

    Each has the facts of its episode. Only a piece with the first step has its seed, because no other begins where the
    environment did, and only one that ends with its episode has its outcome. `notes.led` is cut too.

    episodes: (m,) ascending indices. spans: (m, 2), the first step of each piece in its episode, and the first after
    it. ends: (m,), where the episode of each piece ends; steps after that are idle.

    Raises ValueError if a note of who led is damaged.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        episodes: Sequence[int],
        spans: NDArray[np.int64],
        ends: Sequence[int],
    ) -> None:
        super().__init__(demonstrations, episodes)
        led_steps(demonstrations)  # checks the notes
        self._spans, self._has_end = spans, spans[:, 1] >= np.asarray(ends)
        self._starts = self._starts + spans[:, 0]
        self.episode_ends = np.cumsum(spans[:, 1] - spans[:, 0], dtype=np.int64)
        self.episode_seeds = np.where(spans[:, 0] == 0, self.episode_seeds, -1)

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(m,): the facts of each piece."""
        pieces = zip(super().episode_facts, self._spans.tolist(), self._has_end, strict=True)
        return [_facts(facts, first, after, has_end=has_end) for facts, (first, after), has_end in pieces]


def _facts(facts: EpisodeFacts, first: int, after: int, *, has_end: bool) -> EpisodeFacts:
    notes = dict(facts.notes)
    if "led" in notes:
        notes["led"] = led_within(notes["led"], first, after)
    return replace(facts, notes=notes, outcome=facts.outcome if has_end else "unknown")


def cut(demonstrations: Demonstrations, condition: Condition | None, idle: NDArray[np.int64]) -> Demonstrations:
    """The runs of steps that fulfil a condition, without idle ends, each as an episode.

    condition: None for all steps. idle: (n, 2), the steps to cut off the start and the end of each episode.

    Raises ValueError if the condition names something that does not exist, or if it holds for no step.
    """
    if condition is None and not idle.any():
        return demonstrations
    columns, dt = _columns(demonstrations, condition), demonstrations.specification.control_dt
    episodes, spans, ends = list[int](), list[tuple[int, int]](), list[int]()
    for episode, rows in episodes_of(demonstrations, columns):
        start, stop = int(idle[episode, 0]), len(rows) - int(idle[episode, 1])
        is_kept = np.pad(_fulfilling(condition, columns, rows, dt)[start:stop], (start + 1, len(rows) - stop + 1))
        edges = np.flatnonzero(np.diff(is_kept)).tolist()
        runs = list(zip(edges[::2], edges[1::2], strict=True))
        episodes += [episode] * len(runs)
        spans += runs
        ends += [stop] * len(runs)
    if not spans:
        raise ValueError(
            f"{demonstrations.path}: no step of {len(demonstrations)} episodes fulfils steps='{condition}': give a "
            "condition that some fulfil"
        )
    return Cut(demonstrations, episodes, np.array(spans, dtype=np.int64), ends)


def _columns(demonstrations: Demonstrations, condition: Condition | None) -> list[Dimension]:
    """The dimensions that a condition names, in the order of the streams. Raises ValueError for an unknown name."""
    vectors = [stream for stream in demonstrations.specification.streams if len(stream.shape) == 1]
    dimensions = [
        Dimension(stream.name, index, stream.label(index), "") for stream in vectors for index in range(stream.size)
    ]
    labels = [dimension.label for dimension in dimensions]
    needed = [] if condition is None else [name for name in names(condition) if name not in COUNTS]
    for name in needed:
        if name not in labels:
            raise ValueError(f"{demonstrations.path}: steps have no {name!r}: {nearest(name, (*COUNTS, *labels))}")
    return [dimension for dimension in dimensions if dimension.label in needed]


def _fulfilling(
    condition: Condition | None, columns: Sequence[Dimension], rows: NDArray[np.float64], control_dt: float
) -> NDArray[np.bool_]:
    """(L,): the steps of an episode that fulfil a condition. rows: (L, D), those of the columns."""
    steps = np.arange(len(rows))
    if condition is None:
        return np.ones(len(rows), dtype=bool)
    table = {"step": steps, "left": steps[::-1], "seconds": steps * control_dt}
    return holds(condition, table | {column.label: rows[:, index] for index, column in enumerate(columns)})
