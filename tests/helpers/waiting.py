"""Waiting for what another thread or process does."""

import time


def until(condition, seconds=30.0):
    """Wait until a condition is true; fails if it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)
