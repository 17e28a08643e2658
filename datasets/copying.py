"""Copy demonstrations into a new store, which appears whole, is checked, and notes what it is made of.

The copy grows in a store beside the new one, `NAME.unfinished.zarr` for `NAME.zarr`, an episode at a time, and is
renamed at the end. A copy that was interrupted goes on behind its last episode, if its provenance is the same.

Every episode, also one of an earlier process, is read back, and every stream compared by its SHA-256 with what was to
be written. Images in JPEG or H.264 are compared with what that makes of them.

Memory: `PIECE_BYTES`, a file of images for each camera, and the facts of all episodes. Cost: a pass over the
demonstrations, one over the copy, and the commit of each episode.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import LOCK, exclusive, rename_folder
from ..progress import watched
from .demonstrations import Demonstrations
from .facts import UNKNOWN, EpisodeFacts
from .fingerprint import vector_digests
from .image_codec import as_stored, frames_of_chunk
from .store import DemonstrationStore

PIECE_BYTES = 2**23
"""Steps are copied in pieces of at most so many bytes, or one at a time."""


def unfinished(path: Path) -> Path:
    """Where the copy at `path` grows.

    >>> unfinished(Path("data/reach.zarr")).as_posix()
    'data/reach.unfinished.zarr'
    """
    return path.with_name(f"{path.stem}.unfinished{path.suffix}")


def source_digest(demonstrations: Demonstrations) -> str:
    """The SHA-256 of demonstrations: of their compressed streams, ends, seeds and facts. Reads all chunk files once.

    Streams that have no digest, because nobody knows all that their source depends on, count by their vectors.
    """
    contents = [(stream.name, demonstrations.content(stream.name)) for stream in demonstrations.specification.streams]
    digest = hashlib.sha256(json.dumps(contents).encode())
    if None in dict(contents).values():
        digest.update(json.dumps(vector_digests(demonstrations)).encode())
    digest.update(demonstrations.episode_ends.tobytes() + demonstrations.episode_seeds.tobytes())
    digest.update(json.dumps([facts.to_json() for facts in demonstrations.episode_facts]).encode())
    return digest.hexdigest()


def copy(
    demonstrations: Demonstrations, path: Path, *, images: str, provenance: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Copy demonstrations into a new store at `path`, or finish a copy of the same provenance.

    Returns the SHA-256 of each stream, for each episode.

    images: the compression of images. provenance: what decides the copy, as JSON.

    Raises ValueError if the unfinished copy there is another one, if another process writes it, or if what is read back
    is not what was to be written; FileExistsError if `path` exists; and the errors of `DemonstrationStore.append`,
    after which nothing is left.
    """
    partial, facts = unfinished(path), demonstrations.episode_facts
    _begin(demonstrations, partial, images=images, provenance=provenance)
    with exclusive(partial, "being written"):
        store = DemonstrationStore.open(partial)
        store.remove_leftovers()
        if len(store):
            print(f"{partial} holds {len(store)} of {len(demonstrations)} episodes: the copy goes on behind them")
        digests = list[dict[str, str]]()
        try:
            for index in watched(range(len(demonstrations)), "copy", unit="episodes"):
                try:
                    digests.append(_copied(demonstrations, index, facts[index], store, images=images))
                except ValueError as error:  # other data or another choice make another copy, so this one is of no use
                    shutil.rmtree(partial)
                    number = demonstrations.episode_numbers[index]
                    raise ValueError(f'{error} (episodes="episode!={number}" leaves it out)') from error
                if wrong := _differing(store, index, digests[-1]):
                    raise ValueError(
                        f"{store.path}: stream {wrong[0]!r} of episode {index} does not come back as it was to be "
                        "written: check the disk, delete the folder and repeat the command"
                    )
        except KeyboardInterrupt:
            print(f"{partial} keeps {len(store)} of {len(demonstrations)} episodes: the same command goes on")
            raise
        _check_episodes(DemonstrationStore.open(partial), demonstrations, facts)
        (partial / LOCK).unlink()
        rename_folder(partial, path)
    return digests


def verify(demonstrations: Demonstrations, store: DemonstrationStore) -> list[dict[str, str]]:
    """Compare a copy with what it is a copy of; returns the SHA-256 of each stream, for each episode.

    Raises ValueError for the first stream that differs, and if the lengths, seeds or facts of the episodes differ.
    """
    _check_episodes(store, demonstrations, demonstrations.episode_facts)
    digests = list[dict[str, str]]()
    for index in watched(range(len(demonstrations)), "verify", unit="episodes"):
        digests.append(_copied(demonstrations, index, UNKNOWN, store, images=store.images))
        if wrong := _differing(store, index, digests[-1]):
            raise ValueError(
                f"{store.path}: stream {wrong[0]!r} of episode {index} is not what {demonstrations.path} holds, so one "
                "of them has changed: restore it from a copy, or convert again"
            )
    return digests


def _begin(demonstrations: Demonstrations, partial: Path, *, images: str, provenance: Mapping[str, Any]) -> None:
    """Create the unfinished copy. Raises ValueError if there is one of another provenance."""
    if not partial.exists():
        with suppress(FileExistsError):  # another process was faster, and is named later
            DemonstrationStore.create(partial, demonstrations.specification, images=images, provenance=provenance)
    if (other := DemonstrationStore.open(partial).provenance) != provenance:
        command = printable((other or {}).get("command", "no copy at all"))
        raise ValueError(
            f"{partial} holds what another command has begun, or one whose sources have changed ({command}): repeat "
            "that, delete the folder, or give another out="
        )


def _copied(
    demonstrations: Demonstrations, index: int, facts: EpisodeFacts, store: DemonstrationStore, *, images: str
) -> dict[str, str]:
    """Append an episode to the store, if it is not there; returns the digest of each stream as it must come back."""
    streams = {stream.name: stream for stream in demonstrations.specification.streams}
    hashes = {name: hashlib.sha256() for name in streams}
    frames = max((frames_of_chunk(stream, images) for stream in streams.values() if stream.is_image), default=1)
    with ExitStack() as stack:
        writer = stack.enter_context(store.begin()) if index == len(store) else None
        for piece in pieces(demonstrations, index, frames=frames):
            for name, rows in piece.items():
                kept = as_stored(rows, streams[name], images) if streams[name].is_image else rows
                hashes[name].update(np.ascontiguousarray(kept).data)
            if writer is not None:
                writer.add(piece)
        if writer is not None:
            writer.keep(seed=int(demonstrations.episode_seeds[index]), facts=facts)
    return {name: content.hexdigest() for name, content in hashes.items()}


def _differing(store: DemonstrationStore, index: int, expected: Mapping[str, str]) -> list[str]:
    """The streams of an episode of the store that do not have these digests."""
    hashes = {name: hashlib.sha256() for name in expected}
    for piece in pieces(store, index):
        for name, rows in piece.items():
            hashes[name].update(np.ascontiguousarray(rows).data)
    return [name for name, content in hashes.items() if content.hexdigest() != expected[name]]


def _check_episodes(store: DemonstrationStore, demonstrations: Demonstrations, facts: Sequence[EpisodeFacts]) -> None:
    """Raises ValueError unless the store has the lengths, the seeds and the facts of the episodes."""
    for name, is_equal in {
        "lengths": np.array_equal(store.episode_ends, demonstrations.episode_ends),
        "seeds": np.array_equal(store.episode_seeds, demonstrations.episode_seeds),
        "facts": list(store.episode_facts) == list(facts),
    }.items():
        if not is_equal:
            raise ValueError(
                f"{store.path}: the {name} of the episodes do not come back as they were to be written: delete the "
                "folder and repeat the command"
            )


def pieces(demonstrations: Demonstrations, index: int, *, frames: int = 1) -> Iterator[dict[str, NDArray[Any]]]:
    """An episode in pieces of `PIECE_BYTES` or of `frames` steps, multiples of `frames`: name -> (L, *shape)."""
    streams = demonstrations.specification.streams
    step_bytes = sum(stream.size * np.dtype(stream.dtype).itemsize for stream in streams)
    (first, stop), rows = demonstrations.bounds(index), max(PIECE_BYTES // (frames * step_bytes), 1) * frames
    for start in range(first, stop, rows):
        yield {stream.name: demonstrations.read(stream.name, start, min(start + rows, stop)) for stream in streams}


def origin(provenance: Mapping[str, Any]) -> list[str]:
    """What a store was made of, as lines of text, whatever a file claims; none for nothing.

    >>> origin({"command": "recede edit a.zarr out=b.zarr", "version": "1", "sources": [{"path": "a.zarr"}]})
    ['made by recede edit a.zarr out=b.zarr (recede 1)', 'from a.zarr (SHA-256 unknown, unknown episodes)']
    """
    if not provenance:
        return []
    sources: Any = provenance.get("sources")
    part = f", part {provenance['part']}" if "part" in provenance else ""
    lines = [f"made by {provenance.get('command')} (recede {provenance.get('version')}{part})"]
    for source in sources if isinstance(sources, list) else []:
        entries = {"path": "unknown", "sha256": "unknown", "episodes": "unknown"}
        entries |= source if isinstance(source, dict) else {}
        lines.append(f"from {entries['path']} (SHA-256 {entries['sha256']}, {entries['episodes']} episodes)")
    return [printable(line) for line in lines]


def printable(text: Any) -> str:
    """A text of a file without what would control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
