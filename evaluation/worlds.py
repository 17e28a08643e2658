"""Episodes in the worlds of a task, which take their steps at once. Loads no torch.

Shapes: n episodes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.faults import Progress, exits_are_errors
from ..envs.promises import PromiseError, check_end, check_observation, outcome
from ..envs.task import state_of
from ..envs.vector import Worlds
from ..policy.requests import Request
from ..specification import Specification
from .episode import Arena, Chunks, Outcome, Running


class WorldsArena:
    """The episodes of one process, each in one of many worlds; those to be filmed are in environments of their own.

    An episode whose world fails leaves a fault, and the others go on. If a step of all worlds raises an error, nobody
    knows whose it is. All episodes then leave a fault without a step, and `rollout` runs each of them again.

    make: makes so many worlds. count: the number of episodes that run at once. alone: for the episodes to be filmed.
    """

    def __init__(self, make: Callable[[int], Worlds], count: int, alone: Arena) -> None:
        self._make, self._count, self._alone = make, count, alone
        self._worlds: Worlds | None = None
        self._during = ""
        self._idle: list[int] = []
        self._running: dict[int, tuple[int, Running]] = {}  # seed -> index of the world, episode

    def advance(self, chunks: Chunks) -> dict[int, Request | Outcome]:
        """See `Arena.advance`."""
        filmed = {seed: chunk for seed, chunk in chunks.items() if seed in self._alone.filmed}
        together = {seed: chunk for seed, chunk in chunks.items() if seed not in filmed}
        answers = self._alone.advance(filmed)
        try:
            self._begin([seed for seed in together if seed not in self._running], answers)
            for seed in together.keys() & self._running.keys():
                self._running[seed][1].pending = together[seed]
            while self._step([seed for seed in together if seed not in answers], answers):
                pass
        except Exception as error:
            answers |= self._lost(together, error)
        return {seed: answers[seed] for seed in chunks}

    def close(self) -> None:
        """Close every environment."""
        self._alone.close()
        self._running, worlds, self._worlds = {}, self._worlds, None
        if worlds is not None:
            worlds.close()

    def _begin(self, seeds: Sequence[int], answers: dict[int, Request | Outcome]) -> None:
        """Begin episodes in idle worlds."""
        alone = self._alone
        with exits_are_errors():
            if self._worlds is None and seeds:
                self._during, self._idle = "make_batch()", list(range(self._count))
                self._worlds = self._make(self._count)
            for seed in seeds:
                progress = Progress("reset()", seed)
                episode = Running(
                    progress, alone.execution(), alone.specification, alone.delay, alone.view, name_phase=alone.phase
                )
                self._running[seed] = self._idle.pop(), episode
            if seeds:
                assert self._worlds is not None
                seeds = self._sorted(seeds)
                self._during = "reset()"
                observation, info = self._worlds.begin(self._ids(seeds), seeds)
                self._take(seeds, Running.begin, observation, info, answers, dict.fromkeys(seeds, True))

    def _step(self, seeds: Sequence[int], answers: dict[int, Request | Outcome]) -> bool:
        """Take a step in every episode that has no request; returns whether there was one."""
        actions: dict[int, NDArray[Any]] = {}
        looks = dict[int, bool]()
        for seed in self._sorted(seeds):
            _, episode = self._running[seed]
            try:
                if (request := episode.plan()) is not None:
                    answers[seed] = request
                    continue
                action = episode.act()
                episode.progress.during = "step()"
                episode.progress.num_steps += 1
                if not np.isfinite(action).all():
                    raise PromiseError(f"an action must be finite numbers, got {action}", stream="action")
                actions[seed], looks[seed] = action, episode.execution.looks_next
            except Exception as error:  # whatever it is, it is no reason to lose the other episodes
                self._end(seed, episode.broken(error), answers)
        if not actions:
            return False
        assert self._worlds is not None
        self._during, ids = "step()", self._ids(actions)
        self._worlds.is_looked_at[ids] = list(looks.values())
        with exits_are_errors():
            observation, _, terminated, truncated, info = self._worlds.advance(ids, np.stack(list(actions.values())))
        self._take(list(actions), Running.observe, observation, info, answers, looks)
        for row, seed in enumerate(actions):
            if seed not in self._running:
                continue
            _, episode = self._running[seed]
            is_over = bool(terminated[row] or truncated[row])
            try:
                check_end(episode.progress.num_steps, self._alone.max_steps, is_over=is_over)
                ended = episode.outcome(_row(state_of(observation, info), row)) if is_over else None
            except PromiseError as error:
                ended = episode.broken(error)
            if ended is not None:
                self._end(seed, ended, answers)
        return True

    def _take(
        self,
        seeds: Sequence[int],
        take: Callable[[Running, Mapping[str, Any], Mapping[str, Any]], None],
        observation: Mapping[str, NDArray[Any]],
        info: Mapping[str, Any],
        answers: dict[int, Request | Outcome],
        looks: Mapping[int, bool],
    ) -> None:
        """Pass the rows of a call to their episodes. looks: whether an episode looks at the images."""
        specification = self._alone.specification
        are_whole = _are_whole(specification, observation, info, len(seeds))
        vectors = [stream.name for stream in specification.observations if not stream.is_image]
        for row, seed in enumerate(seeds):
            _, episode = self._running[seed]
            during = episode.progress.during
            try:
                if info["error"][row] is not None:
                    raise info["error"][row]
                values = {stream.name: observation[stream.name][row] for stream in specification.observations}
                results = {name: info[name][row] for name in ("success", "score")}
                if not are_whole:
                    check_observation(specification, values, during)
                    outcome(results, during)
                if take is Running.begin:
                    if "sentence" in info:
                        results["sentence"] = info["sentence"][row]
                    results["state"] = {name: rows[row] for name, rows in info.get("state", {}).items()}
                take(episode, values if looks[seed] else {name: values[name] for name in vectors}, results)
            except Exception as error:
                self._end(seed, episode.broken(error), answers)

    def _end(self, seed: int, outcome: Outcome, answers: dict[int, Request | Outcome]) -> None:
        self._idle.append(self._running.pop(seed)[0])
        answers[seed] = outcome

    def _lost(self, seeds: Iterable[int], error: Exception) -> dict[int, Request | Outcome]:
        """The outcomes of episodes that one error has ended. The worlds are given up; their state is unknown."""
        lost = {seed: Progress(self._during, seed) for seed in seeds}
        for seed, (_, episode) in self._running.items():
            lost[seed].num_steps = episode.progress.num_steps
        faults = {seed: progress.fault(error) for seed, progress in lost.items()}
        if len(lost) > 1:
            faults = {seed: replace(fault, step=None) for seed, fault in faults.items()}
        self._running, worlds, self._worlds = {}, self._worlds, None
        if worlds is not None:
            with contextlib.suppress(Exception):
                worlds.close()
        return {seed: Outcome(seed, False, 0.0, lost[seed].num_steps, fault=fault) for seed, fault in faults.items()}

    def _sorted(self, seeds: Sequence[int]) -> list[int]:
        """Seeds in the order of their worlds."""
        return sorted(seeds, key=lambda seed: self._running[seed][0])

    def _ids(self, seeds: Iterable[int]) -> NDArray[np.intp]:
        return np.array([self._running[seed][0] for seed in seeds], np.intp)


def _row(state: Mapping[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    return {name: rows[row] for name, rows in state.items()}


def _are_whole(
    specification: Specification, observation: Mapping[str, NDArray[Any]], info: Mapping[str, Any], count: int
) -> bool:
    """Whether all rows of a call are as promised; if not, each is checked alone."""
    score, success = info["score"], info["success"]
    return all(
        observation[stream.name].shape == (count, *stream.shape)
        and observation[stream.name].dtype == stream.dtype
        and (stream.is_image or np.isfinite(observation[stream.name]).all())
        for stream in specification.observations
    ) and bool(((score >= 0) & (score <= 1)).all() and success.dtype == bool)
