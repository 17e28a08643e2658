"""Many worlds of one task in one process, each equal to the environment of the task to the last bit.

`Worlds` is a `gymnasium.vector.VectorEnv` that can also begin and advance some of its worlds alone. The tasks on a
table step theirs on all processors at once (`recede.envs.table_worlds.TableWorlds`); `LoopedWorlds` steps the
environments of any task one after the other. `Task.make_batch` makes the worlds of a task. If it
is a `BatchOf`, it also makes those of the randomised task.

Shapes: N worlds, n of them in a call; Da size of the action.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification
from .gymnasium_adapter import box
from .promises import check_observation, outcome, reset, unpacked

Rows: TypeAlias = dict[str, NDArray[Any]]
"""Stream name -> (n, ...), a row for each world of a call."""


class Worlds(VectorEnv[Any, Any, Any]):
    """Many worlds of one task.

    A world goes on after its end until it is reset (`AutoresetMode.DISABLED`). `reset(options={"reset_mask": mask})`
    resets the worlds of the mask (N,) alone. `info` holds a row for each world: those of the environment's info, as
    "success" (N,), "score" (N,) and "state" (stream name -> (N, ...)), and "error" (N,): None, or the exception that
    the environment would have raised. Such a world is truncated, without success and with a score of 0; it stays so
    until it is reset, and the others go on.

    `is_looked_at` (N,) may be set before a step: a world for which it is false may return older images.

    A subclass fills `begin` and `advance`. They never change an array that they have returned.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED}  # type: ignore[misc]

    def __init__(self, specification: Specification, count: int) -> None:
        if count < 1:
            raise ValueError(f"there must be at least 1 world, got {count}")
        self.specification, self.num_envs = specification, count
        self.is_looked_at = np.ones(count, bool)
        spaces = gymnasium.spaces.Dict({stream.name: box(stream) for stream in specification.observations})
        self.single_observation_space, self.single_action_space = spaces, box(specification.action)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._latest: dict[str, Any] = {}

    @abstractmethod
    def begin(self, ids: NDArray[np.intp], seeds: Sequence[int | None]) -> tuple[Rows, dict[str, Any]]:
        """Begin an episode in the worlds `ids` (n,), sorted and unique, each with its seed.

        Returns observations and infos with n rows. Without a seed a world goes on drawing from its own generator.
        """

    @abstractmethod
    def advance(
        self, ids: NDArray[np.intp], actions: NDArray[Any]
    ) -> tuple[Rows, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take a step in the worlds `ids` (n,), sorted and unique, each with its action (n, Da).

        Returns observations, rewards, whether each was terminated or truncated, and infos, all with n rows.
        """

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Rows, dict[str, Any]]:
        """Begin an episode in every world, or in those of `options["reset_mask"]` (N,).

        seed: that of the first world, and each next world has the next one; or one for each world.

        Returns the observations and infos of all worlds; those that are not reset keep their latest.

        Raises ValueError for a mask or seeds of another length, and for an unknown option.
        """
        options = options or {}
        if unknown := options.keys() - {"reset_mask"}:
            raise ValueError(f"the only option of reset is 'reset_mask', got {sorted(unknown)}")
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask must be {self.num_envs} booleans, at least one of them true, got {mask}")
        first: Any = [None] * self.num_envs if seed is None else seed
        seeds = [first + index for index in range(self.num_envs)] if isinstance(first, int) else list(first)
        if len(seeds) != self.num_envs:
            raise ValueError(f"there must be a seed for each of the {self.num_envs} worlds, got {len(seeds)}")
        ids = np.flatnonzero(mask)
        observation, info = self.begin(ids, [seeds[index] for index in ids])
        return self._noted("observation", observation, ids), self._noted("info", info, ids)

    def step(
        self, actions: ArrayLike
    ) -> tuple[Rows, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take a step in every world with `actions` (N, Da), also in those whose episodes are over.

        Raises ValueError for actions of another shape or with NaN or infinity, and gymnasium's ResetNeeded before the
        first reset of every world.
        """
        ids, actions = np.arange(self.num_envs), self.specification.action.cast(actions)
        if actions.shape != self.action_space.shape or not np.isfinite(actions).all():
            raise ValueError(f"actions must be {self.action_space.shape} finite numbers, got {actions}")
        observation, rewards, terminated, truncated, info = self.advance(ids, actions)
        whole = self._noted("observation", observation, ids), self._noted("info", info, ids)
        return whole[0], rewards, terminated, truncated, whole[1]

    def _noted(self, what: str, rows: dict[str, Any], ids: NDArray[np.intp]) -> dict[str, Any]:
        """Note the rows of the worlds `ids`; returns the latest rows of all worlds."""
        self._latest[what] = _merged(self._latest.get(what), rows, ids, self.num_envs)
        is_whole = len(ids) == self.num_envs
        return rows if is_whole else _merged(self._latest[what], rows, ids, self.num_envs)


class LoopedWorlds(Worlds):
    """The environments of a task one after the other.

    make: makes an environment of the task.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], specification: Specification, count: int) -> None:
        super().__init__(specification, count)
        self.envs = [make() for _ in range(count)]
        self._observations = {s.name: np.zeros((count, *s.shape), s.dtype) for s in specification.observations}
        self._infos: list[dict[str, Any]] = [{} for _ in range(count)]
        self._errors: list[Exception | None] = [None] * count

    def begin(self, ids: NDArray[np.intp], seeds: Sequence[int | None]) -> tuple[Rows, dict[str, Any]]:
        """See `Worlds.begin`."""
        for index, seed in zip(ids, seeds, strict=True):
            self._errors[index] = None
            try:
                self._note(index, self.envs[index].reset, *reset(self.envs[index], seed=seed))
            except Exception as error:
                self._errors[index] = error
        return self._rows(ids)

    def advance(
        self, ids: NDArray[np.intp], actions: NDArray[Any]
    ) -> tuple[Rows, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """See `Worlds.advance`."""
        rewards, terminated, truncated = np.zeros(len(ids)), np.zeros(len(ids), bool), np.ones(len(ids), bool)
        for row, (index, action) in enumerate(zip(ids, actions, strict=True)):
            if self._errors[index] is not None:
                continue
            try:
                method = self.envs[index].step
                result = unpacked("step", method(action), culprit=method)
                self._note(index, method, result[0], result[4])
                rewards[row], terminated[row], truncated[row] = result[1:4]
            except gymnasium.error.ResetNeeded:
                raise
            except Exception as error:
                self._errors[index] = error
        observation, info = self._rows(ids)
        return observation, rewards, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _note(self, index: int, method: Any, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        what = f"{method.__name__}()"
        check_observation(self.specification, observation, what, culprit=method)
        success, score = outcome(info, what, culprit=method)
        for name, values in self._observations.items():
            values[index] = observation[name]
        self._infos[index] = {**info, "success": success, "score": score}

    def _rows(self, ids: NDArray[np.intp]) -> tuple[Rows, dict[str, Any]]:
        errors = objects(self._errors[index] for index in ids)
        for index in ids:
            if self._errors[index] is not None:
                self._infos[index] |= {"success": False, "score": 0.0}
        infos = [self._infos[index] for index in ids]
        info: dict[str, Any] = {
            "success": np.array([one["success"] for one in infos], bool),
            "score": np.array([one["score"] for one in infos], np.float64),
            "error": errors,
        }
        if all("sentence" in one for one in infos):
            info["sentence"] = objects(one["sentence"] for one in infos)
        if all("state" in one for one in infos):
            info["state"] = {name: np.stack([one["state"][name] for one in infos]) for name in infos[0]["state"]}
        return {name: values[ids] for name, values in self._observations.items()}, info


@dataclass(frozen=True)
class BatchOf:
    """A `Task.make_batch` whose worlds equal the environments of any `make`, also if a wrapper changes their resets."""

    worlds: Callable[[Callable[..., Any], int], Worlds]
    """Makes the worlds, from what makes an environment and their count."""
    make: Callable[..., Any]
    """Makes an environment."""

    def __call__(self, count: int) -> Worlds:
        """So many worlds."""
        return self.worlds(self.make, count)


def objects(values: Iterable[Any]) -> NDArray[Any]:
    """An array (n,) of any objects."""
    items = list(values)
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _merged(latest: Any, rows: Any, ids: NDArray[np.intp], count: int) -> Any:
    """A copy of `latest`, all worlds' arrays, with the rows of the worlds `ids`; zero or None where nothing is."""
    if isinstance(rows, Mapping):
        before = latest or {}
        return {name: _merged(before.get(name), values, ids, count) for name, values in rows.items()}
    empty = None if rows.dtype == object else 0
    whole = np.full((count, *rows.shape[1:]), empty, rows.dtype) if latest is None else latest.copy()
    whole[ids] = rows
    return whole
