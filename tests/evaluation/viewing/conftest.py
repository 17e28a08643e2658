"""Demonstrations to see."""

import pytest
from viewed import make_store


@pytest.fixture(scope="session")
def seen_store(tmp_path_factory):
    """The store of `viewed`, read only."""
    return make_store(tmp_path_factory.mktemp("viewed") / "seen.zarr")
