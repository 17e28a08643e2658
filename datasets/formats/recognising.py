"""Which format a file or a folder is of, by what is there. Packages of a format are imported when it is opened."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .interface import ForeignDataset

FORMATS = {
    "lerobot": "lerobot:LeRobot",
    "minari": "minari:Minari",
    "hdf5": "hdf5:Hdf5",
    "mcap": "mcap:Mcap",
    "replay_buffer": "any_replay_buffer:AnyReplayBuffer",
    "csv": "csv_files:CsvFiles",
    "numpy": "numpy_files:NumpyFiles",
}
"""Kind -> module and class, the most particular first."""

READ = (
    "LeRobot (v3.0, v2.1, v2.0), HDF5 (robomimic, robosuite, LIBERO, ALOHA and others), Minari, MCAP recordings of "
    "ROS 2, replay buffers in zarr, and folders of .npz, .npy or .csv files"
)
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
    if any(path.glob("data/chunk-*")):
        raise ValueError(f"{path} seems to be a data set of LeRobot without its meta/info.json: copy that folder too")
    raise ValueError(f"{path} is no data set that is read: these are {READ}; name the folder itself, not one above it")
