"""Open demonstrations in any supported format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ..specification import Source, Specification
from .arrays import open_group
from .demonstrations import Demonstrations
from .formats.replay_buffer import ReplayBuffer
from .selection import selected
from .store import DemonstrationStore


class TaskData(Protocol):
    """The part of a `Task` that reading demonstrations needs."""

    @property
    def specification(self) -> Specification:
        """The streams to read."""
        ...

    @property
    def sources(self) -> Mapping[str, Source]:
        """Stream name -> its source in published replay buffers; empty if there are none."""
        ...


def open_demonstrations(
    path: str | Path, task: TaskData | None = None, *, episodes: str | None = None, can_lack: bool = False
) -> Demonstrations:
    """Open a Recede store, or a replay buffer that is read through the task's sources.

    task: the task that the demonstrations show. A Recede store can be opened without one, because it describes itself.
    episodes: a condition of `datasets.filters` that chooses among them; None for all. can_lack: whether a store may
    lack observations of the task.

    Raises the errors of `DemonstrationStore.open` and `ReplayBuffer`, and ValueError if the specifications of the store
    and the task differ, or if the condition chooses no episode.
    """
    return selected(_open(path, task, can_lack=can_lack), episodes)


def is_store(path: str | Path) -> bool:
    """Whether a folder is a Recede store, which describes itself, and not a replay buffer that needs a task."""
    return "recede" in open_group(path).attrs


def _open(path: str | Path, task: TaskData | None, *, can_lack: bool) -> Demonstrations:
    if task is not None and task.sources and not is_store(path):
        return ReplayBuffer(path, task.specification, task.sources)
    store = DemonstrationStore.open(path)
    if task is None:
        return store
    own, streams = ({s.name for s in one.specification.observations} for one in (store, task))
    needed = task.specification.without(streams - own) if can_lack and streams & own else task.specification
    if differences := store.specification.differences(needed):
        raise ValueError(
            f"{path}: the store must have the specification of the task (that of the store is named first): "
            + "; ".join(differences)
        )
    return store
