"""Demonstrations to see, whose texts try to run a script, and the page of `recede view` without a command."""

import asyncio
import base64
import contextlib
import threading

import numpy as np
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.evaluation.viewing.server import Viewer
from recede.specification import Specification, Stream
from recede.web.access import Access, listen

SPECIFICATION = Specification(
    (
        Stream("hand", (2,), units="m", labels=("x", "y"), low=-1.0, high=1.0),
        Stream("goal", (1,), context=True),
        Stream("camera", (24, 32, 3), "uint8"),
        Stream("depth", (8, 8, 1), "uint8"),
    ),
    Stream("action", (2,), units="m", labels=("x", "y"), low=-1.0, high=1.0),
    control_dt=0.1,
)
ATTACK = "</script><img src=x onerror='window.hacked = 1'><b>bold</b>"
"""A text that becomes an element wherever a page takes it for markup."""

LED = [[5, 12]]
"""The steps of the second episode that a person led."""


def streams(seed, length=30):
    """An episode whose hand rests for 12 steps and then goes to the right, by the action of the step before."""
    rng, way = np.random.default_rng(seed), np.clip(np.arange(length) - 12, 0, None) / length
    hand = np.stack([way, np.full(length, 0.1 * seed)], axis=1).astype(np.float32)
    images = {"camera": (24, 32, 3), "depth": (8, 8, 1)}
    return {
        "hand": hand,
        "goal": np.full((length, 1), seed, np.float32),
        "action": np.concatenate([hand[1:], hand[-1:]]),
        **{name: rng.integers(0, 256, (length, *shape), np.uint8) for name, shape in images.items()},
    }


def make_store(path):
    """Four episodes: a success by a script, a failure in which a person took over, and two without notes."""
    store = DemonstrationStore.create(path, SPECIFICATION)
    store.append(streams(0), seed=7, facts=EpisodeFacts(outcome="success", operator="script", sentence=ATTACK))
    taken = EpisodeFacts(outcome="failure", operator="Ada", notes={"led": LED, "light": ATTACK})
    store.append(streams(1), facts=taken)
    store.append(streams(2, length=45))
    store.append(streams(3))
    return store


def decoded(text):
    """The numbers of an answer."""
    return np.frombuffer(base64.b64decode(text), "<f4")


@contextlib.contextmanager
def served(showing, **options):
    """The page of a `Showing` in a thread; its address."""
    access = Access(host="127.0.0.1", token=None, printer="recede view", purpose="ask for demonstrations")
    listening = listen("127.0.0.1", 0, key="port")
    loop, stop, viewer = asyncio.new_event_loop(), asyncio.Event(), Viewer(showing, access, **options)
    thread = threading.Thread(target=loop.run_until_complete, args=(viewer.run(listening, stop),))
    thread.start()
    try:
        yield access.address(listening.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
        listening.close()
