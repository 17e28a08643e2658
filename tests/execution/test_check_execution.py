"""`check_execution` accepts every execution of Recede, and names each promise that an execution breaks."""

from functools import partial

import numpy as np
import pytest
from recede import check_execution
from recede.configs.components.executions import EXECUTIONS
from recede.execution.guided import RealTimeChunking
from recede.execution.interface import Execution
from recede.execution.overlapping import AsyncReplace
from recede.execution.receding import RecedingHorizon
from recede.policy.denoising.guidance import Prefix
from recede.policy.requests import Request
from representatives import representatives


@pytest.mark.parametrize("name", representatives(EXECUTIONS, "receding", "temporal_ensemble", "rtc"))
def test_every_execution_keeps_every_promise(name):
    report = check_execution(EXECUTIONS[name]().build)
    assert "48 combinations" in report
    assert "as predicted" in report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["receding", "crossfade", "temporal_ensemble"])
@pytest.mark.parametrize("every", [1, 3])
def test_an_execution_keeps_every_promise_however_often_it_requests(name, every):
    if every == 3 and name == "temporal_ensemble":
        every = None
    check_execution(EXECUTIONS[name](every=every).build)


class Slow(RecedingHorizon):
    """Each action twice."""

    def _join(self, actions, late):
        return np.repeat(super()._join(actions, late), 2, axis=0)


def test_an_execution_that_changes_actions_on_purpose_need_not_follow_them():
    with pytest.raises(ValueError, match=r"step 1: .*follows=False"):
        check_execution(Slow)
    assert "not compared" in check_execution(Slow, follows=False)


def test_an_execution_that_refuses_everything_is_refused():
    with pytest.raises(ValueError, match="refuses all"):
        check_execution(partial(AsyncReplace, every=100))


def never(self):
    return False


def always(self):
    return True


def only_first(self):
    return self._requested_at is None


def impatient(self):
    """A second chunk while the first is under way."""
    self._is_waiting = self._is_waiting and not self._is_due()
    return AsyncReplace.request(self)


def without_copies(self, observation, *, commanded=None):
    AsyncReplace.observe(self, {}, commanded=commanded)
    self._history[-1] = observation
    if self._now == 0:
        for index in range(len(self._history)):
            self._history[index] = observation


def edited(edit):
    """A `request` whose history is edited."""

    def request(self):
        request = AsyncReplace.request(self)
        return request and Request({name: edit(values) for name, values in request.history.items()}, request.guidance)

    return request


def guided(actions=lambda rows: rows, weights=lambda rows: rows):
    """A `_prefix` whose arrays are edited."""

    def _prefix(self):
        plan = actions(np.zeros((self.horizons.prediction, 2), np.float32))
        return Prefix(plan, weights(np.ones(len(plan), np.float32)))

    return _prefix


def guided_at_once(self):
    request = AsyncReplace.request(self)
    return request and Request(request.history, (guided()(self),))


def guided_once(self):
    self.num = getattr(self, "num", 0) + 1
    return guided()(self) if self.num == 1 else None


def unrefused(method, error):
    """The method of `AsyncReplace`, with an answer instead of an error."""

    def answer(self, *arguments):
        try:
            return getattr(AsyncReplace, method)(self, *arguments)
        except error:
            return None

    return answer


def negative(self, horizons, *, delay=0, hold=()):
    AsyncReplace.__init__(self, horizons, delay=max(delay, 0), hold=hold)


def deaf(self, horizons, *, delay=0, hold=()):
    AsyncReplace.__init__(self, horizons, delay=delay, hold=hold)
    self._delay = 0


def joined(edit):
    """A `_join` whose plan is edited; edit: (plan, actions, late, execution) -> plan."""

    def _join(self, actions, late):
        return edit(AsyncReplace._join(self, actions, late), actions, late, self)

    return _join


def remembering(plan, actions, late, execution):
    execution.total = getattr(execution, "total", 0) + 1
    return plan if execution.total <= 3 else plan * 1.00001


BROKEN = {
    "never asks": ({"_is_due": never}, "step 0: .*first step"),
    "asks once": ({"_is_due": only_first}, "second chunk"),
    "asks twice a step": ({"_is_due": always}, "one chunk a step"),
    "asks while waiting": ({"request": impatient}, "while a chunk is under way"),
    "asks before it sees": (
        {"request": unrefused("request", RuntimeError)},
        "RuntimeError .*request .*before the first",
    ),
    "acts before it plans": ({"act": unrefused("act", RuntimeError)}, "RuntimeError .*act before"),
    "accepts anything": ({"accept": unrefused("accept", ValueError)}, "ValueError .*shape"),
    "accepts too much": ({"accept": unrefused("accept", RuntimeError)}, "RuntimeError .*before it is requested"),
    "takes any delay": ({"__init__": negative}, "ValueError .*delay of -1"),
    "forgets its delay": ({"__init__": deaf}, "expect delay=1 .*got 0"),
    "expects anything": ({"expected_delay": property(lambda self: self._delay if not self._delays else 7)}, "got 7"),
    "observations": ({"observe": without_copies}, "as they were.*'state'"),
    "dtype": ({"request": edited(lambda values: values.astype(np.float64))}, "as they were.*'state'"),
    "order": ({"request": edited(lambda values: values[::-1])}, "as they were.*'state'"),
    "chunk": (
        {"_join": joined(lambda plan, actions, late, _: actions[late:] if late == 0 else plan)},
        "copy the chunk",
    ),
    "action": (
        {"act": lambda self: AsyncReplace.act(self) if not len(self.planned) else self.planned[0]},
        "with a copy",
    ),
    "another action": ({"act": lambda self: AsyncReplace.act(self) * 2}, "act as planned"),
    "too early": ({"_join": joined(lambda plan, actions, late, _: actions.copy())}, "delay=1.*predict.*`late`"),
    "too late": (
        {"_join": joined(lambda plan, actions, late, _: np.append(plan[1:], plan[-1:], 0))},
        "step 0: .*predict",
    ),
    "nan": ({"_join": joined(lambda plan, *_: plan * np.float32(np.nan))}, "2 finite numbers|copy the chunk"),
    "one number": ({"_join": joined(lambda plan, *_: plan[:, :1])}, "2 finite numbers"),
    "nothing": ({"_join": joined(lambda plan, actions, late, _: actions[late:].copy())}, "at least one action"),
    "holds zero": ({"_hold": lambda self, action: 0 * action}, r"hold=\(\).*hold the last action"),
    "holds all": ({"_hold": lambda self, action: action}, "zero.*hold the last action"),
    "withdraws nothing": ({"withdraw": lambda self: None}, "accept a withdrawn chunk"),
    "withdraws for good": ({"withdraw": lambda self: setattr(self, "_is_waiting", False)}, "withdrawn chunk again"),
    "guides the first": ({"request": guided_at_once}, "not guide the first"),
    "guides once": ({"_prefix": guided_once}, "as before|forget"),
    "rows": ({"_prefix": guided(actions=lambda rows: rows[1:])}, "guide by actions"),
    "not finite": ({"_prefix": guided(actions=lambda rows: rows * np.nan)}, "finite actions"),
    "weights": ({"_prefix": guided(weights=lambda rows: 2 * rows)}, "weights in .*2"),
    "remembers": ({"_join": joined(remembering)}, "forget the last episode"),
    "looks away": ({"looks_next": property(lambda self: False)}, "as they were.*'image'.*looks_next"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name):
    methods, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        check_execution(type("Broken", (AsyncReplace,), methods))


class Remembering(RealTimeChunking):
    """It keeps the commanded actions of the last episode."""

    def reset(self):
        commanded = [*self._commanded]
        super().reset()
        self._commanded.extend(commanded)


def test_a_prefix_of_the_last_episode_is_found():
    with pytest.raises(ValueError, match="forget the last episode"):
        check_execution(partial(Remembering, limit=5.0, exact=False))


class Standing(RecedingHorizon):
    """It stands still for a chunk, and then drops the actions of that time."""

    def _join(self, actions, late):
        return actions[late : late + self.every].copy() if late < len(actions) else actions[-1:].copy()


def test_a_robot_that_stood_still_must_begin_with_the_first_action():
    with pytest.raises(ValueError, match=r"delay=1.*predict"):
        check_execution(Standing)


def test_every_execution_of_the_package_is_in_the_table():
    """None escapes the check."""

    def concrete(kind):
        below = [leaf for child in kind.__subclasses__() for leaf in concrete(child)]
        return below if kind.__abstractmethods__ else [kind]

    shipped = {kind for kind in concrete(Execution) if kind.__module__.startswith("recede.execution.")}
    assert shipped == {config.kind for config in EXECUTIONS.values()}
