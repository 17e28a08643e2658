"""Engines are made once for all files of this folder."""

import pytest
from engines import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """Policies by name, and engines of them."""
    return Workshop(tmp_path_factory.mktemp("graphs"))
