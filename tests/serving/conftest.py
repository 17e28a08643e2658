"""An engine of a small policy, and a server of it."""

import pytest
from policy_server import serve
from recede.checkpoints.opening import open_policy


@pytest.fixture(autouse=True)
def without_a_token(monkeypatch):
    monkeypatch.delenv("RECEDE_TOKEN", raising=False)


@pytest.fixture(scope="module")
def engine(trained):
    return open_policy(trained).engine


@pytest.fixture(scope="module")
def address(engine):
    with serve(engine, seed=5) as (address, _):
        yield address
