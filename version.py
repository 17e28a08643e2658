"""The version of recede."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _version() -> str:
    """The installed version, or that of the checkout if it was never installed but stands on the path of Python."""
    try:
        return version("recede")
    except PackageNotFoundError:
        return tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["project"]["version"]


__version__ = _version()
