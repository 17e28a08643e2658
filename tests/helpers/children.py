"""Processes for `realtime.Child`, in their own module so that the processes can import them."""

import time
from pathlib import Path

import numpy as np

NOTHING = {"ready": np.dtype([])}


def echo(channel, offset):
    """Answer every number with itself and an offset."""
    while True:
        for name, record in channel.receive():
            channel.send(name, record["value"] + offset, tuple(record["nested"]))
        channel.wait(60)


def sleep(channel, seconds):
    """Say so, and notice nothing for some seconds."""
    channel.send("ready")
    time.sleep(seconds)


def last_words(channel, path):
    """Write a file some time after the channel is closed."""
    channel.send("ready")
    try:
        while True:
            list(channel.receive())
            channel.wait(60)
    except ConnectionError:
        time.sleep(0.3)
        Path(path).write_text("over")
