"""Predict the requests of many sessions together.

Shapes: B requests of a batch; Tp prediction horizon; Da size of the action.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policy.engines.interface import Engine
from ..policy.requests import Request, batch


class Answer(NamedTuple):
    """A chunk, and how long it took."""

    chunk: NDArray[Any]
    """(Tp, Da)."""
    waited_s: float
    """Seconds that the request waited for the engine."""
    inference_s: float
    """Seconds of the prediction."""


@dataclass(eq=False)
class Waiting:
    """A request in the queue."""

    request: Request
    noise: NDArray[np.float32]
    """(draws, Tp, Da)."""
    since: float
    """When it was queued, s."""
    answer: asyncio.Future[Answer]
    """Where its answer is expected."""


class Inference:
    """A queue before an engine: whenever the engine is free, it predicts all waiting requests of one kind at once.

    sizes: batch size -> number of predictions of that size.
    """

    def __init__(self, engine: Engine, max_batch: int) -> None:
        self.engine, self.max_batch, self.sizes = engine, max_batch, Counter[int]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._queue: list[Waiting] = []
        self._arrived = asyncio.Event()

    async def ask(self, request: Request, noise: NDArray[np.float32]) -> Answer:
        """Queue a request and wait for its chunk. Raises ValueError if the engine cannot predict it."""
        waiting = Waiting(request, noise, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        try:
            return await waiting.answer
        finally:
            if waiting in self._queue:  # cancelled: nobody waits for the chunk
                self._queue.remove(waiting)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def warm_up(self) -> None:
        """Predict one batch of every size, because an engine may compile itself for each."""
        streams, steps = self.engine.specification.observations, self.engine.horizons.observation
        request = Request({stream.name: np.zeros((steps, *stream.shape), stream.dtype) for stream in streams})
        noise = np.zeros(self.engine.noise_shape, np.float32)
        for size in range(1, self.max_batch + 1):
            await self._predict([request] * size, [noise] * size)

    async def run(self) -> None:
        """Answer requests until cancelled."""
        while True:
            await self._arrived.wait()
            if group := self._next_batch():
                await self._answer(group)

    def close(self) -> None:
        """End the thread, after the prediction that it is making."""
        self._thread.shutdown(cancel_futures=True)

    def _next_batch(self) -> list[Waiting]:
        """The requests of the same kind as the oldest one, in their order; none if all their clients are gone."""
        kinds = [waiting.request.kind for waiting in self._queue]
        chosen = [waiting for waiting in self._queue if waiting.request.kind == kinds[0]][: self.max_batch]
        self._queue = [waiting for waiting in self._queue if waiting not in chosen]
        if not self._queue:
            self._arrived.clear()
        return chosen

    async def _answer(self, group: list[Waiting]) -> None:
        """Answer a group of requests; if that fails, each one alone, so that only faulty requests get an error."""
        began = time.perf_counter()
        try:
            chunks = await self._predict([waiting.request for waiting in group], [waiting.noise for waiting in group])
        except Exception as error:  # an engine may raise anything, and the other sessions must go on
            if len(group) > 1:
                for waiting in group:
                    await self._answer([waiting])
                return
            print(f"a prediction failed: {error!r}", file=sys.stderr, flush=True)
            if not group[0].answer.done():
                group[0].answer.set_exception(ValueError(f"the prediction failed: {error}"))
            return
        self.sizes[len(group)] += 1
        seconds = time.perf_counter() - began
        for waiting, chunk in zip(group, chunks, strict=True):
            if not waiting.answer.done():  # its session may have ended
                waiting.answer.set_result(Answer(chunk, began - waiting.since, seconds))

    async def _predict(self, requests: list[Request], noise: list[NDArray[np.float32]]) -> NDArray[Any]:
        """The chunks (B, Tp, Da), predicted in the thread of the engine."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run_engine, requests, noise)

    def _run_engine(self, requests: list[Request], noise: list[NDArray[np.float32]]) -> NDArray[Any]:
        observation, guidance = batch(requests)
        with np.errstate(all="ignore"):  # one robot's numbers must not print warnings for all
            return self.engine.predict(observation, np.stack(noise, axis=1), guidance)
