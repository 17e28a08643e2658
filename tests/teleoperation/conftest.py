"""The input `browser`, served by threads."""

import contextlib

import pytest
from pages import Threads, Watched
from recede.teleoperation import browser as browser_module
from recede.teleoperation.browser import Browser


@pytest.fixture
def start(monkeypatch, capsys):
    monkeypatch.setattr(browser_module, "Child", Threads)
    with contextlib.ExitStack() as stack:

        def start(robot=None, **options):
            hands = stack.enter_context(contextlib.closing(Browser(robot or Watched(), **options)))
            hands.start()
            assert hands.address in capsys.readouterr().out
            return hands

        yield start
