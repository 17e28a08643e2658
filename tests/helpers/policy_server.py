"""A server in a thread, and a client that knows nothing but the protocol."""

import asyncio
import json
import threading
import time
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
from recede.serving.server import Server
from recede.serving.wire import pack, unpack
from websockets.sync.client import connect

TOKEN = "a-secret-of-many-characters"


SECONDS = 30
"""Seconds within which everything that is waited for must happen."""


class Held:
    """An engine that predicts only while `is_free` is set. It counts its predictions in `begun`."""

    def __init__(self, engine):
        self._engine, self.is_free, self.begun = engine, threading.Event(), threading.Semaphore(0)
        self.is_free.set()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def predict(self, *arguments):
        self.begun.release()
        assert self.is_free.wait(SECONDS)
        return self._engine.predict(*arguments)


@contextmanager
def serve(engine, host="127.0.0.1", port=0, **options):
    """A server in a thread of its own, and its address."""
    made, address, ready = Server(engine, **options), [], threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def is_ready(reached):
        address.append(reached)
        ready.set()

    def run():
        with closing(loop):
            loop.run_until_complete(made.run(host, port, ready=is_ready, stop=stop))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield address[0], made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SECONDS)
        assert not thread.is_alive()


@contextmanager
def open_session(address, **options):
    """A connection without our client, and the hello of the server."""
    with connect(address, compression=None, proxy=None, **options) as opened:
        yield opened, unpack(opened.recv(SECONDS))


def receive(opened):
    return unpack(opened.recv(SECONDS))


def ask_chunk(opened, observation, **more):
    opened.send(pack({"kind": "infer", "number": 1, "observation": observation, **more}))
    reply = receive(opened)
    assert reply["kind"] == "chunk", reply
    return reply["chunk"]


def steps(seed, count=2):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, (count, 2)).astype(np.float32) for name in ("position", "target")}


def noise(engine, seed, number):
    """The noise of a session, one prediction after the other."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
    while True:
        yield generator.standard_normal(engine.noise_shape, dtype=np.float32)


def predict_alone(engine, history, drawn, prefix=None):
    """The chunk of one robot, predicted alone."""
    if prefix is not None:
        prefix = replace(prefix, actions=prefix.actions[None], weights=prefix.weights[None])
    return engine.predict(
        {name: values[None] for name, values in history.items()}, drawn[:, None], () if prefix is None else (prefix,)
    )[0]


def read_health(address, token=None):
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(address.replace("ws", "http", 1) + "/healthz", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SECONDS) as response:
        assert response.headers["Content-Type"] == "application/json"
        return json.load(response)


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def port_of(address):
    return int(address.rpartition(":")[2])
