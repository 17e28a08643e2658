"""Episodes in simulation, advanced from one prediction to the next. Loads no torch, so worker processes start fast.

An episode depends on its seed and on its chunks, never on another episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..envs.task import Task
from ..execution.interface import Execution
from ..policy.requests import History, Request
from ..realtime import end_with_parent
from ..specification import Specification, Stream

Chunks: TypeAlias = Mapping[int, "NDArray[np.float32] | None"]
"""An episode's seed -> the chunk that it waits for, or None to begin the episode."""


@dataclass(frozen=True, slots=True)
class FilmedChunk:
    """One prediction in a filmed episode."""

    step: int
    """The control step at which the chunk was requested."""

    history: History
    """The observations that it was predicted from, (To, ...) each."""

    actions: NDArray[np.float32]
    """The chunk, (Tp, Da)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one episode ended."""

    seed: int
    """The seed of the environment's reset."""

    success: bool
    """Whether any step was a success."""

    score: float
    """The best score of any step, in [0, 1]."""

    num_steps: int
    """The number of control steps."""

    frames: tuple[NDArray[np.uint8], ...] = ()
    """(H, W, 3) images of a filmed episode: one after the reset and one after each step."""

    chunks: tuple[FilmedChunk, ...] = ()
    """The predictions of a filmed episode."""


@dataclass(slots=True)
class _Running:
    """A running episode."""

    env: Any
    execution: Execution
    action: Stream
    delay: int
    is_filmed: bool
    success: bool = False
    score: float = 0.0
    num_steps: int = 0
    is_over: bool = False
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    chunks: list[FilmedChunk] = field(default_factory=list)
    request: Request | None = None
    requested_at: int = 0
    pending: NDArray[np.float32] | None = None

    def begin(self, seed: int) -> None:
        observation, info = self.env.reset(seed=seed)
        self.execution.reset()
        self._observe(observation, info)

    def advance(self, chunk: NDArray[np.float32] | None) -> Request | None:
        """Step until the next request; returns None once the episode is over. `chunk` arrives after the delay."""
        self.pending = chunk
        while not self.is_over:
            # The robot waits for the first chunk.
            if self.pending is not None and (
                self.num_steps - self.requested_at >= self.delay or self.requested_at == 0
            ):
                self._accept(self.pending)
                self.pending = None
            request = self.execution.request()
            if request is not None:
                self.request, self.requested_at = request, self.num_steps
                return request
            observation, _, terminated, truncated, info = self.env.step(self.action.cast(self.execution.act()))
            self.num_steps += 1
            self.is_over = terminated or truncated
            self._observe(observation, info)
        return None

    def _accept(self, chunk: NDArray[np.float32]) -> None:
        self.execution.accept(chunk)
        if self.is_filmed and self.request is not None:
            self.chunks.append(FilmedChunk(self.requested_at, self.request.history, chunk))

    def _observe(self, observation: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        self.execution.observe(observation)
        self.success = self.success or bool(info["success"])
        self.score = max(self.score, _score(info))
        if self.is_filmed:
            self.frames.append(self.env.render())


class Arena:
    """The episodes of one process, which share a pool of environments.

    make: builds an environment of the task. execution: makes the `Execution` of an episode. action: the stream of the
    task. delay: control steps from the request of a chunk to its arrival. filmed: the seeds of the episodes to film.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        execution: Callable[[], Execution],
        *,
        action: Stream,
        delay: int = 0,
        filmed: frozenset[int] = frozenset(),
    ) -> None:
        self.make, self.execution, self.action, self.delay, self.filmed = make, execution, action, delay, filmed
        self._running: dict[int, _Running] = {}
        self._idle: dict[bool, list[Any]] = {False: [], True: []}

    def advance(self, chunks: Chunks) -> dict[int, Request | Outcome]:
        """Begin or continue the episodes of `chunks`; returns the next request or the outcome of each, by seed."""
        return {seed: self._advance(seed, chunk) for seed, chunk in chunks.items()}

    def _advance(self, seed: int, chunk: NDArray[np.float32] | None) -> Request | Outcome:
        if seed not in self._running:
            is_filmed = seed in self.filmed
            idle = self._idle[is_filmed]
            env = idle.pop() if idle else self.make(render_mode="rgb_array" if is_filmed else None)
            self._running[seed] = _Running(env, self.execution(), self.action, self.delay, is_filmed)
            self._running[seed].begin(seed)
        episode = self._running[seed]
        request = episode.advance(chunk)
        if request is not None:
            return request
        self._idle[episode.is_filmed].append(self._running.pop(seed).env)
        return Outcome(
            seed, episode.success, episode.score, episode.num_steps, tuple(episode.frames), tuple(episode.chunks)
        )

    def close(self) -> None:
        """Close every environment."""
        for env in [*(episode.env for episode in self._running.values()), *self._idle[False], *self._idle[True]]:
            env.close()
        self._running.clear()
        self._idle = {False: [], True: []}


_arena: list[Arena] = []
"""The arena of a worker process."""


def open_arena(make: Callable[[], Arena]) -> None:
    """Make the arena of this worker process, which does not outlive the evaluation."""
    end_with_parent()
    _arena.append(make())


def advance_arena(chunks: Chunks) -> dict[int, Request | Outcome]:
    """Advance episodes in this worker process; see `Arena.advance`."""
    return _arena[0].advance(chunks)


def _score(info: Mapping[str, Any]) -> float:
    score = float(info["score"])
    if not 0 <= score <= 1:
        raise ValueError(f"info['score'] must be a number in [0, 1], the environment gave {score}: scale it there")
    return score


def check_fits(task: Task, specification: Specification) -> None:
    """Raises ValueError, naming every difference, if a policy of `specification` does not fit the task."""
    differences = task.specification.differences(specification)
    if differences:
        raise ValueError(
            f"the policy's specification must be that of task {task.name!r}, but differs: {'; '.join(differences)}: "
            "evaluate the policy on the task that it was trained for, or train it again"
        )
