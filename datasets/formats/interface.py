"""The contract of data sets of other libraries, from which `recede convert` makes stores.

A format is one module here, with one class that says what it recognises and reads it as it is stored. Everything else
is shared: names, units and meanings come from a mapping (`datasets.mapping`), and the copy is checked
(`datasets.copying`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...specification import nearest
from ..facts import UNKNOWN, EpisodeFacts

OBSERVATION, ACTION = "observation", "action"
"""What a column is proposed to become. Any other text says why it is left out."""


@dataclass(frozen=True)
class Column:
    """One signal of a data set, as it is stored there."""

    key: str
    """Its name there, such as "observation.images.top"."""
    shape: tuple[int, ...]
    """Shape of a row: () for a number, (D,) for a vector, (H, W, C) for an image as `read` returns it."""
    dtype: str
    """The numpy dtype of the rows that `read` returns; anything else, such as "text", cannot be a stream."""
    labels: tuple[str, ...] = ()
    """Names of the dimensions, if they are noted there."""
    units: tuple[str, ...] = ()
    """Units of the dimensions, if they are noted there."""
    kinds: tuple[str, ...] = ()
    """What the dimensions are, if that is sure; see `Stream.kinds`."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """Limits of the dimensions, if they are noted there."""
    role: str = OBSERVATION
    """What is proposed: "observation", "action", or why it is left out."""
    note: str = ""
    """How it is stored, if that matters: "video av1"."""


class ForeignDataset(ABC):
    """Episodes in the format of another library. Nothing is loaded before it is read.

    A subclass sets the attributes when it opens a data set, which it checks as a whole: it raises ValueError, naming
    the file and the episode, if something is missing, truncated or contradicts something else.
    """

    kind: str
    """The name of the format, as in a mapping."""
    path: Path
    """The file or folder."""
    version: str = ""
    """The version of the format, if it has any."""
    columns: tuple[Column, ...]
    """Every signal that has a row for each step."""
    rate: float | None
    """Steps a second, or None if that is not noted."""
    episode_lengths: NDArray[np.int64]
    """(n,): steps of each episode. If a column has times of its own, that of its longest one."""
    action_meaning: str | list[str] = "target"
    """What the action is proposed to mean, as in a mapping."""
    metadata: Mapping[str, Any]
    """Whatever else is noted of all episodes, as JSON: the environment's name, its arguments, the controller."""

    @abstractmethod
    def __init__(self, path: str | Path) -> None:
        """Open and check the data set at `path`, which `recognises` has accepted."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file or folder is of this format, without reading more than names and a few bytes."""

    @abstractmethod
    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop of a column in an episode: (stop - start, *shape), in the dtype of the column.

        Memory grows with the rows, not with the data set. Raises ValueError, naming file and episode, if the rows are
        missing or damaged, and naming the extra, if a package is needed to decode them.
        """

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """Every file that the rows, the lengths and the facts depend on."""

    def times(self, key: str, episode: int) -> NDArray[np.float64] | None:
        """(L,): when each row of a column was taken, s. None if nobody noted it.

        A data set with times is read through `formats.resampled`, unless its `rate` is the one that is wanted.
        """
        del key, episode

    @property
    def noted_mapping(self) -> Mapping[str, Any] | None:
        """The content of a mapping that the data set keeps, if it was written from a store; None if there is none."""
        return None

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): what is noted of each episode: task, sentence, outcome, operator, notes."""
        return [UNKNOWN] * len(self.episode_lengths)

    @property
    def episode_seeds(self) -> NDArray[np.int64]:
        """(n,): the seed of each episode's environment, -1 if it is unknown."""
        return np.full(len(self.episode_lengths), -1, dtype=np.int64)

    def episode_name(self, episode: int) -> str:
        """What an episode is called there, for messages."""
        return f"episode {episode}"

    def column(self, key: str) -> Column:
        """The column `key`. Raises ValueError, suggesting the nearest key, if it does not exist."""
        columns = {column.key: column for column in self.columns}
        if key not in columns:
            raise ValueError(f"{self.path}: there is no column {key!r}: {nearest(key, columns)}")
        return columns[key]
