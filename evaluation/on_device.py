"""Episodes whose physics, observations, policy and success stay on one device until they have ended.

All worlds go on until the last step of the longest episode; whatever a world does after the end of its episode counts
for nothing. On a GPU nobody asks whether all have ended, because the answer would have to be waited for.

Shapes: N worlds; To, Tp observation and prediction horizon; Da size of the action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..envs.faults import Progress
from ..envs.task import Task
from ..execution.interface import Execution
from ..execution.receding import RecedingHorizon
from ..policy.engines.eager import EagerEngine
from ..policy.engines.interface import Engine
from .episode import Outcome, Running
from .rollout import noise_generator
from .view import Embed, view_of
from .warp_table import Reading, WarpTable, check_offered


class OnDevice:
    """A `rollout.Roll` on the device of the engine.

    execution: makes the `Execution` of an episode. seed: seed of the policy's noise. embed: see `view_of`.

    Raises ValueError unless PyTorch runs the policy and its execution is `RecedingHorizon`, and what `check_offered`
    raises.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        *,
        execution: Callable[[], Execution],
        seed: int = 0,
        embed: Embed | None = None,
    ) -> None:
        if not isinstance(engine, EagerEngine):
            raise ValueError(f"simulation=warp needs engine=eager, whose policy takes tensors, got {engine.name}")
        if not isinstance(receding := execution(), RecedingHorizon):
            raise ValueError(f"simulation=warp needs execution=receding, got {type(receding).__name__}")
        self._view = view_of(task, engine.specification, embed=embed)
        check_offered(task, engine.device)
        self._engine, self._task, self._execution, self._seed = engine, task, execution, seed
        self._every = receding.every

    def __call__(self, seeds: Sequence[int], most: int) -> Iterator[Outcome]:
        """The outcome of each episode, once the `most` episodes at once that it belongs to have ended."""
        count = min(most, len(seeds))
        worlds = WarpTable(self._task, count, self._engine.device)
        for first in range(0, len(seeds), count):
            yield from self._rolled(worlds, seeds[first : first + count], count)

    def _rolled(self, worlds: WarpTable, seeds: Sequence[int], count: int) -> list[Outcome]:
        """The outcomes of at most as many episodes as there are worlds; others repeat the last one, for nothing."""
        episodes, observations = list[Running](), list[Mapping[str, Any]]()

        def reset(env: Any, index: int) -> None:
            seed = seeds[min(index, len(seeds) - 1)]
            observation, info = env.reset(seed=seed)
            episode = self._running(seed)
            episode.begin(observation, info)
            episodes.append(episode)
            observations.append(self._view(observation, episode.whole))

        worlds.begin(reset)
        history = {name: self._repeated([one[name] for one in observations]) for name in observations[0]}
        tally = self._acted(
            worlds, history, [noise_generator(self._seed, episode.progress.seed) for episode in episodes]
        )
        return [self._outcome(episodes[index], worlds, tally, index) for index in range(len(seeds))]

    @torch.no_grad()
    def _acted(self, worlds: WarpTable, history: dict[str, Tensor], generators: Sequence[torch.Generator]) -> Tally:
        """Let the policy act until all episodes have ended."""
        engine, first, now = self._engine, self._engine.horizons.observation - 1, 0
        tally = Tally(len(generators), engine.device)
        while now < self._task.max_steps:
            drawn = [torch.randn(engine.noise_shape, generator=generator) for generator in generators]
            chunk = engine.policy.predict(history, torch.stack(drawn, dim=1).to(engine.device))
            for action in chunk[:, first : first + self._every].unbind(1)[: self._task.max_steps - now]:
                reading, now = worlds.advance(action), now + 1
                tally.note(reading)
                for name, rows in history.items():
                    newest = reading.state.get(name, rows[:, -1])  # a sentence stays
                    history[name] = torch.cat([rows[:, 1:], newest[:, None]], dim=1)
            if engine.device.type == "cpu" and bool(tally.is_over.all()):
                break
        return tally.ended()

    def _running(self, seed: int) -> Running:
        progress, specification = Progress("reset()", seed), self._task.specification
        return Running(progress, self._execution(), specification, 0, self._view, name_phase=self._task.phase)

    def _repeated(self, rows: Sequence[Any]) -> Tensor:
        """First observations (N, ...) as a history (N, To, ...), as an `Execution` begins."""
        uploaded = torch.as_tensor(np.stack(rows), device=self._engine.device)
        return torch.stack([uploaded] * self._engine.horizons.observation, dim=1)

    def _outcome(self, episode: Running, worlds: WarpTable, tally: Tally, index: int) -> Outcome:
        num_steps, last, progress = int(tally.num_steps[index]), tally.last, episode.progress
        progress.num_steps, progress.during = num_steps, "step()"
        if fault := int(last.fault[index]):
            return episode.broken(worlds.failure(fault, num_steps))
        if last.success[index] and not episode.success:
            episode.success, episode.success_step = True, num_steps
        episode.score, episode.final_score = max(episode.score, float(tally.best[index])), float(last.score[index])
        episode.requested = list(range(0, num_steps, self._every))
        return episode.outcome({name: rows[index].numpy() for name, rows in last.state.items()})


class Tally:
    """How the episodes of N worlds went; each ends with its first success or failure, as far as it goes."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.is_over = torch.zeros(count, dtype=torch.bool, device=device)
        self.num_steps = torch.zeros(count, dtype=torch.int64, device=device)
        self.best = torch.zeros(count, dtype=torch.float64, device=device)
        self.last = Reading({}, self.is_over, self.best, self.num_steps)

    def note(self, reading: Reading) -> None:
        """Note a step of all worlds."""
        going = ~self.is_over
        self.num_steps = self.num_steps + going
        self.best = torch.where(going, torch.maximum(self.best, reading.score), self.best)
        self.last = _mapped(partial(_chosen, going), reading, self.last) if self.last.state else reading
        self.is_over = self.is_over | reading.success | (reading.fault != 0)

    def ended(self) -> Tally:
        """The same on the CPU, once all have ended."""
        ended = Tally(0, torch.device("cpu"))
        ended.num_steps, ended.best, ended.last = self.num_steps.cpu(), self.best.cpu(), _mapped(Tensor.cpu, self.last)
        return ended


def _mapped(function: Callable[..., Tensor], *readings: Reading) -> Reading:
    """A function of each tensor of readings."""
    state = {name: function(*(reading.state[name] for reading in readings)) for name in readings[0].state}
    return Reading(state, *(function(*parts) for parts in zip(*(reading[1:] for reading in readings), strict=True)))


def _chosen(is_new: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new rows where they count, else the old ones."""
    return torch.where(is_new.reshape(-1, *[1] * (new.ndim - 1)), new, old)
