"""`recede edit`: make a new demonstration store of one or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..configs.datasets import EditConfig
from ..configs.notation import command_line
from ..datasets.facts import COMMANDED
from ..envs.catalogue import load_task
from ..files import check_writable
from ..specification import nearest
from ..version import __version__

if TYPE_CHECKING:
    from ..datasets.demonstrations import Demonstrations

MOST_NAMED = 10
"""Episodes that a line names; the others are counted."""


def run(config: EditConfig) -> None:
    """Make the new stores, and print what was kept, dropped and cut."""
    from ..datasets.copying import copy
    from ..datasets.image_codec import check_compression
    from ..datasets.joined import Joined
    from ..datasets.opening import open_demonstrations
    from ..datasets.selection import divided

    _check_outs(config)
    if config.images is not None:
        check_compression(config.images)
    task = load_task(config.task) if config.task else None
    opened = [open_demonstrations(source, task) for source in config.sources]
    _check_renamed(config, opened)
    pairs = [_edited(config, whole) for whole in opened]
    parts = [part for part, _ in pairs]
    edited = Joined(parts, remedy="use rename= or observe= so that they agree, or leave one out")
    _check_actions(edited)
    new = [edited] if config.split is None else divided(edited, config.shares or config.split, seed=config.seed)
    provenances = _provenances(config, opened, parts)
    missing = _missing(config, provenances)
    for out, part, provenance in zip(config.outs, new, provenances, strict=True):
        if out in missing:
            copy(part, Path(out), images=_images(config, opened[0]), provenance=provenance)
    print("\n".join(line for _, lines in pairs for line in lines))
    for out, part in zip(config.outs, new, strict=True):
        print(
            f"{len(part)} episodes, {part.num_steps} steps in {out}: every stream was read back and is what was to be "
            "written"
        )


def _check_outs(config: EditConfig) -> None:
    """Raises ValueError unless the new stores can be written, and are none of the sources."""
    outs = [Path(out) for out in config.outs]
    for out in outs:
        if out.resolve() in [Path(source).resolve() for source in config.sources]:
            raise ValueError(f"out={out} is a source, and no store is edited in place: give another out=")
        check_writable(out.parent)
    if all(out.exists() or out.is_symlink() for out in outs):
        raise ValueError(f"out={outs[0]} exists already: give another out=")


def _missing(config: EditConfig, provenances: Sequence[dict[str, Any]]) -> list[str]:
    """The stores that are yet to be made: a division that was interrupted has made some of them.

    Raises ValueError if there is another thing in the place of one.
    """
    from ..datasets.store import DemonstrationStore

    missing = list[str]()
    for out, provenance in zip(config.outs, provenances, strict=True):
        if not Path(out).exists():
            missing.append(out)
        elif not (Path(out) / "zarr.json").is_file() or DemonstrationStore.open(out).provenance != provenance:
            raise ValueError(f"out={out} exists already, and is not of this command: give another out=")
    return missing


def _edited(config: EditConfig, whole: Demonstrations) -> tuple[Demonstrations, list[str]]:
    """A source as it is to be written, and in lines what is dropped, cut and relabelled."""
    from ..datasets.cutting import cut
    from ..datasets.edits import Relabelled, Renamed, Resized
    from ..datasets.filters import parse, select
    from ..datasets.quality import idle_steps
    from ..datasets.selection import facts_of_episodes, selected
    from ..datasets.step_conditions import STEPS

    if not len(whole):
        raise ValueError(f"{whole.path} has no episodes to edit: leave it out, or record some")
    chosen = selected(whole, config.episodes)
    idle = idle_steps(chosen) if config.trim_idle else np.zeros((len(chosen), 2), dtype=np.int64)
    edited = cut(chosen, None if config.steps is None else parse(config.steps, subject=STEPS), idle)
    lines = [
        f"{whole.path}: {len(chosen)} of {len(whole)} episodes, "
        f"and {edited.num_steps} of their {chosen.num_steps} steps"
    ]
    if config.trim_idle:
        lines.append(f"  idle ends: {_idle_line(chosen, idle)}")
    if config.steps is not None:
        lines.append(f"  steps='{config.steps}' makes {len(edited)} episodes of them")
    if labels := config.relabel.labels:
        of = config.relabel.episodes
        table = facts_of_episodes(whole)
        numbers = set(range(len(whole)) if of is None else select(parse(of), table, str(whole.path)))
        edited = Relabelled(edited, labels, numbers)
        lines.append(f"  relabelled: {len(numbers.intersection(chosen.episode_numbers.tolist()))} episodes")
    if config.rename or config.observe is not None:
        edited = Renamed(edited, config.rename, config.observe)
    if config.resize:
        edited = Resized(edited, {name: (size[0], size[1]) for name, size in config.resize.items()})
    return edited, lines


def _idle_line(chosen: Demonstrations, idle: NDArray[np.int64]) -> str:
    """How many idle steps are cut off, and of which episodes."""
    numbers = chosen.episode_numbers[idle.any(axis=1)].tolist()
    if not numbers:
        return "none"
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    named = f"{'episode' if len(numbers) == 1 else 'episodes'} {', '.join(map(str, numbers[:MOST_NAMED]))}{more}"
    return f"{idle.sum()} steps cut off {named}"


def _check_renamed(config: EditConfig, opened: Sequence[Demonstrations]) -> None:
    """Raises ValueError for a stream to rename that no source has."""
    names = {stream.name for whole in opened for stream in whole.specification.observations}
    for name in config.rename:
        if name not in names:
            raise ValueError(f"rename.{name}: no source has such an observation: {nearest(name, names)}")


def _check_actions(edited: Demonstrations) -> None:
    """Raises ValueError unless the actions of all episodes are of one kind, as a recording demands too."""
    kinds = sorted({str(facts.notes.get("action", COMMANDED)) for facts in edited.episode_facts})
    if len(kinds) > 1:
        raise ValueError(
            f"all episodes must have actions of one kind, got {' and '.join(kinds)}: edit one kind at a time, as with "
            f'episodes="notes.action={kinds[0]}"'
        )


def _images(config: EditConfig, first: Demonstrations) -> str:
    """The compression of images in the new store."""
    from ..datasets.image_codec import LOSSY
    from ..datasets.store import DemonstrationStore

    images = config.images or (first.images if isinstance(first, DemonstrationStore) else "zstd")
    return "png" if config.images is None and images in LOSSY else images


def _provenances(
    config: EditConfig, opened: Sequence[Demonstrations], parts: Sequence[Demonstrations]
) -> list[dict[str, Any]]:
    """What each new store is made of. A source that was made of others brings its own provenance."""
    from ..datasets.copying import source_digest

    sources = list[dict[str, Any]]()
    for whole, part in zip(opened, parts, strict=True):
        source = {"path": str(whole.path), "sha256": source_digest(whole), "episodes": len(part)}
        earlier = getattr(whole, "provenance", None)
        sources.append(source if earlier is None else {**source, "provenance": earlier})
    whole = {"command": command_line("edit", config), "version": __version__, "sources": sources}
    count = len(config.outs)
    return [whole | ({"part": f"{number} of {count}"} if count > 1 else {}) for number in range(1, count + 1)]
