"""Files and folders that are there whole or not at all, and JSON.

A file or folder is written beside its place, under a name that no other writer uses, and renamed. A writer that is
killed leaves at most something called `.*.partial*`. Nothing is forced out of the operating system's cache: what was
written survives the death of its process, not the loss of power.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _partial(path: Path) -> Path:
    """A name beside `path` that no other writer uses: not another process, and not another call in this one.

    It ends as `path` does, because writers of films choose the format by it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.partial{path.suffix}")


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A path to write a file to, which becomes `path` once the block ends; after an error nothing of it remains.

    Replaces a file that is there already.
    """
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Generator[Path]:
    """A folder to fill, which becomes `path` once the block ends; after an error nothing of it remains.

    replace: whether a folder that is there already gives way. If not, a folder that holds anything is kept, and
    OSError is raised.
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


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Have an OSError within name the file and the remedy, which a full disk by itself does not."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror}), what was saved before is kept: "
            f"see that the disk has room and can be written to, and repeat the command",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 in one piece: it is the old one or the new one.

    Raises OSError, naming the file and the remedy, if it cannot be written.
    """
    with writing(path), whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON in one piece. Raises ValueError for NaN and infinity, which JSON does not know."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, naming the file, if it is cut short or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from a copy, or use another folder") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {content!r}: restore it from a copy")
    return content
