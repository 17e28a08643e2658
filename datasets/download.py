"""Download published demonstrations from their publishers and check the digest of their content."""

from __future__ import annotations

import hashlib
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ..files import rename_folder, scratch_folder
from ..progress import Progress
from ..specification import nearest
from .arrays import chunk_files, open_array, open_group, read_rows, require_chunks

PIECE_BYTES = 1 << 18
"""Read at once."""


@dataclass(frozen=True)
class Published:
    """A published dataset: its address, and the digests that identify it."""

    url: str
    """Address of a zip archive."""
    member: str
    """Folder of the store in the archive."""
    sha256: Mapping[str, str]
    """Array -> digest of its decoded bytes, for every array of the store."""
    size: int
    """Most bytes of the unpacked store."""
    source: str
    """Content, publisher and licence."""


PUBLISHED = {
    "pusht": Published(
        url="https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip",
        member="pusht/pusht_cchi_v7_replay.zarr",
        sha256={
            "data/img": "3f7650895d1a500d7162b10475df689731f4fece2b15eaf7d913a560c2a0783d",
            "data/keypoint": "2419980734c1d41050f8fbf7513031e6e784168bafbe42bcec81fdebe44c6611",
            "data/n_contacts": "3e4258a61c21da4af3257269d3300b5128f04ba3ad34ebd0d0e709489ca854d4",
            "data/state": "dcdc539bfdba9fc01cba8d2fe91cc580539ec046a88b0ffbe91be5511948d4dc",
            "data/action": "6691b085749144b8db1aede97a80fb380afd08953fcd03660b441d0ffe9d6a8f",
            "meta/episode_ends": "82db02e667c59a83fedb211ab9b84182591b75009df1385210d5235197f93d72",
        },
        size=32_000_000,
        source="206 human demonstrations of Push-T, Chi et al. 2023, MIT licence",
    )
}


def download(name: str, path: Path, *, url: str | None = None) -> Published:
    """Download the demonstrations `name` to the folder `path`, which appears whole and checked, or not at all.

    url: of a mirror, to be used instead of the publisher.

    Raises ValueError for an unknown name, and for an archive that is damaged, lacks the store or has other content.
    Raises OSError if the download fails, and FileExistsError if `path` exists.
    """
    if name not in PUBLISHED:
        raise ValueError(f"there are no published demonstrations {name!r}: {nearest(name, PUBLISHED)}")
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} already exists: remove it, or give another out=")
    published = PUBLISHED[name]
    address = url or published.url
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path) as folder:
        archive, unpacked = folder / "archive.zip", folder / "unpacked"
        _fetch(address, archive)
        store = _unpack(archive, unpacked, published, address)
        try:
            remove_others(store, check_content(store, published.sha256))
        except ValueError as error:
            raise ValueError(f"{address} does not hold the published {name!r}: {error}") from None
        rename_folder(store, path)
    return published


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
            size = int(response.headers.get("Content-Length", 0)) or None
            with Progress(size, "download", unit="MB", scale=1e6) as progress:
                while piece := response.read(PIECE_BYTES):
                    file.write(piece)
                    progress.advance(len(piece))
    except (OSError, HTTPException) as error:
        raise OSError(f"{url} could not be downloaded: {error}; try again, or give the url= of a mirror") from error


def _unpack(archive: Path, folder: Path, published: Published, url: str) -> Path:
    """Unpack the store into `folder` and return its path; zipfile keeps all names below `folder`."""
    member = published.member
    try:
        with zipfile.ZipFile(archive) as content:
            members = [entry for entry in content.infolist() if entry.filename.startswith(f"{member}/")]
            size = sum(entry.file_size for entry in members)  # zipfile unpacks no more than an entry declares
            if size > published.size:
                raise ValueError(
                    f"{url}: {member} must unpack to at most {published.size} bytes, got {size}: give the url= of "
                    "another mirror"
                )
            content.extractall(folder, members)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{url} is not a complete zip archive ({error}): try again, or give the url= of a mirror"
        ) from None
    if not (folder / member).is_dir():
        raise ValueError(f"{url} holds no folder {member}: give the url= of another mirror")
    return folder / member


def check_content(store: Path, sha256: Mapping[str, str]) -> set[Path]:
    """The files of these arrays. Raises ValueError unless their decoded bytes have these digests."""
    group = open_group(store)
    folders = {parent for key in sha256 for parent in (store / key).parents if parent.is_relative_to(store)}
    files = {folder / name for folder in folders for name in (".zgroup", ".zattrs")}
    for key, expected in sha256.items():
        array = open_array(group, key, store)
        files |= {store / key / name for name in (".zarray", ".zattrs")}
        files |= set(chunk_files(array))
        require_chunks(array, 0, array.shape[0])
        digest = hashlib.sha256()
        for start in range(0, array.shape[0], array.chunks[0]):
            digest.update(read_rows(array, start, min(start + array.chunks[0], array.shape[0])).tobytes())
        if digest.hexdigest() != expected:
            raise ValueError(f"the SHA-256 of {key} must be {expected}, got {digest.hexdigest()}")
    return files


def remove_others(store: Path, files: set[Path]) -> None:
    """Remove all but these files, and name the first of the others: no digest covers them."""
    others = sorted(path for path in store.rglob("*") if not path.is_dir() and path not in files)
    for path in others:
        path.unlink()
    if others:
        first = others[0].relative_to(store).as_posix()
        print(f"left out {len(others)} files of the archive that no digest covers, such as {first!r}")
