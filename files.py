"""Files and folders that appear whole or not at all, folders that one process writes at a time, JSON, tensors.

A file or folder is written next to its path under a unique name, and renamed when it is complete. A writer that is
killed leaves at most a file `.*.partial*`, which the next writer of the same file or folder deletes. Each writer locks
what it writes, so the others know whether it lives, on whichever machine. Nothing is flushed to the disk: a file
survives the death of its process, but not a loss of power.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_PARTIAL = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.partial(\..*)?")
"""The names of `_partial`."""

LOCK = ".lock"
"""The file of a folder that its only writer locks. A killed writer leaves it, which locks nothing."""


def _partial(path: Path) -> Path:
    """A path next to `path` that no other process and no other call uses.

    It has the suffix of `path`, by which writers of films choose the format.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.partial{path.suffix}")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Delete those of the paths that are partial files or folders of writers that are dead."""
    for path in list(paths):
        if not _PARTIAL.fullmatch(path.name):
            continue
        with suppress(OSError), _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):  # its writer lives, or it is gone already
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, operation: int) -> Generator[None]:
    """Lock a file or a folder as long as the block or this process lasts. Raises OSError if it cannot be locked."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW if path.is_dir() else os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, operation)
        yield
    finally:
        os.close(opened)


@contextmanager
def _unfinished(path: Path, make: Callable[[Path], None]) -> Generator[Path]:
    """A partial file or folder beside `path`, which is deleted after the block unless it was renamed."""
    remove_leftovers(path.parent.glob(f".{_literal(path.stem)}.*.partial{_literal(path.suffix)}"))
    while True:
        partial = _partial(path)
        make(partial)
        try:
            with _marked(partial):
                if partial.exists():  # else it was taken for a leftover before it was locked
                    yield partial
                    return
        finally:
            _remove(partial)


@contextmanager
def _marked(partial: Path) -> Generator[None]:
    """Lock a partial file, so that no other process takes it for a leftover. Some file systems have no locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(_locked(partial, fcntl.LOCK_EX))
        yield


def _literal(text: str) -> str:
    """A pattern of names that stands for this text."""
    return re.sub(r"([*?[])", r"[\1]", text)


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A path to write a file to, which is renamed to `path` at the end of the block, or deleted after an error.

    Replaces an existing file.
    """
    with _unfinished(path, Path.touch) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Generator[Path]:
    """A folder to fill, which is renamed to `path` at the end of the block, or deleted after an error.

    replace: whether to replace an existing folder. If False, raises FileExistsError if the folder exists and is not
    empty.
    """
    with _unfinished(path, lambda partial: partial.mkdir(parents=True)) as partial:
        yield partial
        if replace and path.exists():
            shutil.rmtree(path)
        rename_folder(partial, path)


def rename_folder(folder: Path, path: Path) -> None:
    """Rename a folder. Raises FileExistsError if `path` exists and is not empty."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise FileExistsError(
            f"{path} was written by another process meanwhile, and is kept: use another out="
        ) from None


@contextmanager
def scratch_folder(path: Path) -> Generator[Path]:
    """A folder next to `path` that is deleted at the end of the block."""
    with _unfinished(path, lambda partial: partial.mkdir(mode=0o700, parents=True)) as partial:
        yield partial


@contextmanager
def exclusive(folder: Path, doing: str, *, name: str = LOCK) -> Generator[None]:
    """Make a folder if it is missing, lock it, and delete what dead writers left directly in it.

    doing: what is done in it, as "being trained". name: of the file that is locked. If the block leaves nothing in a
    folder that was made, the folder is deleted.

    Raises ValueError if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{folder} is {doing} by another process: wait for it, or use another out=") from None
        remove_leftovers(folder.glob(".*.partial*"))
        yield
    finally:
        if lock.is_locked:
            (folder / name).unlink(missing_ok=True)  # before the release, so that whoever locks it next makes it anew
            if is_new and folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
            lock.release()


@contextmanager
def taking_turns(path: Path) -> Generator[None]:
    """Wait until no other process changes the file. Deletes its lock, a file beside it, at the end."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock")) as lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raises ValueError if results cannot be written to `folder`, or if it does not exist and cannot be made.

    Nothing is written among demonstrations.
    """
    for path in (whole := folder.absolute(), *whole.parents):
        if (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
            raise ValueError(f"out must be a folder of its own, got {folder}, but {path} is a store: give another out=")
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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises OSError, with the file and the remedy, if writing fails."""
    with writing(path), whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as `write_bytes` does."""
    write_bytes(path, text.encode())


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


def check_digest(path: Path | str, content: Mapping[str, Any], remedy: str) -> None:
    """Raises ValueError, with the file and the remedy, if `content` does not have the digest that it holds."""
    if not has_digest(content):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the {DIGEST} in it; {remedy}")


@contextmanager
def interpreting(path: Path | str, remedy: str, *also: type[Exception]) -> Generator[None]:
    """Name the file in every error that its content leads to, because an entry of JSON may be of any kind.

    also: ValueError, if those of the block do not name the file. Raises ValueError, with the file and the remedy.
    """
    kinds = (ArithmeticError, AttributeError, LookupError, RuntimeError, MemoryError, TypeError, *also)
    try:
        yield
    except kinds as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged ({reason}); {remedy}") from error


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as safetensors; returns the SHA-256 of the file."""
    import safetensors.torch

    data = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    with writing(path):  # safetensors itself does not raise OSError if the disk is full
        path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Read the tensors of `write_tensors`. digest: the SHA-256 that it returned.

    Raises FileNotFoundError if the file is missing, and ValueError if its SHA-256 differs.
    """
    import safetensors.torch

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or use another checkpoint")
    try:
        data = path.read_bytes()
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory: use a machine with more, or another checkpoint") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one noted beside it; use another checkpoint")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError, MemoryError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): use another checkpoint") from None
