"""The part of `check_task` that compares the worlds of a batch with environments.

Shapes: T steps, Da size of the action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .promises import kind, reset, unpacked
from .vector import Worlds

WORLDS = 3
"""The worlds that are compared."""


def check_worlds(
    make_batch: Callable[[int], Worlds], make: Callable[[], Any], actions: NDArray[Any], *, seed: int
) -> str:
    """Compare every world with an environment, also if some of them begin again; returns a line for the report.

    actions: (T, Da). seed: that of the first world.

    Raises ValueError, with the stream, the seed and the step, unless they are equal to the last bit.
    """
    with ExitStack() as stack:
        worlds: Any = make_batch(WORLDS)
        if not isinstance(worlds, Worlds):
            raise ValueError(f"make_batch() must return recede.envs.vector.Worlds, got {kind(worlds)}: subclass it")
        stack.enter_context(closing(worlds))
        twins = [_Twin(stack.enter_context(closing(make()))) for _ in range(WORLDS)]
        for first in (0, 1):
            ids = np.arange(first, WORLDS)
            seeds = [seed + WORLDS * first + int(index) for index in ids]
            rows = worlds.begin(ids, seeds)
            for row, index in enumerate(ids):
                twins[index].begin(seeds[row])
                twins[index].compare(row, *rows)
            for number in range(len(actions) // 2):
                ids = np.flatnonzero([not twin.is_over for twin in twins])
                if not len(ids):
                    break
                chosen = actions[(number + 5 * ids) % len(actions)]
                observation, *results, info = worlds.advance(ids, chosen)
                for row, index in enumerate(ids):
                    twins[index].advance(chosen[row])
                    twins[index].compare(row, observation, info, *results)
    return f"{WORLDS} worlds equal as many environments"


class _Twin:
    """The environment that a world must equal."""

    def __init__(self, env: Any) -> None:
        self.env, self.seed, self.number, self.is_over = env, 0, 0, True

    def begin(self, seed: int) -> None:
        self.seed, self.number, self.is_over = seed, 0, False
        self.observation, self.info = reset(self.env, seed=seed)
        self.results = ()

    def advance(self, action: NDArray[Any]) -> None:
        self.observation, *self.results, self.info = unpacked("step", self.env.step(action))
        self.number, self.is_over = self.number + 1, any(self.results[1:])

    def compare(self, row: int, observation: Mapping[str, Any], info: Mapping[str, Any], *results: Any) -> None:
        """Raise ValueError unless the row of a world is equal. results: rewards, and whether they ended."""
        place = f"for seed {self.seed} in step {self.number}"
        if missing := [name for name in ("success", "score", "error") if name not in info]:
            raise ValueError(f"the info of make_batch()'s worlds must hold {missing}, got {sorted(info)}: add it there")
        if info["error"][row] is not None:
            raise ValueError(f"a world of make_batch() failed {place}, unlike its environment") from info["error"][row]
        pairs = [(name, observation[name][row], value) for name, value in self.observation.items()]
        pairs += [(name, info["state"][name][row], value) for name, value in self.info.get("state", {}).items()]
        pairs += [(name, info[name][row], self.info[name]) for name in ("success", "score")]
        names = ("reward", "terminated", "truncated")
        pairs += [
            (name, rows[row], one) for name, rows, one in zip(names[: len(results)], results, self.results, strict=True)
        ]
        for name, one, other in pairs:
            if np.asarray(one).tobytes() != np.asarray(other, np.asarray(one).dtype).tobytes():
                raise ValueError(
                    f"a world of make_batch() must equal an environment of make() to the last bit, but {name!r} is "
                    f"{one} and not {other} {place}: judge both with the same functions, and begin in the same state"
                )
