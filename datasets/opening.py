"""One call that opens demonstrations in whatever format they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ..specification import Source, Specification
from .arrays import open_group
from .demonstrations import Demonstrations
from .formats.replay_buffer import ReplayBuffer
from .store import DemonstrationStore


class TaskData(Protocol):
    """What must be known of a task to read demonstrations of it. A `Task` is one.

    specification: the streams. sources: for each stream, where a replay buffer of others holds it; empty if unknown.
    """

    @property
    def specification(self) -> Specification: ...  # noqa: D102

    @property
    def sources(self) -> Mapping[str, Source]: ...  # noqa: D102


def open_demonstrations(path: str | Path, task: TaskData | None = None) -> Demonstrations:
    """The demonstrations at `path`: a store of ours, or a replay buffer that the task's sources turn into its streams.

    task: what the demonstrations show; None reads a store of ours as it describes itself.

    Raises what `DemonstrationStore.open` and `ReplayBuffer` raise, and ValueError if a store of ours has another
    specification than the task.
    """
    if task is not None and task.sources and "recede" not in open_group(path).attrs:
        return ReplayBuffer(path, task.specification, task.sources)
    store = DemonstrationStore.open(path)
    if task is not None and (differences := store.specification.differences(task.specification)):
        raise ValueError(
            f"{path}: the store must have the specification that is asked for (its own is named first): "
            + "; ".join(differences)
        )
    return store
