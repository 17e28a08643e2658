"""Published demonstrations, fetched on request from their publishers and checked by the digest of their content."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..specification import nearest
from .arrays import open_array, open_group


@dataclass(frozen=True)
class Published:
    """Where demonstrations are published, and how to know them.

    url: a zip archive. member: the folder of the store in it. sha256: of the decoded bytes of some of its arrays.
    source: who published them, under which licence.
    """

    url: str
    member: str
    sha256: Mapping[str, str]
    source: str


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
    """Fetch the demonstrations `name` to the folder `path`, which appears whole and checked, or not at all.

    url: of a mirror. Raises ValueError for an unknown name, an archive without the store or of other content, and
    OSError where it cannot be fetched; FileExistsError where `path` is there already.
    """
    if name not in PUBLISHED:
        raise ValueError(f"there are no published demonstrations {name!r}: {nearest(name, PUBLISHED)}")
    if path.exists():
        raise FileExistsError(f"{path} is there already: remove it, or give another out=")
    published = PUBLISHED[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        archive = Path(folder) / "archive.zip"
        _fetch(url or published.url, archive)
        try:
            with zipfile.ZipFile(archive) as content:
                members = [each for each in content.namelist() if each.startswith(f"{published.member}/")]
                content.extractall(folder, members)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{url or published.url} is no whole zip archive: {error}; try again") from None
        store = Path(folder) / published.member
        if not members:
            raise ValueError(f"{url or published.url} holds no {published.member}")
        check_content(store, published.sha256)
        shutil.move(store, path)
    return published


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm.wrapattr(answer, "read", total=size, desc="download", unit="B", unit_scale=True) as reader:
            shutil.copyfileobj(reader, file)


def check_content(store: Path, sha256: Mapping[str, str]) -> None:
    """Raises ValueError unless the decoded bytes of each array have the digest noted for it."""
    group = open_group(store)
    for key, wanted in sha256.items():
        found = hashlib.sha256(open_array(group, key, store)[...].tobytes()).hexdigest()
        if found != wanted:
            raise ValueError(f"{store} is not what was published: the SHA-256 of {key} is {found}, expected {wanted}")
