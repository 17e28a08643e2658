"""Roll a policy out in many episodes at once.

An episode's outcome depends on its seed alone, not on which others run beside it or in how many processes: each episode
draws its own noise, and the policy sees batches padded to a multiple of `ROWS`, for which a row's result does not
depend on the number of rows (`tests/test_rollout.py` checks that this holds).

Cost: one prediction for all episodes that need a chunk; environments step in `workers` processes beside it. Memory
grows with `num_parallel`, not with the number of episodes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..control.execution import Execution, History
from ..envs.task import Task
from ..policy.interface import Policy
from .episode import Arena, Chunks, Outcome, check_task

ROWS = 16
"""Batches are padded to a multiple of this many rows."""

Advance: TypeAlias = Callable[[Chunks], dict[int, "History | Outcome"]]


def noise_generator(seed: int, episode_seed: int) -> torch.Generator:
    """The CPU generator of one episode's noise, from the evaluation's seed and the episode's."""
    state = np.random.SeedSequence([seed, episode_seed]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def rollout(
    policy: Policy,
    task: Task,
    seeds: Sequence[int],
    *,
    execution: Callable[[], Execution],
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
    num_parallel: int = 64,
    filmed: Sequence[int] = (),
    progress: bool = True,
) -> list[Outcome]:
    """The outcomes of one episode for each of `seeds`, in their order.

    execution: makes the `Execution` of each episode. seed: of the policy's noise, beside each episode's own.
    workers: processes that step environments; 0 steps them in this one. num_parallel: episodes under way at once.
    filmed: seeds of the episodes whose frames are kept. Raises ValueError where policy and task differ.
    """
    check_task(task, policy.specification)
    if num_parallel < 1 or workers < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"num_parallel must be at least 1, workers at least 0, and the seeds must differ, "
            f"got {num_parallel}, {workers} and {list(seeds)}"
        )
    waiting, outcomes = list(reversed(seeds)), {}
    generators = {episode: noise_generator(seed, episode) for episode in seeds}
    arena = partial(Arena, task.make, execution, filmed=frozenset(filmed))
    bar = tqdm(total=len(seeds), desc=f"evaluate {task.name}", unit="episode", disable=not progress)
    with _arenas(arena, workers) as advance, bar:
        chunks: dict[int, np.ndarray | None] = {}
        while chunks or waiting:
            num_new = num_parallel - len(chunks)
            chunks |= {waiting.pop(): None for _ in range(min(num_new, len(waiting)))}
            answers = advance(chunks)
            ended = {episode: answer for episode, answer in answers.items() if isinstance(answer, Outcome)}
            outcomes |= ended
            if ended:
                bar.update(len(ended))
            due = {episode: answer for episode, answer in answers.items() if not isinstance(answer, Outcome)}
            chunks = dict(
                zip(due, predict(policy, list(due.values()), [generators[e] for e in due], device), strict=True)
            )
    return [outcomes[episode] for episode in seeds]


def predict(
    policy: Policy, histories: Sequence[History], generators: Sequence[torch.Generator], device: str | torch.device
) -> list[np.ndarray]:
    """A chunk (Tp, Da) for each history, drawing the noise of each from its own generator."""
    if not histories:
        return []
    rows = list(range(len(histories)))
    rows += [0] * (-len(rows) % ROWS)
    drawn = [torch.randn(policy.noise_shape, generator=generator) for generator in generators]
    noise = torch.stack([drawn[row] for row in rows], dim=1).to(device)
    observation = {
        name: torch.from_numpy(np.stack([histories[row][name] for row in rows])).to(device) for name in histories[0]
    }
    chunks: Tensor = policy.predict(observation, noise)
    return list(chunks[: len(histories)].cpu().numpy())


@contextmanager
def _arenas(arena: Callable[[], Arena], workers: int) -> Generator[Advance]:
    """One arena in this process, or one in each of `workers` processes; seeds are dealt out by their value."""
    if workers == 0:
        local = arena()
        try:
            yield local.advance
        finally:
            local.close()
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads and the GPU of this process
    pools = [ProcessPoolExecutor(1, context, initializer=_open, initargs=(arena,)) for _ in range(workers)]

    def advance(chunks: Chunks) -> dict[int, History | Outcome]:
        shares: list[dict[int, Any]] = [{} for _ in pools]
        for seed, chunk in chunks.items():
            shares[seed % workers][seed] = chunk
        answers = [pool.submit(_advance, share) for pool, share in zip(pools, shares, strict=True) if share]
        try:
            return {seed: answer for future in answers for seed, answer in future.result().items()}
        except BrokenProcessPool:
            raise ChildProcessError(
                f"one of {workers} processes that step environments died, perhaps for lack of memory: use fewer workers"
            ) from None

    try:
        yield advance
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


_worker: list[Arena] = []


def _open(arena: Callable[[], Arena]) -> None:
    _worker.append(arena())


def _advance(chunks: Chunks) -> dict[int, History | Outcome]:
    return _worker[0].advance(chunks)


def latency(policy: Policy, *, device: str | torch.device, repeats: int = 50) -> dict[str, float]:
    """Milliseconds of one prediction for one robot, all of it included: median, 95th and 99th percentile."""
    specification, steps = policy.specification, policy.horizons.observation
    observation = {
        stream.name: torch.zeros(1, steps, *stream.shape, dtype=getattr(torch, stream.dtype), device=device)
        for stream in specification.observations
    }
    draws, *shape = policy.noise_shape
    noise = torch.zeros(draws, 1, *shape, device=device)
    taken = []
    for _ in range(repeats + 3):  # the first ones warm up
        start = time.perf_counter()
        policy.predict(observation, noise).cpu()  # the copy waits for the device
        taken.append(1e3 * (time.perf_counter() - start))
    p50, p95, p99 = np.percentile(taken[3:], [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
