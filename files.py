"""Files and folders that appear whole or not at all, and JSON.

A file or folder is written next to its path under a unique name, and renamed when it is complete. A writer that is
killed leaves at most a file `.*.partial*`. Nothing is flushed to the disk: a file survives the death of its process,
but not a loss of power.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _partial(path: Path) -> Path:
    """A path next to `path` that no other process and no other call uses.

    It has the suffix of `path`, by which writers of films choose the format.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.partial{path.suffix}")


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A path to write a file to, which is renamed to `path` at the end of the block, or deleted after an error.

    Replaces an existing file.
    """
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Generator[Path]:
    """A folder to fill, which is renamed to `path` at the end of the block, or deleted after an error.

    replace: whether to replace an existing folder. If False, raises OSError if the folder exists and is not empty.
    """
    partial = _partial(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        if replace and path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Raises ValueError if files cannot be written to `folder`, or if it does not exist and cannot be made."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "is read-only" if place.is_dir() else "is no folder"
        raise ValueError(
            f"out must be a folder that can be written, got {folder}, but {place} {reason}: give another out="
        )


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Add the file and the remedy to the message of an OSError in the block, as that of a full disk names neither."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror}), earlier files are kept: make sure that the disk has room "
            "and is writable, and repeat the command",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all. Raises OSError, with the file and the remedy, if writing fails."""
    with writing(path), whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


DIGEST = "content_sha256"
"""The entry of a JSON file that holds the SHA-256 of its other entries."""


def content_digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object without its digest, whatever the order and the spaces of its file."""
    rest = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object with a digest of itself. Raises ValueError for NaN and infinity."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return plain | {DIGEST: content_digest(plain)}


def has_digest(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object has the digest that it holds."""
    try:
        return content_digest(content) == content.get(DIGEST)
    except ValueError:  # NaN and infinity
        return False


def write_json_with_digest(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON that holds a digest of itself, whole or not at all."""
    write_json(path, with_digest(content))


def check_digest(path: Path, content: Mapping[str, Any], remedy: str) -> None:
    """Raises ValueError, with the file and the remedy, if `content` does not have the digest that it holds."""
    if not has_digest(content):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the {DIGEST} in it; {remedy}")


def read_json_with_digest(path: Path, remedy: str) -> dict[str, Any]:
    """The content of `write_json_with_digest`, without its digest. Raises ValueError if the file is damaged."""
    content = read_json(path)
    check_digest(path, content, remedy)
    del content[DIGEST]
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, naming the file, if it is damaged or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from a copy, or use another folder") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {repr(content)[:100]}: restore it from a copy")
    return content
