"""Which format a file or a folder is of, by what is there. Packages of a format are imported when it is opened."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .interface import ForeignDataset

FORMATS = {
    "numpy": "numpy_files:NumpyFiles",
}
"""Kind -> module and class, the most particular first."""

READ = "folders of .npz or .npy files"
"""The formats, in words."""


def open_foreign(path: str | Path) -> ForeignDataset:
    """Open a data set of another library.

    Raises FileNotFoundError if `path` does not exist, and ValueError if it is of no format here, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the path")
    for location in FORMATS.values():
        module, name = location.split(":")
        kind: type[ForeignDataset] = getattr(import_module(f".{module}", __package__), name)
        if kind.recognises(path):
            return kind(path)
    raise ValueError(f"{path} is no data set that is read: these are {READ}; name the folder itself, not one above it")
