"""How action chunks follow one another: between a policy, which plans, and a robot, which needs one action a step.

One `Execution` serves one episode, robot or session. It knows arrays, but no clock, no network and no batch, so
that evaluation in simulation and a controller in real time run the very same object. A chunk may be accepted any number
of steps after it was asked for: that is all that an execution knows of delays, and it counts them in steps.

Shapes: To, Tp, Ta observation, prediction and action horizon; H = Tp - To + 1 steps of a chunk, from the step on at
which it was asked for; Da size of the action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..policy.requests import Request
from ..specification import Horizons

REMEMBERED = 10
"""Delays of so many chunks are remembered; the longest of them is expected of the next."""


class Execution(ABC):
    """Each control step: `observe`; where `request` answers, have a chunk predicted, and `accept` it now or in a later
    step; then `act`.

    One chunk is under way at a time. If the plan runs out before the next chunk comes, its last action is held, and
    zero is commanded in each dimension whose stream says `hold="zero"`. A subclass decides when a chunk is due, what it
    should go on from, and how it joins the plan.

    delay: steps that a chunk is expected to take, as long as none was measured. every: steps from one request to the
    next, Ta where it is not given. hold: that of the action stream; () holds every dimension. Raises ValueError where
    they are impossible.
    """

    def __init__(
        self, horizons: Horizons, *, delay: int = 0, every: int | None = None, hold: Sequence[str] = ()
    ) -> None:
        if delay < 0:
            raise ValueError(f"delay must be 0 control steps or more, got {delay}")
        self.horizons, self._delay, self.every = horizons, delay, horizons.action if every is None else every
        if not 1 <= self.every <= self._future:
            raise ValueError(
                f"a chunk must be asked for every 1 to {self._future} steps, of which it says what to do, got {every}"
            )
        self._is_zero = np.array([each == "zero" for each in hold] or False)
        self._seen: deque[Mapping[str, NDArray[Any]]] = deque(maxlen=horizons.observation)
        self._commanded: deque[NDArray[Any]] = deque(maxlen=horizons.observation - 1)
        self._delays: deque[int] = deque(maxlen=REMEMBERED)
        self.reset()

    def reset(self) -> None:
        """Forget everything but how long chunks took: a new episode begins."""
        self._seen.clear()
        self._commanded.clear()
        self._now = -1
        self._asked: int | None = None
        self._before: int | None = None
        self._is_waiting = False
        self._plan: NDArray[Any] = np.empty((0, 0))
        self._begin = 0

    def observe(self, observation: Mapping[str, NDArray[Any]], *, commanded: NDArray[Any] | None = None) -> None:
        """Take the observation of the next control step. The first one stands for the steps before it, as in training.

        commanded (Da,): what took effect a step before this observation, if it was not the planned action. Both are
        copied, so that the arrays may be used again for the next step.
        """
        if len(self._plan):
            self._commanded.append(self.act() if commanded is None else np.array(commanded))
        seen = {name: np.array(values) for name, values in observation.items()}
        if not self._seen:
            self._seen.extend([seen] * (self.horizons.observation - 1))
        self._seen.append(seen)
        self._now += 1

    def request(self) -> Request | None:
        """What to predict the next chunk from; None while none is due, or one has been asked for and not yet come."""
        if not self._seen:
            raise RuntimeError("observe the first step before a chunk is requested")
        if self._is_waiting or not self._is_due():
            return None
        self._before, self._asked, self._is_waiting = self._asked, self._now, True
        history = {name: np.stack([seen[name] for seen in self._seen]) for name in self._seen[-1]}
        prefix = self._prefix() if len(self._plan) else None
        return Request(history, () if prefix is None else (prefix,))

    def accept(self, chunk: NDArray[Any]) -> None:
        """Take the chunk (Tp, Da) that was asked for.

        Raises ValueError for another shape, and RuntimeError where none was asked for.
        """
        if chunk.ndim != 2 or len(chunk) != self.horizons.prediction:
            raise ValueError(
                f"a chunk must hold an action for each of the {self.horizons.prediction} steps of the prediction "
                f"horizon, got shape {chunk.shape}"
            )
        if self._asked is None or not self._is_waiting:
            raise RuntimeError("no chunk was asked for: predict one from request() alone")
        self._is_waiting = False
        late = self._now - self._asked
        if len(self._plan):  # the first chunk of an episode is waited for
            self._delays.append(late)
        self._plan, self._begin = self._join(chunk[self.horizons.observation - 1 :], late), self._now

    def withdraw(self) -> None:
        """Expect the chunk that was asked for no more, because its planner was lost: another one may be due now."""
        if self._is_waiting:
            self._asked, self._is_waiting = self._before, False

    def act(self) -> NDArray[Any]:
        """The action (Da,) of the current step. Raises RuntimeError before the first chunk."""
        if not len(self._plan):
            raise RuntimeError("no action is planned: predict a chunk from request() and accept() it first")
        left = self.planned
        return left[0].copy() if len(left) else self._held(self._plan[-1])

    def _held(self, action: NDArray[Any]) -> NDArray[Any]:
        """What to do (..., Da) for as long as nothing is planned after an action (..., Da)."""
        return np.where(self._is_zero, np.zeros_like(action), action)

    @property
    def _future(self) -> int:
        """Steps of a chunk from the one on at which it was asked for."""
        return self.horizons.prediction - self.horizons.observation + 1

    @property
    def expected_delay(self) -> int:
        """Steps that the next chunk may take: the most that one of the last took."""
        return max(self._delays, default=self._delay)

    @property
    def planned(self) -> NDArray[Any]:
        """What is planned from the current step on (n, Da); nothing where the plan has run out."""
        return self._plan[self._now - self._begin :]

    @abstractmethod
    def _is_due(self) -> bool:
        """Whether to ask for a chunk in this step."""

    @abstractmethod
    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        """The plan (n >= 1, Da) from the current step on, with new actions (H, Da), the first of `late` steps ago."""

    def _prefix(self) -> Prefix | None:
        """What a chunk that is asked for now should go on from."""
        return None
