"""Executions: how the chunks of a policy become one action for each control step.

One `Execution` serves one episode, robot or session. It works on arrays and counts time in control steps. It has no
clock, no network and no batch, so the evaluation and the control loop run the same object. A chunk may arrive any
number of steps after its request.

Shapes: To, Tp, Ta observation, prediction and action horizon; H = Tp - To + 1 actions of a chunk from the step of its
request on; Da size of the action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..policy.requests import Request
from ..specification import Horizons

NUM_DELAYS = 10
"""Number of recent chunks whose longest delay is expected of the next chunk."""


class ExecutionOptions(TypedDict, total=False):
    """The arguments that every execution takes; see `Execution`."""

    delay: int
    every: int | None
    hold: Sequence[str]


class Execution(ABC):
    """Turns chunks into actions. In each control step call `observe`; then `request`, and if it returns a request,
    predict a chunk and `accept` it in this step or a later one; then `act`.

    Only one chunk is under way at a time. If the plan runs out before the next chunk arrives, the execution repeats the
    last action, with zero in each dimension whose stream has `hold="zero"`. A subclass decides when to request a chunk,
    how the chunk joins the plan, and which prefix guides it.

    horizons: those of the policy.
    delay: steps that a chunk is expected to take until a delay has been measured.
    every: steps from one request to the next; None for Ta.
    hold: `hold` of the action stream; () repeats the last action in every dimension.

    Raises ValueError if delay is negative, or every is not in 1 to H.
    """

    def __init__(
        self, horizons: Horizons, *, delay: int = 0, every: int | None = None, hold: Sequence[str] = ()
    ) -> None:
        if delay < 0:
            raise ValueError(f"delay must be 0 control steps or more, got {delay}")
        self.horizons, self._delay, self.every = horizons, delay, horizons.action if every is None else every
        if not 1 <= self.every <= horizons.future:
            raise ValueError(
                f"every must be 1 to {horizons.future} steps, because a chunk plans no further, got {every}: request "
                "more often, or predict more steps"
            )
        self._is_zero = np.array([value == "zero" for value in hold] or False)
        self._history: deque[Mapping[str, NDArray[Any]]] = deque(maxlen=horizons.observation)
        self._commanded: deque[NDArray[Any]] = deque(maxlen=horizons.observation - 1)
        self._delays: deque[int] = deque(maxlen=NUM_DELAYS)
        self.reset()

    def reset(self) -> None:
        """Begin a new episode. Forgets everything except the measured delays."""
        self._history.clear()
        self._commanded.clear()
        self._now = -1
        self._requested_at: int | None = None
        self._previously_requested_at: int | None = None
        self._is_waiting = False
        self._plan: NDArray[Any] = np.empty((0, 0))
        self._plan_begin = 0

    def observe(self, observation: Mapping[str, NDArray[Any]], *, commanded: NDArray[Any] | None = None) -> None:
        """Take the observation of the next control step. The first one also fills the steps before it, as in training.

        commanded (Da,): the action that took effect in the step before, if it was not the planned one.

        Both are copied, so the caller may reuse the arrays.
        """
        if len(self._plan):
            self._commanded.append(self.act() if commanded is None else np.array(commanded))
        current = {name: np.array(values) for name, values in observation.items()}
        if not self._history:
            self._history.extend([current] * (self.horizons.observation - 1))
        self._history.append(current)
        self._now += 1

    def request(self) -> Request | None:
        """The inputs of the next chunk; None if no chunk is due or one is still under way.

        Raises RuntimeError before the first observation.
        """
        if not self._history:
            raise RuntimeError("observe the first step before a chunk is requested")
        if self._is_waiting or not self._is_due():
            return None
        self._previously_requested_at, self._requested_at, self._is_waiting = self._requested_at, self._now, True
        history = {name: np.stack([step[name] for step in self._history]) for name in self._history[-1]}
        prefix = self._prefix() if len(self._plan) else None
        return Request(history, () if prefix is None else (prefix,))

    def accept(self, chunk: NDArray[Any]) -> None:
        """Take the requested chunk (Tp, Da).

        Raises ValueError for another shape, and RuntimeError if no chunk is under way.
        """
        if chunk.ndim != 2 or len(chunk) != self.horizons.prediction:
            raise ValueError(
                f"a chunk must hold an action for each of the {self.horizons.prediction} steps of the prediction "
                f"horizon, got shape {chunk.shape}"
            )
        if self._requested_at is None or not self._is_waiting:
            raise RuntimeError("no chunk is under way: predict one from request() before accept()")
        self._is_waiting = False
        late = self._now - self._requested_at
        if len(self._plan):  # the robot waits for the first chunk of an episode, so its delay says nothing
            self._delays.append(late)
        self._plan, self._plan_begin = self._join(chunk[self.horizons.observation - 1 :], late), self._now

    def withdraw(self) -> None:
        """Stop waiting for the requested chunk, because its planner is lost. `request` may then ask again."""
        if self._is_waiting:
            self._requested_at, self._is_waiting = self._previously_requested_at, False

    def act(self) -> NDArray[Any]:
        """The action (Da,) of the current step. Raises RuntimeError before the first chunk."""
        if not len(self._plan):
            raise RuntimeError("no action is planned: predict a chunk from request() and accept() it first")
        planned = self.planned
        return planned[0].copy() if len(planned) else self._hold(self._plan[-1])

    def _hold(self, action: NDArray[Any]) -> NDArray[Any]:
        """The action (..., Da) to repeat after `action` (..., Da) if nothing more is planned."""
        return np.where(self._is_zero, np.zeros_like(action), action)

    @property
    def expected_delay(self) -> int:
        """Steps that the next chunk may take: the longest delay of the last `NUM_DELAYS` chunks."""
        return max(self._delays, default=self._delay)

    @property
    def planned(self) -> NDArray[Any]:
        """The actions that are planned from the current step on (n, Da); empty once the plan has run out."""
        return self._plan[self._now - self._plan_begin :]

    @property
    def looks_next(self) -> bool:
        """Whether a request may hold the images of the next step. If not, they need not be rendered."""
        return True

    @abstractmethod
    def _is_due(self) -> bool:
        """Whether to request a chunk in this step."""

    @abstractmethod
    def _join(self, actions: NDArray[Any], late: int) -> NDArray[Any]:
        """The new plan (n, Da), n >= 1, from the current step on. It must not share memory with `actions`.

        actions (H, Da): those of the new chunk from the step of its request on, `late` steps ago.
        """

    def _prefix(self) -> Prefix | None:
        """What guides a chunk that is requested in this step, if anything does."""
        return None
