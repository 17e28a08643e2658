"""Download published demonstrations from their publishers and check the digest of their content."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from ..specification import nearest
from .arrays import open_array, open_group, read_rows


@dataclass(frozen=True)
class Published:
    """A published dataset: its address, and the digests that identify it."""

    url: str
    """Address of a zip archive."""
    member: str
    """Folder of the store in the archive."""
    sha256: Mapping[str, str]
    """Array -> digest of its decoded bytes."""
    source: str
    """Content, publisher and licence."""


PUBLISHED = {
    "pusht": Published(
        url="https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip",
        member="pusht/pusht_cchi_v7_replay.zarr",
        sha256={
            "data/state": "dcdc539bfdba9fc01cba8d2fe91cc580539ec046a88b0ffbe91be5511948d4dc",
            "data/action": "6691b085749144b8db1aede97a80fb380afd08953fcd03660b441d0ffe9d6a8f",
            "meta/episode_ends": "82db02e667c59a83fedb211ab9b84182591b75009df1385210d5235197f93d72",
        },
        source="206 human demonstrations of Push-T, Chi et al. 2023, MIT licence",
    )
}


def download(name: str, path: Path, *, url: str | None = None) -> Published:
    """Download the demonstrations `name` to the folder `path`, which appears whole and checked, or not at all.

    url: of a mirror, to be used instead of the publisher.

    Raises ValueError for an unknown name, and for an archive that is damaged, lacks the store or has another content.
    Raises OSError if the download fails, and FileExistsError if `path` exists.
    """
    if name not in PUBLISHED:
        raise ValueError(f"there are no published demonstrations {name!r}: {nearest(name, PUBLISHED)}")
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} already exists: remove it, or give another out=")
    published = PUBLISHED[name]
    address = url or published.url
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        archive, unpacked = Path(folder) / "archive.zip", Path(folder) / "unpacked"
        _fetch(address, archive)
        store = _unpack(archive, unpacked, published.member, address)
        try:
            check_content(store, published.sha256)
        except ValueError as error:
            raise ValueError(f"{address} does not hold the published {name!r}: {error}") from None
        store.rename(path)
    return published


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
            size = int(response.headers.get("Content-Length", 0)) or None
            with tqdm.wrapattr(response, "read", total=size, desc="download", unit="B", unit_scale=True) as reader:
                shutil.copyfileobj(reader, file)
    except (OSError, HTTPException) as error:
        raise OSError(f"{url} could not be downloaded: {error}; try again, or give the url= of a mirror") from error


def _unpack(archive: Path, folder: Path, member: str, url: str) -> Path:
    """Unpack the folder `member` into `folder` and return its path; zipfile keeps all names below `folder`."""
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder, [name for name in content.namelist() if name.startswith(f"{member}/")])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{url} is not a complete zip archive ({error}): try again, or give the url= of a mirror"
        ) from None
    if not (folder / member).is_dir():
        raise ValueError(f"{url} holds no folder {member}: give the url= of another mirror")
    return folder / member


def check_content(store: Path, sha256: Mapping[str, str]) -> None:
    """Raise ValueError unless the decoded bytes of each array have the given digest."""
    group = open_group(store)
    for key, expected in sha256.items():
        array = open_array(group, key, store)
        digest = hashlib.sha256(read_rows(array, 0, array.shape[0]).tobytes()).hexdigest()
        if digest != expected:
            raise ValueError(f"the SHA-256 of {key} must be {expected}, got {digest}")
