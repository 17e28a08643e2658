"""Requests of many sessions, predicted together."""

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
    """A chunk (Tp, Da), the seconds that its request waited, and those of the prediction."""

    chunk: NDArray[Any]
    waited_s: float
    inference_s: float


@dataclass(eq=False)
class Waiting:
    """A request, its noise (draws, Tp, Da), since when it waits, and where its answer is expected."""

    request: Request
    noise: NDArray[np.float32]
    since: float
    answer: asyncio.Future[Answer]


class Inference:
    """An engine that many ask: whenever it is free, all that wait and are guided alike are predicted at once.

    sizes: how many predictions were made of how many requests.
    """

    def __init__(self, engine: Engine, max_batch: int) -> None:
        self.engine, self.max_batch, self.sizes = engine, max_batch, Counter[int]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._queue: list[Waiting] = []
        self._arrived = asyncio.Event()

    async def ask(self, request: Request, noise: NDArray[np.float32]) -> Answer:
        """The chunk for a request, in its turn. Raises ValueError where the engine cannot predict it."""
        waiting = Waiting(request, noise, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def warm(self) -> None:
        """Predict batches of every size, because an engine may prepare itself for each."""
        streams, steps = self.engine.specification.observations, self.engine.horizons.observation
        request = Request({stream.name: np.zeros((steps, *stream.shape), stream.dtype) for stream in streams})
        noise = np.zeros(self.engine.noise_shape, np.float32)
        for size in range(1, self.max_batch + 1):
            await self._predicted([request] * size, [noise] * size)

    async def run(self) -> None:
        """Answer for ever."""
        while True:
            await self._arrived.wait()
            await self._settle(self._next_batch())

    def close(self) -> None:
        """End the thread, after what it is predicting."""
        self._thread.shutdown(cancel_futures=True)

    def _next_batch(self) -> list[Waiting]:
        """Those that are guided as the first one is, in their order."""
        alike = [each for each in self._queue if each.request.kind == self._queue[0].request.kind][: self.max_batch]
        self._queue = [each for each in self._queue if each not in alike]
        if not self._queue:
            self._arrived.clear()
        return alike

    async def _settle(self, batch: list[Waiting]) -> None:
        """Answer all of a batch; where that fails, each by itself, so that only what is wrong has an error."""
        began = time.perf_counter()
        try:
            chunks = await self._predicted([each.request for each in batch], [each.noise for each in batch])
        except Exception as error:  # an engine may raise anything, and others are to be served
            if len(batch) > 1:
                for each in batch:
                    await self._settle([each])
                return
            print(f"a prediction failed: {error!r}", file=sys.stderr, flush=True)
            if not batch[0].answer.done():
                batch[0].answer.set_exception(ValueError(f"the prediction failed: {error}"))
            return
        self.sizes[len(batch)] += 1
        taken = time.perf_counter() - began
        for each, chunk in zip(batch, chunks, strict=True):
            if not each.answer.done():  # nobody waits for it any more
                each.answer.set_result(Answer(chunk, began - each.since, taken))

    async def _predicted(self, requests: list[Request], noise: list[NDArray[np.float32]]) -> NDArray[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, requests, noise)

    def _predict(self, requests: list[Request], noise: list[NDArray[np.float32]]) -> NDArray[Any]:
        """The chunks (B, Tp, Da), in the thread of the engine."""
        observation, guidance = batch(requests)
        with np.errstate(all="ignore"):  # of one robot's numbers nobody else is to hear
            return self.engine.predict(observation, np.stack(noise, axis=1), guidance)
