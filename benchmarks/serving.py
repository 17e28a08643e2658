"""The overhead of a policy over the network: packing, checks and the way over the loopback and back.

    python benchmarks/serving.py [json=FILE]

One session between recede's client and a server in the same process, whose engine answers immediately. The observation
is two steps of a vector, then also two frames of a camera.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, output, report
from recede.policy.denoising.guidance import Guidance
from recede.policy.engines.interface import Arrays
from recede.policy.requests import Request
from recede.serving.client import RemotePolicy
from recede.serving.server import Server
from recede.specification import Horizons, Specification, Stream

ROUNDS = 1000
"""Chunks per policy."""

STATE = Stream("state", (20,))
POLICIES = {
    "a vector": (STATE,),
    "a vector and 96 x 96 pixels": (STATE, Stream("camera", (96, 96, 3), "uint8")),
    "a vector and 480 x 640 pixels": (STATE, Stream("camera", (480, 640, 3), "uint8")),
}
"""Name -> observation streams of the policy."""


class Instant:
    """An engine that answers immediately."""

    name, precision, noise_shape, horizons = "eager", "fp32", (1, 16, 7), Horizons()

    def __init__(self, streams: tuple[Stream, ...]) -> None:
        self.specification = Specification(streams, Stream("action", (7,)), control_dt=0.1)

    def predict(
        self, observation: Arrays, noise: NDArray[np.float32], guidance: Sequence[Guidance] = ()
    ) -> NDArray[np.float32]:
        """The noise."""
        return noise[0]


@contextmanager
def served(engine: Instant) -> Generator[str]:
    """The address of a server that runs in its own thread."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    address: list[str] = []

    def announce(url: str) -> None:
        address.append(url)
        ready.set()

    run = Server(engine).run("127.0.0.1", 0, ready=announce, stop=stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(run,))
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def measured(name: str, streams: tuple[Stream, ...]) -> list[Row]:
    """Milliseconds from a request to its chunk."""
    request = Request({stream.name: np.zeros((2, *stream.shape), stream.dtype) for stream in streams})
    taken: list[float] = []
    with served(Instant(streams)) as address, closing(RemotePolicy(address)) as policy:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            policy(request)
            taken.append(1e3 * (time.perf_counter() - began))
    parts = {"median": 50, "99th percentile": 99}
    return [Row(name=f"{name}, {part}", value=float(np.percentile(taken, q)), unit="ms") for part, q in parts.items()]


def main() -> None:
    """Measure and report."""
    path = output(sys.argv[1:])
    report([row for name, streams in POLICIES.items() for row in measured(name, streams)], path)


if __name__ == "__main__":
    main()
