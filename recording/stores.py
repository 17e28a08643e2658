"""The store of a recording has the specification of the robot, and actions of one kind."""

from __future__ import annotations

from pathlib import Path

from ..datasets.facts import COMMANDED
from ..datasets.store import DemonstrationStore
from ..specification import Specification


def open_or_create(path: Path, specification: Specification, *, images: str, of: str) -> DemonstrationStore:
    """The store at `path`, which is created if there is none; another process may do so at the same time.

    images: see `DemonstrationStore.create`. Raises what `open_existing` and `DemonstrationStore.create` raise.
    """
    store = open_existing(path, specification, of=of)
    if store is None:
        try:
            return DemonstrationStore.create(path, specification, images=images)
        except FileExistsError:
            store = open_existing(path, specification, of=of)
            if store is None:
                raise
    return store


def open_existing(path: Path, specification: Specification, *, of: str) -> DemonstrationStore | None:
    """The store at `path`, or None if there is none. of: what it must hold, for the message.

    Raises ValueError if it has another specification.
    """
    if not path.exists():
        return None
    store = DemonstrationStore.open(path)
    if differences := store.specification.differences(specification):
        raise ValueError(
            f"{path} must hold demonstrations of {of}, but its specification differs: {'; '.join(differences)}"
        )
    return store


def check_actions(store: DemonstrationStore, kind: str) -> None:
    """Raises ValueError unless the actions of all episodes are of that kind, one of `datasets.facts.ACTIONS`.

    Whoever does not note it has stored what was commanded.
    """
    for index, facts in enumerate(store.episode_facts):
        if (other := facts.notes.get("action", COMMANDED)) != kind:
            raise ValueError(
                f"{store.path}: all episodes must have actions of one kind, but those of episode {index} are {other} "
                f"and action is {kind}: give action={other}, or another out="
            )
