"""Episodes in simulation, advanced from one prediction to the next. Loads no torch, so worker processes start fast.

An episode depends on its seed and on its chunks, never on another episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..envs.faults import Fault, Progress, RunningEnv, one_line
from ..envs.task import Observation, state_of
from ..execution.interface import Execution
from ..policy.requests import History, Request
from ..specification import Specification
from .view import View

Chunks: TypeAlias = Mapping[int, "NDArray[np.float32] | None"]
"""An episode's seed -> the chunk that it waits for, or None to begin the episode."""

Filmed: TypeAlias = Mapping[int, "frozenset[int] | None"]
"""The seed of an episode to film -> the control steps whose frames are kept, 0 for the reset; None keeps all."""


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

    frames: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    """(H, W, 3) images of a filmed episode by their control steps, in order; 0 is the reset."""

    chunks: tuple[FilmedChunk, ...] = ()
    """The predictions of a filmed episode."""

    fault: Fault | None = None
    """Why the episode broke off; it counts as failed, with a score of 0. None if it ran to its end."""

    final_score: float = 0.0
    """The score of the last step."""

    success_step: int | None = None
    """The control steps until the first success; None if there was none."""

    start: Mapping[str, float] = field(default_factory=dict)
    """The numbers of the state at the reset by their labels, as "cube x, m"; images are left out."""

    unfilmed: Fault | None = None
    """Why the episode has no frames although it was to be filmed."""

    phase: str | None = None
    """The phase in which a failed episode ended; None if it succeeded or broke off, or if its task names no phases."""

    requested: Sequence[int] = field(default_factory=list[int])
    """The control steps at which chunks were requested."""

    monitors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Monitor -> its number for each chunk; empty unless the chunks were monitored."""


@dataclass(slots=True)
class Running:
    """A running episode.

    camera: the environment that films it, if it is to be filmed. moments: the steps whose frames are kept; None is all.
    name_phase: `Task.phase`.
    """

    progress: Progress
    execution: Execution
    specification: Specification
    delay: int
    view: View
    camera: RunningEnv | None = None
    moments: frozenset[int] | None = None
    name_phase: Callable[[Observation], str] | None = None
    success: bool = False
    score: float = 0.0
    final_score: float = 0.0
    success_step: int | None = None
    start: Mapping[str, float] = field(default_factory=dict)
    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    chunks: list[FilmedChunk] = field(default_factory=list)
    requested: list[int] = field(default_factory=list)
    request: Request | None = None
    whole: Observation = field(default_factory=dict)
    pending: NDArray[np.float32] | None = None
    unfilmed: Fault | None = None

    def plan(self) -> Request | None:
        """The next request; None if the episode acts before. `pending` arrives after the delay."""
        num_steps = self.progress.num_steps
        # The robot waits for the first chunk.
        if self.pending is not None and (num_steps - self.requested[-1] >= self.delay or not self.requested[-1]):
            self.execution.accept(self.pending)
            if self.camera is not None and self.request is not None:
                self.chunks.append(FilmedChunk(self.requested[-1], self.request.history, self.pending))
            self.pending = None
        request = self.execution.request()
        if request is not None:
            self.request = request
            self.requested.append(num_steps)
        return request

    def act(self) -> NDArray[Any]:
        """The action (Da,) of the current step."""
        return self.specification.action.cast(self.execution.act())

    def begin(self, observation: Observation, info: Mapping[str, Any]) -> None:
        """Take what the reset has returned."""
        self.start = _numbers(self.specification, {**info.get("state", {}), **observation})
        self.whole = self.view.begin(info)
        self.execution.reset()
        self.observe(observation, info)

    def observe(self, observation: Observation, info: Mapping[str, Any]) -> None:
        """Take what a step has returned."""
        self.execution.observe(self.view(observation, self.whole))
        if info["success"] and not self.success:
            self.success, self.success_step = True, self.progress.num_steps
        self.final_score = float(info["score"])
        self.score = max(self.score, self.final_score)
        step = self.progress.num_steps
        if self.camera is not None and self.unfilmed is None and (self.moments is None or step in self.moments):
            try:
                self.frames[step] = self.camera.picture()
            except Exception as error:  # a film is no part of the result
                self.unfilmed = self.camera.fault(error)
                self.frames.clear()

    def outcome(self, state: Observation) -> Outcome:
        """How the episode ended. state: its last one; see `state_of`."""
        return Outcome(
            self.progress.seed,
            self.success,
            self.score,
            self.progress.num_steps,
            self.frames,
            tuple(self.chunks) if self.frames else (),
            unfilmed=self.unfilmed,
            final_score=self.final_score,
            success_step=self.success_step,
            start=self.start,
            phase=None if self.success else self._phase(state),
            requested=list(self.requested),
        )

    def _phase(self, state: Observation) -> str | None:
        if self.name_phase is None:
            return None
        try:
            return one_line(self.name_phase(state))
        except Exception as error:  # a phase is no part of the result
            return one_line(f"unknown, {type(error).__name__}: {error}")

    def broken(self, error: Exception) -> Outcome:
        """How the episode broke off."""
        return Outcome(self.progress.seed, False, 0.0, self.progress.num_steps, fault=self.progress.fault(error))


def _numbers(specification: Specification, state: Observation) -> dict[str, float]:
    """The numbers of vectors by their labels; those that the policy does not observe have no names of their own."""
    streams, numbers = {stream.name: stream for stream in specification.observations}, dict[str, float]()
    for name, values in state.items():
        vector = np.asarray(values)
        for index in range(vector.size if vector.ndim == 1 else 0):
            stream = streams.get(name)
            unit = stream.units[index] if stream is not None and stream.units else "1"
            part = stream.labels[index] if stream is not None and stream.labels else index
            numbers[f"{name} {part}" + ("" if unit == "1" else f", {unit}")] = float(vector[index])
    return numbers


class Arena:
    """The episodes of one process, each in an environment of its own from a pool.

    An episode that breaks off leaves a fault, and the others go on in environments of their own.

    make: builds an environment of the task. specification: that of the task. execution: makes the `Execution` of an
    episode. view: what the policy observes. delay: control steps from the request of a chunk to its arrival. filmed:
    which episodes to film. phase: `Task.phase`. max_steps: the steps of the longest episode; one that goes on breaks
    off. None lets it go on.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        specification: Specification,
        execution: Callable[[], Execution],
        *,
        view: View,
        delay: int = 0,
        filmed: Filmed | None = None,
        phase: Callable[[Observation], str] | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.make, self.specification, self.execution, self.view = make, specification, execution, view
        self.delay, self.filmed, self.phase, self.max_steps = delay, filmed or {}, phase, max_steps
        self._running: dict[int, tuple[Running, RunningEnv]] = {}
        self._idle: dict[bool, list[RunningEnv]] = {False: [], True: []}

    def advance(self, chunks: Chunks) -> dict[int, Request | Outcome]:
        """Begin or continue the episodes of `chunks`; returns the next request or the outcome of each, by seed."""
        return {seed: self._advance(seed, chunk) for seed, chunk in chunks.items()}

    def _advance(self, seed: int, chunk: NDArray[np.float32] | None) -> Request | Outcome:
        is_new = seed not in self._running
        episode, env = self._begin(seed) if is_new else self._running[seed]
        try:
            if is_new:
                observation, info = env.reset(seed)
                episode.begin(observation, info)
            episode.pending = chunk
            while True:
                if (request := episode.plan()) is not None:
                    return request
                observation, terminated, truncated, info = env.step(episode.act())
                episode.observe(observation, info)
                if terminated or truncated:
                    break
        except Exception as error:  # whatever it is, it is no reason to lose the other episodes
            del self._running[seed]
            env.close()  # its state is unknown
            return episode.broken(error)
        del self._running[seed]
        self._idle[episode.camera is not None].append(env)
        return episode.outcome(state_of(observation, info))

    def _begin(self, seed: int) -> tuple[Running, RunningEnv]:
        is_filmed = seed in self.filmed
        make = partial(self.make, render_mode="rgb_array") if is_filmed else self.make
        idle = self._idle[is_filmed]
        env = idle.pop() if idle else RunningEnv(make, self.specification, max_steps=self.max_steps)
        camera, moments = (env, self.filmed[seed]) if is_filmed else (None, None)
        episode = Running(
            env,
            self.execution(),
            self.specification,
            self.delay,
            self.view,
            camera=camera,
            moments=moments,
            name_phase=self.phase,
        )
        self._running[seed] = episode, env
        return self._running[seed]

    def close(self) -> None:
        """Close every environment."""
        for env in [*(env for _, env in self._running.values()), *self._idle[False], *self._idle[True]]:
            env.close()
        self._running.clear()
        self._idle = {False: [], True: []}
