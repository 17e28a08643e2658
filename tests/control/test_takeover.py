"""A person takes over from a policy, and gives back to it."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from control_loop import FREE, HORIZONS, SPECIFICATION, Delayed, Ideal, line, path
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from recede.control.led import Led
from recede.control.loop import Controller
from recede.control.planned import Planned
from recede.control.safety import Limits, Safety
from recede.control.takeover import FADE_S, Takeover
from recede.execution.overlapping import AsyncReplace, TemporalEnsemble
from recede.execution.receding import RecedingHorizon
from recede.realtime import VirtualClock
from recede.robots.interface import Reading
from recede.teleoperation.axes import Axes
from recede.teleoperation.clutch import Clutch

EXECUTIONS = [RecedingHorizon, AsyncReplace, partial(TemporalEnsemble, decay=0.1)]


class Held:
    """Hands that hold the input during some intervals of time, and then give the value of a function of the time."""

    axes = ("x", "y")

    def __init__(self, kind, value, *intervals):
        self.kind, self.value, self.intervals = kind, value, intervals

    def read(self, now):
        is_held = any(begin <= now < end for begin, end in self.intervals)
        return Reading(np.asarray(self.value(now), float), now) if is_held else None


class Noting:
    """A log that keeps all ticks."""

    def __init__(self):
        self.ticks = []

    def tick(self, tick, alignment):
        self.ticks.append(tick)


def run(hands, *, answer=line, delay_s=0.15, execution=AsyncReplace, limits=FREE, near=0.05, seconds=6.0, lost=None):
    """Control the ideal robot by a policy and by hands that may take over; the ticks, the planner and the summary."""
    clock = VirtualClock()
    robot, log = Ideal(clock), Noting()
    planner = Delayed(clock, answer, delay_s, *([] if lost is None else [lost]))
    clutch = Clutch(hands.kind, Axes(hands.axes, SPECIFICATION.action), near=near, step=1.0, stale_s=0.2)
    lead = Takeover(Planned(planner, execution(HORIZONS)), Led(hands, clutch))
    safety = Safety(limits, 1 / robot.rate, patience_s=10.0)
    summary = Controller(robot, lead, safety, clock, log=log).run(lambda: clock.now() >= seconds - 1e-9)
    return SimpleNamespace(ticks=log.ticks, planner=planner, summary=summary)


def changes(ticks):
    """The number of each tick at which another leads than before."""
    return [number for number in range(1, len(ticks)) if ticks[number].is_led != ticks[number - 1].is_led]


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    kind=st.sampled_from(["absolute", "relative", "velocity"]),
    execution=st.sampled_from(EXECUTIONS),
    delay_s=st.floats(0.0, 0.5),
    apart=st.floats(-8, 8),
    speed=st.floats(-1, 1),
    begin=st.floats(0.8, 2.0),
    length=st.floats(0.05, 2.0),
)
def test_no_change_of_leads_moves_the_robot_at_once(kind, execution, delay_s, apart, speed, begin, length):
    """Neither lead is where the other one is, and nothing else limits the command."""

    def far(request):  # a policy that wants the robot far away as soon as it leads again
        return line(request) + (apart if request.history["moment"][-1, 0] > begin else 0)

    value = {"absolute": lambda now: [speed * now, 1.0], "relative": lambda now: [speed * now] * 2}
    hands = Held(kind, value.get(kind, lambda now: [speed, speed]), (begin, begin + length))
    ticks = run(hands, answer=far, delay_s=delay_s, execution=execution, near=1.0).ticks
    commands = np.stack([tick.command for tick in ticks])
    ways = np.abs(np.diff(commands, axis=0)).max(1)
    assert [ticks[number].is_led for number in changes(ticks)] == [True, False]
    for number in changes(ticks):
        assert ways[number - 1] == pytest.approx(0, abs=1e-9)  # the new lead begins where the old one ended
    end = begin + length + delay_s + FADE_S
    after = [way for tick, way in zip(ticks[1:], ways, strict=True) if begin <= tick.time < end]
    assert max(after) <= 14 / FADE_S * 0.01 + 0.2  # far apart, but slowly


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("delay_s", [0.0, 0.15, 0.7])
def test_the_policy_plans_anew_from_what_it_observes_after_the_person(execution, delay_s):
    begin, end = 1.05, 2.5
    requests = []

    def answer(request):
        requests.append(request)
        return line(request)

    hands = Held("velocity", lambda now: [0.5, 0.5], (begin, end))
    result = run(hands, answer=answer, execution=execution, delay_s=delay_s)
    moments = np.array([request.history["moment"][-1, 0] for request in requests])
    assert not ((moments > begin + 0.02) & (moments < end - 1e-9)).any()  # nobody asks while the person leads
    first = next(request for request, moment in zip(requests, moments, strict=True) if moment >= end - 1e-9)
    assert first.history["moment"][-1, 0] == pytest.approx(end, abs=0.02)
    assert first.guidance == ()  # no old plan guides it
    waiting = [tick for tick in result.ticks if end + 0.02 < tick.time < end + delay_s - 0.02]
    for tick in waiting:  # the robot rests until the new chunk is there
        np.testing.assert_array_equal(tick.command, waiting[0].command)
    settled = [tick for tick in result.ticks if tick.time > end + 2 * delay_s + 0.5]  # the second chunk is in time
    if execution is AsyncReplace:
        np.testing.assert_allclose([tick.command for tick in settled], [path(tick.time) for tick in settled], atol=0.01)


def test_a_chunk_that_was_under_way_when_the_person_took_over_is_dropped():
    """It was asked for before, and comes after the person has given back."""
    hands = Held("velocity", lambda now: [0.0, 0.0], (0.3, 0.5))
    result = run(hands, answer=lambda request: line(request) * 0 + request.history["moment"][-1, 0], delay_s=1.0)
    arrivals = [tick for tick in result.ticks if tick.chunk_s]
    # The first was asked for at 0, and dropped when it came at 1; the next one was asked for then.
    assert arrivals[0].time == pytest.approx(2.0, abs=0.02)
    later = [tick.command for tick in result.ticks if 2.0 + FADE_S < tick.time < 2.9]
    np.testing.assert_allclose(later, 1.0, atol=0.02)


def test_an_absolute_input_takes_over_only_near_the_robot():
    hands = Held("absolute", lambda now: [now - 1.5, 1.0], (1.0, 4.0))  # the policy goes along 0.3 t, 1 - 0.2 t
    result = run(hands, near=0.02)  # 0.4
    (taken, *_) = changes(result.ticks)
    before, after = result.ticks[taken - 1], result.ticks[taken]
    np.testing.assert_allclose(hands.value(after.time), before.command, atol=0.4)
    assert after.time > 1.2  # it was held from 1.0 on
    assert result.summary.num_led == sum(tick.is_led for tick in result.ticks)
    far = run(Held("absolute", lambda now: [5.0, 5.0], (1.0, 4.0)))
    assert not changes(far.ticks)


def test_the_steps_of_both_leads_count():
    hands = Held("velocity", lambda now: [0.5, 0.5], (1.0, 4.0))
    result = run(hands, delay_s=0.0)
    assert result.summary.num_steps == pytest.approx(60, abs=2)


def test_a_lost_planner_does_not_stop_the_person_and_comes_back_after():
    hands = Held("velocity", lambda now: [0.5, 0.5], (1.0, 3.0))
    result = run(hands, lost=(0.9, 3.5))
    led = [tick for tick in result.ticks if tick.is_led]
    np.testing.assert_allclose(led[-1].command - led[0].command, [1.0, 1.0], atol=0.03)
    assert any(tick.chunk_s for tick in result.ticks if tick.time > 3.5)


def test_the_limits_of_safety_hold_across_the_changes():
    limits = Limits.of(SPECIFICATION, speed=0.5, acceleration=2.0, jump=np.inf)
    hands = Held("velocity", lambda now: [3.0, -3.0], (1.0, 1.7), (2.2, 3.0))
    commands = np.stack([tick.command for tick in run(hands, limits=limits).ticks])
    speeds = np.diff(commands, axis=0) / 0.01
    assert np.abs(speeds).max() <= 0.5 + 1e-6
    assert np.abs(np.diff(speeds, axis=0)).max() <= 2.0 * 0.01 + 1e-6
