"""Parameters of a test that proves the same thing with each of them."""

import pytest


def representatives(values, *quick):
    """The values, of which the quick tests take these alone; `make slow` takes the others."""
    return [pytest.param(value, marks=[] if value in quick else [pytest.mark.slow]) for value in values]
