"""Roll a policy out in many episodes at once.

An episode's outcome depends on its seed alone, not on the other episodes or the number of processes. Each episode draws
its own noise. Batches are padded to a multiple of `ROWS`, so that a row's result does not depend on the number of rows
(checked by `tests/evaluation/test_rollout.py`). The libraries of a GPU choose other ways for other multiples, so there
every batch has just `GPU_ROWS` rows. The eager engine predicts groups of rows on a CPU, each on one of as many threads
as torch has, so a row's result does not depend on the number of threads either. A large group takes less time a row. It
is used if its first prediction gave every row the bits that it has among `ROWS` rows.

Cost: one prediction for all episodes that need a chunk. Environments step in `workers` processes in parallel, or all at
once if the task has worlds (`Task.make_batch`). Memory grows with `num_parallel`, not with the number of episodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from ..configs.evaluation import EvaluateConfig
from ..envs.task import Task, check_picklable
from ..execution.interface import Execution
from ..policy.engines.eager import as_engine
from ..policy.engines.interface import Engine
from ..policy.engines.wrapping import without_absent
from ..policy.interface import Policy
from ..policy.requests import History, Request, batch
from ..progress import Progress
from .episode import Arena, Chunks, Filmed, Outcome
from .groups import ROWS, groups_of, padded, pieces
from .intervals import wilson
from .view import Embed, view_of
from .workers import Workers
from .worlds import WorldsArena

GPU_ROWS = EvaluateConfig.parallel
"""The rows of every batch on a GPU."""

Monitoring: TypeAlias = Callable[[Sequence[Request], np.ndarray], Mapping[str, np.ndarray]]
"""(B requests of one kind, their chunks (B, Tp, Da)) -> monitor -> (B,); see `policy.monitor`."""

Advance: TypeAlias = Callable[[Chunks], dict[int, "Request | Outcome"]]

Roll: TypeAlias = Callable[[Sequence[int], int], Iterator[Outcome]]
"""(seeds, the most episodes at once) -> the outcome of each episode once it has ended."""


def noise_generator(seed: int, episode_seed: int) -> torch.Generator:
    """The CPU generator of one episode's noise, from the seed of the evaluation and that of the episode.

    It uses only the lower 32 of the 64 bits of its seed. So two of n episodes share their noise with a probability of
    about n^2 / 2^33, which is 0.0005 % for 200 episodes.
    """
    state = np.random.SeedSequence([seed, episode_seed]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def rollout(
    policy: Policy | Engine,
    task: Task,
    seeds: Sequence[int],
    *,
    execution: Callable[[], Execution],
    delay: int = 0,
    seed: int = 0,
    workers: int = 0,
    num_parallel: int = EvaluateConfig.parallel,
    filmed: Filmed | None = None,
    progress: bool = True,
    purpose: str = "evaluate",
    note: Callable[[Outcome], None] | None = None,
    embed: Embed | None = None,
    monitor: Monitoring | None = None,
    elsewhere: Callable[[Filmed], Roll] | None = None,
) -> list[Outcome]:
    """The outcomes of one episode for each of `seeds`, in their order.

    policy: an engine, or a policy on its device. execution: makes the `Execution` of each episode. delay: control steps
    from the request of a chunk to its arrival. seed: seed of the policy's noise, which each episode combines with its
    own seed. workers: number of processes that step environments; 0 steps them in this process, at once if the task has
    worlds. num_parallel: number of episodes that run at once. filmed: which episodes to film. purpose: the word in the
    progress, which shows the success rate of "evaluate". note: called with each outcome once it is certain. embed: see
    `view_of`. monitor: computes `Outcome.monitors`. elsewhere: rolls episodes out in other places, just as it would be
    done here.

    An episode that breaks off has a `fault`, and the others go on. The episodes of a process that dies are run again
    from their seeds, one by one.

    Raises ValueError if the specifications of policy and task differ, or if the task cannot be sent to workers. Raises
    ChildProcessError if they cannot start.
    """
    if num_parallel < 1 or workers < 0 or delay < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"num_parallel must be at least 1, workers and delay at least 0, and the seeds must differ, "
            f"got {num_parallel}, {workers}, {delay} and {list(seeds)}"
        )
    here = rolling(
        policy,
        task,
        most=min(num_parallel, len(seeds)),
        execution=execution,
        delay=delay,
        seed=seed,
        workers=workers,
        filmed=filmed,
        embed=embed,
        monitor=monitor,
    )
    shown = Progress(len(seeds), f"{purpose} {task.name}", unit="episodes", is_shown=progress)
    with nullcontext(elsewhere(filmed or {})) if elsewhere else here as roll, shown as bar:
        collected = partial(_collected, bar=bar, note=note, is_rated=purpose == "evaluate")
        outcomes = collected(roll(seeds, num_parallel))
        for episode in _lost(outcomes):  # one of them has ended their process; the others end as if nothing had been
            bar.advance(-1)
            again = collected(roll([episode], 1))
            outcomes[episode] = _lost_again(again[episode])
    return [outcomes[episode] for episode in seeds]


@contextmanager
def rolling(
    policy: Policy | Engine,
    task: Task,
    *,
    most: int,
    execution: Callable[[], Execution],
    delay: int = 0,
    seed: int = 0,
    workers: int = 0,
    filmed: Filmed | None = None,
    embed: Embed | None = None,
    monitor: Monitoring | None = None,
) -> Generator[Roll]:
    """What rolls episodes out here, at most `most` at once; see `rollout` for the other arguments and the errors."""
    engine = without_absent(as_engine(policy), {stream.name for stream in task.specification.observations})
    arena = partial(
        Arena,
        task.make,
        task.specification,
        execution,
        view=view_of(task, engine.specification, embed=embed),
        delay=delay,
        filmed=filmed,
        phase=task.phase,
        max_steps=task.max_steps,
    )
    if workers:
        remedy = "or step the environments in this process with workers=0"
        check_picklable(arena, f"task {task.name!r}, which worker processes get", remedy)
    with closing(_stage(task, arena, workers=workers, num_worlds=most)) as stage:
        yield partial(_episodes, engine, stage.advance, seed=seed, monitor=monitor)


def _collected(
    outcomes: Iterator[Outcome], *, bar: Progress, note: Callable[[Outcome], None] | None, is_rated: bool
) -> dict[int, Outcome]:
    """The outcomes by their seeds, each noted as its episode ends. is_rated: whether the bar shows the success rate."""
    collected, successes = dict[int, Outcome](), 0
    for outcome in outcomes:
        collected[outcome.seed] = outcome
        successes += outcome.success
        if note and (outcome.fault is None or outcome.fault.step is not None):  # else it may be run again
            note(outcome)
        bar.advance(text=_rate(successes, len(collected)) if is_rated else None)
    return collected


def _stage(task: Task, arena: Callable[[], Arena], *, workers: int, num_worlds: int) -> Workers | WorldsArena | Arena:
    """What steps the environments."""
    if workers:
        return Workers(arena, workers)
    return arena() if task.make_batch is None or not num_worlds else WorldsArena(task.make_batch, num_worlds, arena())


def _episodes(
    engine: Engine,
    advance: Advance,
    seeds: Sequence[int],
    num_parallel: int,
    *,
    seed: int,
    monitor: Monitoring | None,
) -> Iterator[Outcome]:
    """See `Roll`."""
    waiting = list(reversed(seeds))
    generators: dict[int, torch.Generator] = {}  # of the episodes that run: a million of them would take gigabytes
    chunks: dict[int, np.ndarray | None] = {}
    watched: dict[int, dict[str, list[float]]] = {}
    while chunks or waiting:
        num_new = num_parallel - len(chunks)
        started = [waiting.pop() for _ in range(min(num_new, len(waiting)))]
        chunks |= dict.fromkeys(started)
        generators |= {episode: noise_generator(seed, episode) for episode in started}
        watched |= {episode: {} for episode in started}
        answers = advance(chunks)
        requests = {episode: answer for episode, answer in answers.items() if not isinstance(answer, Outcome)}
        for episode, answer in answers.items():
            if isinstance(answer, Outcome):
                yield replace(answer, monitors=watched[episode])
        generators = {episode: generators[episode] for episode in requests}
        watched = {episode: watched[episode] for episode in requests}
        drawn = list(generators.values())
        predicted = dict(zip(requests, predict(engine, list(requests.values()), drawn, monitor=monitor), strict=True))
        chunks = {episode: one.chunk for episode, one in predicted.items()}
        for episode, one in predicted.items():
            for name, value in one.monitors.items():
                watched[episode].setdefault(name, []).append(value)


def _rate(successes: int, count: int) -> str:
    """The success rate so far, with its 95 % interval."""
    low, high = wilson(successes, count)
    return f"success {100 * successes / count:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _lost(outcomes: Mapping[int, Outcome]) -> list[int]:
    """The seeds of the episodes that were lost with their process, or with all worlds."""
    return [seed for seed, outcome in outcomes.items() if outcome.fault and outcome.fault.step is None]


def _lost_again(outcome: Outcome) -> Outcome:
    """The outcome of an episode that was run again, alone in its process."""
    fault = outcome.fault
    if fault is None or fault.step is not None:
        return outcome
    return replace(outcome, fault=replace(fault, message=f"{fault.message}, and again when the episode ran alone"))


class Predicted(NamedTuple):
    """A predicted chunk."""

    chunk: np.ndarray
    """(Tp, Da)."""
    monitors: Mapping[str, float]
    """Monitor -> its number; empty unless the chunk was monitored."""


def predict(
    engine: Engine,
    requests: Sequence[Request],
    generators: Sequence[torch.Generator],
    *,
    monitor: Monitoring | None = None,
) -> list[Predicted]:
    """A chunk for each request, with noise from its own generator. Requests of one kind form a batch."""
    is_on_gpu = getattr(engine, "device", torch.device("cpu")).type != "cpu"
    noise = [torch.randn(engine.noise_shape, generator=generator).numpy() for generator in generators]

    def chunks_of(rows: Sequence[int]) -> np.ndarray:
        observation, guidance = batch([requests[row] for row in rows])
        return engine.predict(observation, np.stack([noise[row] for row in rows], axis=1), guidance)

    multiple = GPU_ROWS if is_on_gpu else ROWS
    if engine.name == "eager" and not is_on_gpu:
        groups = groups_of(engine)
        batches = [rows for kind in _kinds(requests) for rows in groups.divided(kind)]
        predicted = _in_threads(lambda rows: groups.predicted(rows, chunks_of, kind=requests[rows[0]].kind), batches)
    else:
        batches = [rows for kind in _kinds(requests) for rows in pieces(kind, multiple if is_on_gpu else len(kind))]
        predicted = [chunks_of(padded(rows, multiple)) for rows in batches]
    answers: dict[int, Predicted] = {}
    for rows, chunks in zip(batches, predicted, strict=True):
        chunk_of, numbers = dict(zip(rows, chunks, strict=False)), dict[str, np.ndarray]()  # drops the padding
        for piece in pieces(rows, multiple):
            if monitor is not None:
                some = padded(piece, multiple)
                numbers = dict(monitor([requests[row] for row in some], np.stack([chunk_of[row] for row in some])))
            for place, row in enumerate(piece):
                of_row = {name: float(values[place]) for name, values in numbers.items()}
                answers[row] = Predicted(chunk_of[row], of_row)
    return [answers[row] for row in range(len(requests))]


def _in_threads(work: Callable[[Sequence[int]], np.ndarray], items: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The results of a work for some items, each computed on one of as many threads as torch has."""
    count = torch.get_num_threads()
    futures = [_threads(count).submit(copy_context().run, work, item) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        torch.set_num_threads(count)  # of threads that begin later, which those of the pool have changed


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that share no work of torch with others. They stay, because its libraries keep memory for each."""
    return ThreadPoolExecutor(count, "predict", torch.set_num_threads, (1,))


def sample_chunks(engine: Engine, history: History, *, count: int, seed: int) -> np.ndarray:
    """(N, Tp, Da): chunks from the same observations, each from noise of its own; one if the engine has no noise."""
    count = count if engine.noise_shape[0] else 1
    generator = torch.Generator().manual_seed(seed)
    return np.stack([one.chunk for one in predict(engine, [Request(history)] * count, [generator] * count)])


def _kinds(requests: Sequence[Request]) -> list[list[int]]:
    """The indices of the requests of each kind."""
    kinds: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        kinds.setdefault(request.kind, []).append(index)
    return list(kinds.values())


def latency(engine: Engine, *, repeats: int = 50) -> dict[str, float]:
    """Milliseconds of one prediction for one robot: median, 95th and 99th percentile."""
    specification, steps = engine.specification, engine.horizons.observation
    observation = {
        stream.name: np.zeros((1, steps, *stream.shape), dtype=stream.dtype) for stream in specification.observations
    }
    draws, *shape = engine.noise_shape
    noise = np.zeros((draws, 1, *shape), dtype=np.float32)
    times = []
    for _ in range(repeats + 3):  # the first three warm up
        start = time.perf_counter()
        engine.predict(observation, noise)
        times.append(1e3 * (time.perf_counter() - start))
    p50, p95, p99 = np.percentile(times[3:], [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
