"""What a robot does while the policy is lost, and when the policy stands still."""

from types import SimpleNamespace

import numpy as np
import pytest
from control_loop import HORIZONS, SPECIFICATION, Delayed, Ideal, line
from recede.control.loop import Controller
from recede.control.planned import STILL, SURE, Doubt, Planned
from recede.control.safety import Event, Limits, Safety
from recede.execution.overlapping import AsyncReplace
from recede.realtime import VirtualClock

LIMITS = Limits.of(SPECIFICATION, speed=2.0, acceleration=40.0, jump=20.0)


class Noting:
    """A log that keeps all ticks."""

    def __init__(self):
        self.ticks = []

    def tick(self, tick, alignment):
        self.ticks.append(tick)


class Doubtful(Delayed):
    """A planner that is lost from one moment to another."""

    def __init__(self, clock, answer, begin, end):
        super().__init__(clock, answer, 0.05)
        self.begin, self.end = begin, end

    def poll(self):
        chunk = super().poll()
        if chunk is not None:
            is_lost = self.begin <= self.clock.now() < self.end
            self.doubt = Doubt(1.0, is_alarm=True) if is_lost else SURE
        return chunk


def run(on_lost, *, begin=1.0, end=2.0, seconds=4.0, answer=line, brakes=lambda planned, now: "", patience_s=10.0):
    clock = VirtualClock()
    robot, log = Ideal(clock), Noting()
    planned = Planned(Doubtful(clock, answer, begin, end), AsyncReplace(HORIZONS), on_lost=on_lost)
    safety = Safety(LIMITS, 1 / robot.rate, patience_s=patience_s, slow_speed=0.05)
    controller = Controller(robot, planned, safety, clock, log=log)
    summary = controller.run(lambda: clock.now() >= seconds, brakes=lambda: brakes(planned, clock.now()))
    times = np.array([tick.time for tick in log.ticks])
    commands = np.stack([tick.command for tick in log.ticks])
    lost = np.array([bool(tick.events & Event.LOST) for tick in log.ticks])
    speed = np.abs(np.diff(commands, axis=0)).max(axis=1) * robot.rate
    return SimpleNamespace(summary=summary, ticks=log.ticks, times=times, lost=lost, speed=speed, period=1 / robot.rate)


@pytest.fixture(scope="module")
def plain():
    return run(None)


def test_nobody_reacts_unless_it_is_chosen(plain):
    assert not plain.lost.any()
    assert plain.speed[plain.times[1:] > 0.5].min() > 0.2
    assert {tick.doubt for tick in plain.ticks} == {0.0, 1.0}  # it is logged all the same


def test_the_doubt_is_that_of_the_chunk_that_is_executed():
    went = run("hold")
    doubts = np.array([tick.doubt for tick in went.ticks])
    np.testing.assert_array_equal(doubts > 0, went.lost)
    (changes,) = np.nonzero(np.diff(went.lost))
    first, last = went.times[changes + 1]
    assert 1.0 <= first < 1.0 + 0.1 * HORIZONS.action + 0.1
    assert 2.0 <= last < 2.0 + 0.1 * HORIZONS.action + 0.1


def test_a_lost_policy_is_held_until_it_is_sure_again():
    went = run("hold")
    during = went.lost[1:] & (went.times[1:] > went.times[went.lost][0] + 0.2)  # once it has braked
    assert during.sum() > 50
    assert went.speed[during].max() == 0
    assert went.speed[went.times[1:] > 3].min() > 0.2
    assert went.summary.reason == "over"
    assert went.summary.events["LOST"] == went.lost.sum()


def test_a_policy_that_stays_lost_is_stopped_when_patience_is_over():
    went = run("hold", end=np.inf, patience_s=0.5)
    assert went.summary.reason == "stopped for safety"
    assert went.times[-1] < 2.5


def test_a_lost_policy_is_slower():
    went = run("slow")
    during = went.lost[1:] & (went.times[1:] > went.times[went.lost][0] + 0.2)
    assert went.speed[during].min() > 0
    assert went.speed[during].max() <= 0.05 + 1e-9
    assert went.speed[went.times[1:] > 3].max() > 0.2


def test_safety_has_no_lower_speed_above_the_usual_one():
    safety = Safety(LIMITS, 0.01, slow_speed=100.0)
    safety.begin([0.0, 0.0])
    for _ in range(100):
        command, _ = safety([10.0, 0.0], is_slow=True)
    assert command[0] <= 2.0 * 100 * 0.01 + 1e-9


def test_a_session_stops_a_lost_policy():
    went = run("stop", brakes=lambda planned, now: "lost" if planned.doubt.is_alarm else "")
    assert went.summary.reason == "lost"
    assert went.times[-1] < 2.0


def still_after(moment):
    def answer(request):
        now = request.history["moment"][-1, 0]
        moments = np.minimum(now + 0.1 * np.arange(HORIZONS.prediction), moment)
        return np.stack([0.3 * moments, 1 - 0.2 * moments], axis=-1) * 10

    return answer


def test_a_policy_that_stands_still_is_noticed_after_it_has_moved():
    times = []

    def note(planned, now):
        times.append((now, planned.still_s(now)))
        return "still" if planned.still_s(now) > 0.5 else ""

    went = run(None, answer=still_after(1.5), brakes=note)
    assert went.summary.reason == "still"
    assert 1.5 - 0.1 * HORIZONS.prediction * STILL < went.times[-1] - 0.5 < 1.5 + 0.1 * HORIZONS.action + 0.3
    assert all(seconds == 0 for now, seconds in times if now < 1.3)


def test_a_policy_that_has_not_moved_yet_is_not_over():
    went = run(None, answer=still_after(0.0), brakes=lambda planned, now: "still" if planned.still_s(now) > 0.5 else "")
    assert went.summary.reason == "over"
    assert went.times[-1] > 3.5


def test_a_restart_forgets_the_doubt():
    clock = VirtualClock()
    planned = Planned(Doubtful(clock, line, 0, np.inf), AsyncReplace(HORIZONS), on_lost="hold")
    planned.doubt = Doubt(1.0, is_alarm=True)
    planned.restart()
    assert planned.doubt == SURE
