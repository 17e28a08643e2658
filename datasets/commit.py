"""The root attributes of a demonstration store: what it holds, and how many episodes are committed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from ..specification import Specification
from .arrays import enclosing_store

FORMAT = 1
"""Version of the layout that `datasets.store` describes."""


def attributes(specification: Specification, num_episodes: int, provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """The attributes of a store that holds so many episodes. provenance: what it is made of, None if of nothing."""
    more = {} if provenance is None else {"provenance": provenance}
    return {"format": FORMAT, "specification": specification.to_json(), "num_episodes": num_episodes, **more}


def read_commit(group: zarr.Group, path: Path) -> tuple[Specification, int, dict[str, Any] | None]:
    """The specification, the number of committed episodes and the provenance, from the root attributes.

    Raises ValueError if the group is no store, has another format version, or is damaged.
    """
    entry: Any = group.attrs.asdict().get("recede")
    if entry is None:
        remedy = enclosing_store(path) or (
            "if it is a replay buffer in the layout of Diffusion Policy (data/, meta/episode_ends), name its task with "
            "task="
        )
        raise ValueError(f"{path}: a zarr group, but not a demonstration store (no attribute 'recede'): {remedy}")
    content: dict[str, Any] = entry if isinstance(entry, dict) else {}
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: attribute 'recede.format' must be {FORMAT}, got {content.get('format')}: "
            "read the store with the version of recede that wrote it"
        )
    num_episodes = content.get("num_episodes")
    if not isinstance(num_episodes, int) or num_episodes < 0:
        raise ValueError(
            f"{path}: attribute 'recede.num_episodes' must be a count, got {num_episodes!r}: "
            "restore zarr.json from a copy"
        )
    try:
        specification = Specification.from_json(content.get("specification", {}))
    except ValueError as error:
        raise ValueError(
            f"{path}: attribute 'recede.specification' must describe streams that policies take, but {error}: record "
            "the episodes into a new store of such streams, or restore zarr.json from a copy if it was damaged"
        ) from error
    provenance = content.get("provenance")
    return specification, num_episodes, provenance if isinstance(provenance, dict) else None
