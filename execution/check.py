"""A check of your own execution: whether it keeps every promise of `Execution`.

Shapes: To, Tp observation and prediction horizon; Da size of the action.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..policy.denoising.guidance import Prefix
from ..policy.requests import Request
from ..specification import Horizons
from .interface import Execution

HORIZONS = [
    Horizons(observation, observation - 1 + action + spare, action)
    for observation, action, spare in itertools.product((1, 3), (1, 3), (0, 6))
]
DELAYS = (0, 1, 3)
HOLDS = ((), ("last", "zero"))
NUM_STEPS = 17
SIZE = 2
TOLERANCE = 1e-5

Forecast = Callable[[NDArray[Any]], NDArray[Any]]
"""The actions (n, Da) of control steps (n,), which all chunks of a drive agree about."""


class MakeExecution(Protocol):
    """Makes a new execution: an execution class, or the `build` of its configuration."""

    def __call__(self, horizons: Horizons, *, delay: int, hold: Sequence[str]) -> Execution:
        """Raises ValueError for horizons and delays that the execution cannot serve."""
        ...


def check_execution(make: MakeExecution, *, follows: bool = True) -> str:
    """Drive executions over many horizons, delays and holds, and check every promise of `Execution`; a report to print.

    make: called as `make(horizons, delay=..., hold=...)`. It may raise ValueError for what the execution cannot serve.
    follows: whether each action is executed as it was predicted, if all chunks agree. Pass False for an execution that
    changes actions on purpose, for example by slowing them down.

    Raises ValueError for the first broken promise: what it is, where, and how to keep it.
    """
    num_cases, num_requests = 0, 0
    for horizons, delay, hold in itertools.product(HORIZONS, DELAYS, HOLDS):
        try:
            make(horizons, delay=delay, hold=hold)
        except ValueError:
            continue
        case = _Case(make, horizons, delay, hold)
        for check in (_check_misuse, _check_copies, _check_withdrawal, _check_late_chunk, _check_reset):
            check(case)
        for forecast in (_constant, _wave) if follows else (_constant,):
            num_requests += len(case.drive(forecast).requests)
        num_cases += 1
    if not num_cases:
        raise ValueError("the execution must accept some horizons and delays, but refuses all that were tried")
    return (
        f"{num_cases} of {len(HORIZONS) * len(DELAYS) * len(HOLDS)} combinations of horizons, delay and hold accepted\n"
        f"{num_requests} chunks requested, one at a time\n"
        f"actions {'as predicted' if follows else 'not compared with the predicted ones'}; "
        "errors, copies, withdrawal, late chunks and reset as promised"
    )


def _constant(steps: NDArray[Any]) -> NDArray[Any]:
    return np.full((len(steps), SIZE), 0.1, dtype=np.float32)


def _wave(steps: NDArray[Any]) -> NDArray[Any]:
    return np.stack([np.sin(steps), np.cos(0.7 * steps)], axis=-1).astype(np.float32)


def _observation(step: int) -> dict[str, NDArray[Any]]:
    return {"state": np.array([step, -step], dtype=np.float32), "image": np.full((2, 2, 3), step, dtype=np.uint8)}


@dataclass(frozen=True)
class _Case:
    """One combination of horizons, delay and hold."""

    make: MakeExecution
    horizons: Horizons
    delay: int
    hold: tuple[str, ...]

    def new(self) -> Execution:
        return self.make(self.horizons, delay=self.delay, hold=self.hold)

    def chunk(self, step: int, forecast: Forecast = _wave) -> NDArray[Any]:
        """The chunk (Tp, Da) that is requested in a step."""
        return forecast(step - (self.horizons.observation - 1) + np.arange(self.horizons.prediction))

    def begin(self) -> Execution:
        """A new execution after its first chunk."""
        execution = self.new()
        execution.observe(_observation(0))
        self.require(execution.request() is not None, 0, "must request a chunk in the first step", "let it be due then")
        execution.accept(self.chunk(0))
        return execution

    def drive(self, forecast: Forecast, execution: Execution | None = None) -> _Drive:
        """Execute an episode in which every chunk but the first arrives `delay` steps after its request."""
        drive = _Drive(self, execution or self.new(), forecast)
        for step in range(NUM_STEPS):
            drive.take(step)
        if len(drive.requests) > 1 and drive.execution.expected_delay != self.delay:
            self.fail(NUM_STEPS, f"must expect the measured delay, got {drive.execution.expected_delay}", "inherit it")
        return drive

    def held(self, action: NDArray[Any]) -> NDArray[Any]:
        """The action to repeat once nothing is planned."""
        return np.where([value == "zero" for value in self.hold] or False, 0, action)

    def require(self, is_kept: bool, step: int, promise: str, remedy: str) -> None:
        if not is_kept:
            self.fail(step, promise, remedy)

    def fail(self, step: int, promise: str, remedy: str) -> None:
        """Raises ValueError."""
        raise ValueError(
            f"{self.horizons}, delay={self.delay}, hold={self.hold}, step {step}: an execution {promise}: {remedy}"
        )


@dataclass
class _Drive:
    """One episode, in which every answer of the execution is checked."""

    case: _Case
    execution: Execution
    forecast: Forecast
    requests: dict[int, Request] = field(default_factory=lambda: dict[int, Request]())
    actions: list[NDArray[Any]] = field(default_factory=lambda: list[NDArray[Any]]())
    requested_at: int | None = None
    """The step of the request whose chunk is under way."""
    shift: int = 0
    """Steps by which the robot lags behind its chunk, because it stood still until the chunk arrived."""
    is_still: bool = True
    """Whether nothing was planned at the last request."""
    looks: bool = True
    """Whether the image of the step is not another one."""

    def take(self, step: int) -> None:
        """Take one control step as the control loop does."""
        commanded = (
            self.actions[-1].copy() if step % 2 else None
        )  # the planned action, passed explicitly in every second step
        observation = _observation(step)
        if not self.looks:
            observation["image"][...] = 99
        self.execution.observe(observation, commanded=commanded)
        if self.requested_at is not None and step - self.requested_at >= self.case.delay:
            self._accept(step)
        self._request(step)
        self._act(step)
        self.looks = self.execution.looks_next

    def _request(self, step: int) -> None:
        is_under_way, is_planned = self.requested_at is not None, len(self.execution.planned) > 0
        request = self.execution.request()
        if request is None:
            is_kept = is_under_way or is_planned
            promise = (
                "must request a chunk in the first step" if step == 0 else "must request a chunk if none is planned"
            )
            self.case.require(is_kept, step, promise, "let it be due then")
            return
        self.case.require(
            not is_under_way, step, "must request nothing while a chunk is under way", "override _is_due, not request"
        )
        _check_request(self.case, step, request)
        self.requests[step], self.requested_at, self.is_still = request, step, not is_planned
        if step == 0 or self.case.delay == 0:
            self._accept(step)
            is_kept = self.execution.request() is None
            self.case.require(is_kept, step, "must request one chunk a step at most", "let none be due after one came")

    def _accept(self, step: int) -> None:
        assert self.requested_at is not None
        self.execution.accept(self.case.chunk(self.requested_at, self.forecast))
        self.shift, self.requested_at = step - self.requested_at if self.is_still else 0, None

    def _act(self, step: int) -> None:
        action, planned = self.execution.act(), self.execution.planned
        _check_action(self.case, step, action)
        if len(planned):
            self.case.require(
                np.array_equal(planned[0], action),
                step,
                f"must act as planned, {planned[0]}, got {action}",
                "inherit act",
            )
            expected = self.forecast(np.array([step - self.shift]))[0]
            promise, remedy = (
                "must execute the action that the chunks predict",
                ("drop the `late` actions that are over, begin a plan with the current step, or pass follows=False"),
            )
        else:
            expected = self.case.held(self.actions[-1])
            promise, remedy = "must hold the last action once nothing is planned", "use _hold"
        is_kept = bool(np.allclose(action, expected, atol=TOLERANCE))
        self.case.require(is_kept, step, f"{promise}, {expected}, got {action}", remedy)
        self.actions.append(action)


def _check_request(case: _Case, step: int, request: Request) -> None:
    """The history must be the last To observations, and the prefix must fit the chunk."""
    steps = [max(step + index, 0) for index in range(1 - case.horizons.observation, 1)]
    for name in _observation(step):
        expected, history = np.stack([_observation(past)[name] for past in steps]), request.history.get(name)
        case.require(
            isinstance(history, np.ndarray) and history.dtype == expected.dtype and np.array_equal(history, expected),
            step,
            f"must request a chunk from the last {len(steps)} observations as they were, got other values of {name!r}",
            "inherit observe and request, and let looks_next be true before these steps",
        )
    if step == 0:
        case.require(not request.guidance, step, "must not guide the first chunk", "guide a chunk by a plan alone")
    for guide in request.guidance:
        if isinstance(guide, Prefix):
            _check_prefix(case, step, guide)


def _check_prefix(case: _Case, step: int, prefix: Prefix) -> None:
    shape = case.horizons.prediction, SIZE
    case.require(
        np.shape(prefix.actions) == shape,
        step,
        f"must guide by actions of shape {shape}, got {np.shape(prefix.actions)}",
        "give each step of the chunk a row, the first To - 1 for steps that are over",
    )
    is_finite = bool(np.isfinite(prefix.actions).all())
    case.require(is_finite, step, "must guide by finite actions", "fill unknown steps with 0")
    weights = np.asarray(prefix.weights)
    is_share = bool(((weights >= 0) & (weights <= 1)).all())
    case.require(is_share, step, f"must guide by weights in [0, 1], got {weights}", "clip them")


def _check_action(case: _Case, step: int, action: Any) -> None:
    case.require(
        isinstance(action, np.ndarray) and action.shape == (SIZE,) and bool(np.isfinite(action).all()),
        step,
        f"must act with {SIZE} finite numbers, got {action}",
        "let _join return a row of actions for each step, and at least one",
    )


def _check_misuse(case: _Case) -> None:
    """What cannot be answered must be refused, and leave the execution as it is."""
    execution = case.new()
    _check_is_empty(case, execution, "before the first observation")
    execution.observe(_observation(0))
    _refused(case, RuntimeError, "accept a chunk before it is requested", lambda: execution.accept(case.chunk(0)))
    case.require(execution.request() is not None, 0, "must request a chunk in the first step", "let it be due then")
    _refused(case, RuntimeError, "act before the first chunk", execution.act)
    for shape in ((case.horizons.prediction + 1, SIZE), (case.horizons.prediction,), (0, SIZE)):
        _refused(case, ValueError, f"accept a chunk of shape {shape}", lambda s=shape: execution.accept(np.zeros(s)))
    execution.accept(case.chunk(0))
    _refused(case, RuntimeError, "accept a chunk twice", lambda: execution.accept(case.chunk(0)))
    _refused(case, ValueError, "take a delay of -1", lambda: case.make(case.horizons, delay=-1, hold=case.hold))
    if execution.expected_delay != case.delay:
        case.fail(
            0, f"must expect delay={case.delay} until it is measured, got {execution.expected_delay}", "pass it on"
        )


def _check_is_empty(case: _Case, execution: Execution, when: str) -> None:
    _refused(case, RuntimeError, f"request a chunk {when}", execution.request)
    _refused(case, RuntimeError, f"act {when}", execution.act)


def _refused(case: _Case, error: type[Exception], misuse: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except error:
        return
    case.fail(
        0, f"must raise {error.__name__} rather than {misuse}", "call the method that you override, or inherit it"
    )


def _check_copies(case: _Case) -> None:
    """Arrays that go in and out may be changed by whoever else has them."""
    execution, current, chunk = case.new(), _observation(0), case.chunk(0)
    execution.observe(current)
    for values in current.values():
        values[...] = 99
    request = execution.request()
    if request is not None:
        _check_request(case, 0, request)
    execution.accept(chunk)
    before = execution.act()
    chunk[...] = np.nan
    is_kept = np.array_equal(execution.act(), before) and bool(np.isfinite(execution.planned).all())
    case.require(is_kept, 0, "must copy the chunk", "copy the actions in _join")
    execution.act()[...] = np.nan
    case.require(np.array_equal(execution.act(), before), 0, "must act with a copy", "inherit act, or copy in it")


def _check_withdrawal(case: _Case) -> None:
    """A chunk that will not arrive must be requested again, then and later in the episode."""
    execution, step = case.begin(), 0
    execution.withdraw()  # of nothing
    while (request := execution.request()) is None:
        step += 1
        case.require(step <= 10 * case.horizons.prediction, step, "must request a second chunk", "let it be due")
        execution.observe(_observation(step))
    execution.withdraw()
    _refused(case, RuntimeError, "accept a withdrawn chunk", lambda: execution.accept(case.chunk(step)))
    again = execution.request()
    case.require(again is not None, step, "must request a withdrawn chunk again", "inherit withdraw")
    if again is not None:
        _check_request(case, step, again)
        is_kept = len(again.guidance) == len(request.guidance)
        case.require(
            is_kept, step, "must guide a chunk that is requested again as before", "let _prefix change nothing"
        )


def _check_late_chunk(case: _Case) -> None:
    """Until a late chunk arrives the last action is held, and even a chunk whose steps are all over gives an action."""
    execution, last, end = case.begin(), None, 2 * case.horizons.prediction + 3
    for step in range(1, end + 1):
        execution.observe(_observation(step))
        execution.request()
        action = execution.act()
        _check_action(case, step, action)
        if not len(execution.planned) and last is not None:
            expected = case.held(last)
            promise = f"must hold the last action once nothing is planned, {expected}, got {action}"
            case.require(np.array_equal(action, expected), step, promise, "use _hold")
        last = action
    execution.accept(case.chunk(end))
    is_kept = len(execution.planned) > 0
    case.require(is_kept, end, "must plan at least one action when a chunk is late", "keep the last one in _join")
    _check_action(case, end, execution.act())


def _check_reset(case: _Case) -> None:
    """An episode after `reset` must be as the first one."""
    execution = case.new()
    first = case.drive(_constant, execution)
    execution.reset()
    _check_is_empty(case, execution, "after reset()")
    second = case.drive(_constant, execution)
    is_kept = (
        np.array_equal(first.actions, second.actions)
        and first.requests.keys() == second.requests.keys()
        and all(_is_same(before, second.requests[step]) for step, before in first.requests.items())
    )
    case.require(is_kept, 0, "must forget the last episode", "forget in reset what you keep, and call super().reset()")


def _is_same(first: Request, second: Request) -> bool:
    pairs = zip(first.guidance, second.guidance, strict=False)
    return len(first.guidance) == len(second.guidance) and all(
        type(before) is type(after)
        and all(np.array_equal(array, after.arrays[name]) for name, array in before.arrays.items())
        for before, after in pairs
    )
