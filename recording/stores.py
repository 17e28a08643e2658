"""The store of a recording: one specification, and one recording at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..datasets.store import DemonstrationStore
from ..specification import Specification


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


@contextmanager
def exclusive(path: Path) -> Generator[None]:
    """Lock the store, so that no seed is recorded twice. Raises ValueError if another process records into it."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{path} is being recorded by another process: wait for it, or use another out=") from None
    try:
        yield
    finally:
        lock.release()
