"""Episodes in simulation, advanced from one due prediction to the next. No torch: worker processes start fast.

An episode never sees another one: what happens in it depends on its seed and on the chunks that it is given.
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

Chunks: TypeAlias = Mapping[int, "NDArray[np.float32] | None"]
"""A seed -> the chunk that its episode is waiting for, or None for an episode that has yet to begin."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One prediction: the control step it was made at, the observations (To, ...) it saw, and the chunk (Tp, Da)."""

    step: int
    history: History
    chunk: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one episode ended.

    score: the best of any step, in [0, 1]. num_steps: control steps taken. For a filmed episode only, frames: an
    (H, W, 3) uint8 image of every step, the first after reset and the last after the last step, and plans: what was
    predicted on the way.
    """

    seed: int
    success: bool
    score: float
    num_steps: int
    frames: tuple[NDArray[np.uint8], ...] = ()
    plans: tuple[Plan, ...] = ()


@dataclass(slots=True)
class _Running:
    """An episode under way."""

    env: Any
    execution: Execution
    delay: int
    is_filmed: bool
    success: bool = False
    score: float = 0.0
    num_steps: int = 0
    is_over: bool = False
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    asked: Request | None = None
    asked_at: int = 0
    coming: NDArray[np.float32] | None = None

    def begin(self, seed: int) -> None:
        observation, info = self.env.reset(seed=seed)
        self.execution.reset()
        self._take(observation, info)

    def advance(self, chunk: NDArray[np.float32] | None) -> Request | None:
        """Go on until the next chunk is due, `chunk` coming late by the delay; None once the episode is over."""
        self.coming = chunk
        while not self.is_over:
            # The first chunk is waited for: before it the robot does nothing.
            if self.coming is not None and (self.num_steps - self.asked_at >= self.delay or self.asked_at == 0):
                self._accept(self.coming)
                self.coming = None
            request = self.execution.request()
            if request is not None:
                self.asked, self.asked_at = request, self.num_steps
                return request
            observation, _, terminated, truncated, info = self.env.step(self.execution.act())
            self.num_steps += 1
            self.is_over = terminated or truncated
            self._take(observation, info)
        return None

    def _accept(self, chunk: NDArray[np.float32]) -> None:
        self.execution.accept(chunk)
        if self.is_filmed and self.asked is not None:
            self.plans.append(Plan(self.asked_at, self.asked.history, chunk))

    def _take(self, observation: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        self.execution.observe(observation)
        self.success = self.success or bool(info["success"])
        self.score = max(self.score, _score(info))
        if self.is_filmed:
            self.frames.append(self.env.render())


class Arena:
    """The episodes of one process. Environments are kept and used again.

    make: of the task, builds the environments. execution: makes the `Execution` of an episode. delay: control steps
    from the request of a chunk to its arrival. filmed: the seeds of the episodes whose frames are kept.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        execution: Callable[[], Execution],
        *,
        delay: int = 0,
        filmed: frozenset[int] = frozenset(),
    ) -> None:
        self.make, self.execution, self.delay, self.filmed = make, execution, delay, filmed
        self._running: dict[int, _Running] = {}
        self._idle: dict[bool, list[Any]] = {False: [], True: []}

    def advance(self, chunks: Chunks) -> dict[int, Request | Outcome]:
        """Begin or go on with the episodes of `chunks`; each answers with what to predict from, or with its outcome."""
        return {seed: self._advance(seed, chunk) for seed, chunk in chunks.items()}

    def _advance(self, seed: int, chunk: NDArray[np.float32] | None) -> Request | Outcome:
        if seed not in self._running:
            is_filmed = seed in self.filmed
            idle = self._idle[is_filmed]
            env = idle.pop() if idle else self.make(render_mode="rgb_array" if is_filmed else None)
            self._running[seed] = _Running(env, self.execution(), self.delay, is_filmed)
            self._running[seed].begin(seed)
        episode = self._running[seed]
        request = episode.advance(chunk)
        if request is not None:
            return request
        self._idle[episode.is_filmed].append(self._running.pop(seed).env)
        return Outcome(
            seed, episode.success, episode.score, episode.num_steps, tuple(episode.frames), tuple(episode.plans)
        )

    def close(self) -> None:
        """Close every environment."""
        for env in [*(episode.env for episode in self._running.values()), *self._idle[False], *self._idle[True]]:
            env.close()
        self._running.clear()
        self._idle = {False: [], True: []}


def _score(info: Mapping[str, Any]) -> float:
    score = float(info["score"])
    if not 0 <= score <= 1:
        raise ValueError(f"info['score'] must be a number in [0, 1], the environment gave {score}: scale it there")
    return score


def check_fits(task: Task, specification: Any) -> None:
    """Raises ValueError, naming every difference, unless a policy of `specification` fits the task."""
    differences = task.specification.differences(specification)
    if differences:
        raise ValueError(
            f"the policy's specification must be that of task {task.name!r}, but differs: {'; '.join(differences)}. "
            f"Evaluate it on the task that it was trained for, or train it again"
        )
