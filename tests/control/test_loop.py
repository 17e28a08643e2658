"""The control loop on a virtual clock: its commands, when anything is late or missing."""

import numpy as np
import pytest
from control_loop import FREE, HORIZONS, SPECIFICATION, Delayed, Ideal, control, line, path
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.configs.components.executions import EXECUTIONS, RealTimeChunkingConfig, TemporalEnsembleConfig
from recede.control.alignment import Alignment
from recede.control.loop import Controller
from recede.control.planned import Planned, interpolate
from recede.control.safety import Event, Limits, Safety
from recede.execution.receding import RecedingHorizon
from recede.realtime import VirtualClock
from recede.robots.interface import Reading
from recede.specification import Horizons, Specification, Stream


def test_readings_are_kept_while_another_stream_is_silent():
    alignment = Alignment(SPECIFICATION)
    for tick in range(1000):  # at 500 Hz, the camera silent from 0.1 s to 1.5 s
        moment = tick / 500
        frame = min(moment, 0.1) if moment < 1.5 else moment
        places = {name: Reading(np.full(size, moment), moment) for name, size in (("moment", 1), ("place", 2))}
        alignment.add({**places, "camera": Reading(np.zeros((2, 2, 3), np.uint8), frame)}, moment)
        values = alignment.at(alignment.time)
        assert values["place"] == pytest.approx(alignment.time, abs=1e-9)
    assert alignment.num_readings("place") <= 1002


OVERLAPPING = ("async_replace", "crossfade", "rtc", "temporal_ensemble")


LATE = [(0.0, 0.0), (0.17, 0.0), (0.0, 0.1), (0.12, 0.085)]


@pytest.mark.parametrize(
    ("execution", "sensor", "actuation"),
    [
        pytest.param(name, *late, marks=[] if name == "async_replace" or all(late) else [pytest.mark.slow])
        for name in OVERLAPPING
        for late in LATE
    ],
)
@pytest.mark.parametrize("inference", [0.0, 0.13, 0.4])
def test_an_action_takes_effect_at_its_planned_moment(execution, inference, sensor, actuation):
    """However late observations, chunks and commands are, the command of now is the plan for now."""
    clock = VirtualClock(7.0)
    robot = Ideal(clock, sensor_delay=sensor, actuation_delay=actuation, camera_dt=0.03)
    planner = Delayed(clock, line, inference)
    summary = control(robot, planner, clock, execution=EXECUTIONS[execution]().build(HORIZONS, delay=4), seconds=12.0)
    begun = next(at for at, action in robot.commands if action.any())
    assert begun == pytest.approx(7 + sensor + inference, abs=0.06)
    for at, action in robot.commands:
        if at > begun + 3.0:  # the robot stood until the first chunk came, and follows it late
            # Blending assumes chunks of one moment; here they are up to one camera frame apart.
            blended = 0.3 * 0.031 if execution in ("crossfade", "temporal_ensemble") else 1e-6
            np.testing.assert_allclose(action, path(at + actuation), atol=blended)
    assert summary.num_ticks == len(robot.commands)
    assert summary.num_late == summary.num_skipped == 0
    assert summary.reason == "over"
    assert robot.is_stopped
    taken = np.array(summary.chunk_s)
    assert ((taken > inference - 1e-9) & (taken < inference + 0.0101)).all()


@pytest.mark.parametrize("rate", [20.0, 100.0])
@pytest.mark.parametrize(("sensor", "actuation"), LATE)
def test_a_request_holds_the_safe_commands_of_past_steps(sensor, actuation, rate):
    """The plan is faster than the limits allow, so the commands in effect at past steps differ from the plan."""
    clock, checked = VirtualClock(), []
    robot = Ideal(clock, rate=rate, sensor_delay=sensor, actuation_delay=actuation, camera_dt=0.01)
    horizons = Horizons(observation=3, prediction=16, action=4)

    def answer(request):
        moment = request.history["moment"][-1, 0]
        if request.prefix is not None:
            assert request.prefix.weights[:2].tolist() == [1, 1]
            checked.append((moment, request.prefix.actions[:2], request.prefix.actions[2]))
        return path(moment + 0.1 * np.arange(-2, 14))

    limits = Limits.of(SPECIFICATION, speed=0.05, acceleration=np.inf, jump=np.inf)
    safety, execution = Safety(limits, 1 / rate), RealTimeChunkingConfig().build(horizons, delay=1)
    control(robot, Delayed(clock, answer, 0.1), clock, execution=execution, safety=safety)
    times = np.array([at + actuation for at, _ in robot.commands])
    actions = np.array([action for _, action in robot.commands])
    assert len(checked) > 5
    for moment, past, planned in checked:
        for index, action in enumerate(past):
            then = moment - 0.1 * (2 - index)
            effective = [np.interp(then, times, column) for column in actions.T]
            np.testing.assert_allclose(action, effective, atol=0.05 * 0.011)
        assert np.abs(planned - past[-1]).max() > 0.05  # the plan is far from the commands


def test_a_robot_that_waits_for_each_chunk_follows_it_from_its_resting_place():
    clock = VirtualClock()
    robot = Ideal(clock)

    def onward(request):
        return request.history["place"][-1] + np.outer(np.arange(HORIZONS.prediction) + 1, [0.01, 0.02])

    control(robot, Delayed(clock, onward, 0.2), clock, execution=RecedingHorizon(HORIZONS))
    moved = np.diff([action[0] for _, action in robot.commands])
    resting = np.flatnonzero(moved == 0)
    assert (moved >= -1e-12).all()
    # A round is 0.4 s of plan and 0.2 s of prediction; the robot moves for 0.3 s, from the first action to the fourth.
    assert 0.4 < 1 - len(resting) / len(moved) < 0.55


@pytest.mark.parametrize("rate", [10.0, 30.0, 100.0])
def test_control_steps_come_once_a_period_at_any_rate(rate):
    clock = VirtualClock()
    robot, moments = Ideal(clock, rate=rate), []

    def answer(request):
        moments.append(request.history["moment"][-1, 0])
        return line(request)

    execution = TemporalEnsembleConfig().build(HORIZONS)
    summary = control(robot, Delayed(clock, answer), clock, execution=execution, seconds=3.0)
    assert summary.num_ticks == pytest.approx(3 * rate, abs=1)
    assert summary.num_steps == pytest.approx(30, abs=2)
    np.testing.assert_allclose(np.diff(moments[1:]), 0.1, atol=1.01 / rate)


def test_a_planner_that_comes_back_is_asked_again():
    clock = VirtualClock()
    robot = Ideal(clock)
    planner = Delayed(clock, line, 0.05, lost=(2.0, 3.9))
    safety = Safety(FREE, 0.01, stale_s=0.2, patience_s=5.0)
    summary = control(robot, planner, clock, safety=safety)
    actions = {round(at, 2): action for at, action in robot.commands}
    np.testing.assert_allclose(actions[2.5], path(2.5), atol=1e-6)  # the plan goes on
    assert np.array_equal(actions[3.7], actions[3.9])  # then the robot is held
    np.testing.assert_allclose(actions[4.5], path(4.5), atol=1e-6)
    assert summary.events[Event.NO_PLAN.name] > 0
    assert summary.reason == "over"


def test_a_planner_that_is_missing_at_first_is_asked_again():
    clock = VirtualClock()
    robot = Ideal(clock)
    summary = control(robot, Delayed(clock, line, 0.05, lost=(0.0, 1.0)), clock)
    assert summary.reason == "over"
    at, action = robot.commands[-1]
    np.testing.assert_allclose(action, path(at), atol=1e-6)
    assert not any(action.any() for at, action in robot.commands if at < 1)


def test_a_planner_that_stays_lost_stops_the_robot_which_can_start_again():
    clock = VirtualClock()
    robot, safety = Ideal(clock), Safety(FREE, 0.01, stale_s=0.2, patience_s=0.5)
    summary = control(robot, Delayed(clock, line, lost=(2.0, 99.0)), clock, safety=safety, seconds=20.0)
    assert summary.reason == "stopped for safety"
    assert robot.is_stopped
    assert 2 + 1.2 + 0.2 + 0.5 < clock.now() < 2 + 1.6 + 0.2 + 0.5 + 0.1
    robot.is_stopped = False
    again = control(robot, Delayed(clock, line), clock, safety=safety, seconds=clock.now() + 1.0)
    assert again.reason == "over"
    np.testing.assert_allclose(robot.commands[-1][1], path(robot.commands[-1][0]), atol=1e-6)


def test_silent_sensors_hold_the_robot_and_then_stop_it():
    clock = VirtualClock()
    robot = Ideal(clock, silent_from=1.0)
    safety = Safety(FREE, 0.01, stale_s=0.3, patience_s=0.5)
    summary = control(robot, Delayed(clock, line), clock, safety=safety, seconds=20.0)
    assert summary.reason == "stopped for safety"
    last = [action for at, action in robot.commands if at > 1.32 + 1e-9]
    assert np.ptp(last, axis=0).max() < 1e-12
    assert summary.events[Event.STALE.name] >= len(last) > 40


def test_a_stream_that_never_comes_is_an_error_before_any_command():
    clock = VirtualClock()
    robot = Ideal(clock, sensor_delay=99.0)
    with pytest.raises(TimeoutError, match=r"2 s.*\['moment', 'place', 'camera'\]"):
        control(robot, Delayed(clock, line), clock, start_s=2.0)
    assert robot.commands == []
    assert robot.is_stopped


def test_a_robot_outside_its_limits_is_an_error_before_any_command():
    clock = VirtualClock()
    robot = Ideal(clock)
    robot.place = np.array([0.0, 11.0])
    with pytest.raises(ValueError, match=r"\[0\.0, 11\.0\]: bring it inside"):
        control(robot, Delayed(clock, line), clock)
    assert robot.commands == []
    assert robot.is_stopped


@pytest.mark.parametrize("jump", [-0.5, 3600.0])
def test_a_jump_of_the_clock_is_an_error_and_stops_the_robot(jump):
    class Jumping(VirtualClock):
        def now(self):
            return super().now() + (jump if super().now() > 1 else 0)

    clock = Jumping()
    robot = Ideal(clock)
    with pytest.raises(ValueError, match="clock"):
        control(robot, Delayed(clock, line), clock)
    assert all(at <= 1.01 for at, _ in robot.commands)
    assert robot.is_stopped


def test_late_ticks_are_counted_and_not_repeated():
    class Busy(VirtualClock):
        def sleep_until(self, moment):
            super().sleep_until(moment + (0.033 if 1 < moment < 1.005 else 0.006 if 2 < moment < 2.005 else 0))

    clock = Busy()
    robot = Ideal(clock)
    summary = control(robot, Delayed(clock, line), clock, seconds=3.0)
    assert summary.num_late == 2
    assert summary.num_skipped == 4
    times = np.array([at for at, _ in robot.commands])
    assert np.diff(times).min() > 0.0049
    for at, action in robot.commands[80:]:  # from the second chunk on
        np.testing.assert_allclose(action, path(at), atol=1e-6)


LIMITS = Limits.of(SPECIFICATION, speed=20.0, acceleration=300.0, jump=5.0, workspace=(-4.0, 6.0))
numbers = st.one_of(st.floats(), st.floats(-7, 7))
worlds = st.fixed_dictionaries(
    {
        "chunks": st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8),
        "inference": st.floats(0, 0.6),
        "sensor": st.floats(0, 0.3),
        "actuation": st.floats(0, 0.2),
        "silent": st.floats(0.3, 4),
        "lost": st.floats(0, 4),
        "away": st.floats(0, 2),
        "execution": st.sampled_from(["receding", *OVERLAPPING]),
    }
)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(worlds)
def test_no_command_outside_the_limits_reaches_the_robot(world):
    clock = VirtualClock()
    robot = Ideal(clock, rate=25.0, sensor_delay=world["sensor"], actuation_delay=world["actuation"])
    robot.silent_from = world["silent"]
    chunks = iter(world["chunks"] * 100)

    def answer(_):
        first, second, slope = next(chunks)
        with np.errstate(all="ignore"):
            return np.stack([first + slope * np.arange(16), second - slope * np.arange(16)], axis=-1)

    planner = Delayed(clock, answer, world["inference"], lost=(world["lost"], world["lost"] + world["away"]))
    safety = Safety(LIMITS, 1 / robot.rate, stale_s=0.5, patience_s=0.5)
    execution = EXECUTIONS[world["execution"]]().build(HORIZONS, delay=4)
    control(robot, planner, clock, execution=execution, safety=safety, seconds=2.0)
    actions = np.array([np.zeros(2), *(action for _, action in robot.commands)])
    velocity = np.diff(actions, axis=0) * robot.rate
    assert np.isfinite(actions).all()
    assert (actions >= -4.0).all()
    assert (actions <= 6.0).all()
    assert (np.abs(velocity) <= 20.0 + 1e-9).all()
    assert (np.abs(np.diff(velocity, axis=0, prepend=0)) * robot.rate <= 300.0 + 1e-6).all()


@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_an_interrupted_robot_brakes_within_its_limits(delay):
    """It is stopped only when its last commands have taken effect, because it moves until then."""
    clock = VirtualClock()
    robot = Ideal(clock, actuation_delay=delay)
    limits = Limits.of(SPECIFICATION, speed=5.0, acceleration=10.0, jump=np.inf)
    planner = Delayed(clock, lambda request: np.full((HORIZONS.prediction, 2), 9.0))
    controller = Controller(
        robot, Planned(planner, EXECUTIONS["async_replace"]().build(HORIZONS)), Safety(limits, 0.01), clock
    )
    summary = controller.run(lambda: False, brakes=lambda: "interrupted" if clock.now() >= 1.0 else "")
    places = np.array([action[0] for _, action in robot.commands])
    speeds = np.diff(places) / 0.01
    assert np.abs(np.diff(speeds)).max() <= 10.0 * 0.01 + 1e-9
    assert speeds[95] > 4
    assert speeds[-1] == 0
    assert clock.now() == pytest.approx(1.0 + 5.0 / 10.0 + delay, abs=0.03)
    assert (summary.reason, robot.is_stopped) == ("interrupted", True)


# --- observations of one moment


def test_an_observation_is_of_the_latest_moment_of_the_slowest_stream():
    alignment = Alignment(SPECIFICATION)
    assert alignment.missing == ["moment", "place", "camera"]
    for step in range(11):
        alignment.add({"moment": Reading(np.array([step / 10]), step / 10)}, 9.0)
    for step in range(3):
        alignment.add({"place": Reading(np.array([step, 0.0]) * 1.0, 0.05 + 0.3 * step)}, 9.0)
    for step in range(5):
        alignment.add({"camera": Reading(np.full((2, 2, 3), step, np.uint8), 0.2 * step + 0.01)}, 9.0)
    assert alignment.missing == []
    assert alignment.time == pytest.approx(0.65)
    observation = alignment.at(alignment.time)
    assert observation["moment"] == pytest.approx(0.65)
    assert observation["place"].tolist() == [2.0, 0.0]
    assert observation["camera"][0, 0, 0] == 3  # captured at 0.61, the nearest
    observation = alignment.at(0.2)
    assert observation["moment"] == pytest.approx(0.2)
    assert observation["place"] == pytest.approx([0.5, 0.0])
    assert observation["camera"][0, 0, 0] == 1
    assert alignment.at(-5.0)["moment"] == 0.0
    assert alignment.at(99.0)["moment"] == 1.0
    alignment.add({"place": Reading(np.array([9.0, 9.0]), 0.3)}, 9.0)  # older than the last one
    assert alignment.at(99.0)["place"].tolist() == [2.0, 0.0]
    alignment.reset()
    assert alignment.missing == ["moment", "place", "camera"]


def test_readings_are_copied():
    alignment, value = Alignment(SPECIFICATION), np.array([1.0, 2.0])
    alignment.add({"place": Reading(value, 0.0), "moment": Reading(np.zeros(1), 0.0)}, 9.0)
    value[:] = np.nan
    alignment.add({"camera": Reading(np.zeros((2, 2, 3), np.uint8), 0.0)}, 9.0)
    assert alignment.at(0.0)["place"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("place", np.zeros(3), r"'place'.*\(2,\).*\(3,\)"),
        ("place", np.zeros(2, np.float32), "'place'.*float64.*float32"),
        ("plaice", np.zeros(2), r"\['camera', 'moment', 'place'\].*'plaice'"),
    ],
)
def test_readings_of_another_shape_dtype_or_name_are_refused(name, value, error):
    with pytest.raises(ValueError, match=error):
        Alignment(SPECIFICATION).add({name: Reading(value, 0.0)}, 9.0)


def bounded():
    place = Stream("place", (2,), "float64", low=(-1.0, 0.0), high=(1.0, 0.5))
    return Specification((place,), Stream("action", (2,), low=-1.0, high=1.0), 0.1)


@given(st.lists(st.tuples(st.floats(), st.floats(), st.floats(), st.booleans()), max_size=20))
def test_no_hostile_reading_is_acted_on_or_hides_a_right_one(hostile):
    """Right readings come at each moment; before them any reading, now and then within the limits but of any time."""
    alignment, right = Alignment(bounded()), np.array([0.5, 0.25])
    for step, (time, first, second, is_sane) in enumerate(hostile, start=1):
        now = 0.1 * step
        value = np.array([0.9, 0.1] if is_sane else [first, second])
        is_right = -np.inf < time <= now + 1e-6 and (abs(value[0]) <= 1.02 and -0.005 <= value[1] <= 0.505)
        refused = alignment.add({"place": Reading(value, time)}, now)
        assert bool(refused) == (not is_right)
        assert alignment.add({"place": Reading(right, now + 1e-6)}, now) == {}
        assert alignment.time == pytest.approx(now, abs=2e-6)
        assert alignment.at(now + 1)["place"].tolist() == right.tolist()


@pytest.mark.parametrize("name", ["read", "command"])
def test_a_driver_that_waits_is_named(name):
    clock, robot = (clock := VirtualClock()), Ideal(clock)
    method = getattr(robot, name)

    def waiting(*arguments):
        if 1 <= clock.now() < 1.5:
            clock.sleep_until(clock.now() + 2)
        return method(*arguments)

    waiting.__name__ = name
    setattr(robot, name, waiting)
    with pytest.raises(ValueError, match=rf"the robot's {name}\(\) must return at once, but took 2 s"):
        control(robot, Delayed(clock, line), clock)
    assert robot.is_stopped


class Faulty(Ideal):
    """A robot whose place is `change`d in every reading from 1 s to `until`."""

    specification = Specification(
        (SPECIFICATION.observations[0], Stream("place", (2,), "float64", low=-10.0, high=10.0)),
        SPECIFICATION.action,
        SPECIFICATION.control_dt,
    )

    def __init__(self, clock, change, until):
        super().__init__(clock)
        self.change, self.until = change, until

    def read(self):
        readings = super().read()
        del readings["camera"]
        if 1 <= self.clock.now() < self.until:
            readings["place"] = self.change(readings["place"])
        return readings


FAULTS = {
    "the future": lambda reading: reading._replace(time=reading.time + 1e5),
    "never": lambda reading: reading._replace(time=np.inf),
    "no time": lambda reading: reading._replace(time=np.nan),
    "outside its limits": lambda reading: reading._replace(value=np.array([1e6, 0.0])),
    "infinite": lambda reading: reading._replace(value=np.array([0.0, np.inf])),
    "not a number": lambda reading: reading._replace(value=np.array([0.0, np.nan])),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_reading_is_counted_and_its_stream_grows_stale_and_comes_back(name):
    clock = VirtualClock()
    robot, safety = Faulty(clock, FAULTS[name], until=2.0), Safety(FREE, 0.01, stale_s=0.3, patience_s=5.0)
    summary = control(robot, Delayed(clock, line), clock, safety=safety, seconds=4.0)
    assert summary.reason == "over"
    assert summary.events["BAD_READING"] == pytest.approx(100, abs=2)
    assert summary.events["STALE"] == pytest.approx(70, abs=2)
    np.testing.assert_allclose(robot.commands[-1][1], path(clock.now()), atol=0.01)


@pytest.mark.parametrize("name", FAULTS)
def test_a_sensor_that_stays_bad_stops_the_robot(name):
    clock = VirtualClock()
    robot, safety = Faulty(clock, FAULTS[name], until=np.inf), Safety(FREE, 0.01, stale_s=0.3, patience_s=0.5)
    summary = control(robot, Delayed(clock, line), clock, safety=safety, seconds=9.0)
    assert summary.reason == "stopped for safety"
    assert summary.refused.startswith("'place': it")
    assert clock.now() == pytest.approx(1.8, abs=0.05)


def test_a_robot_with_bad_readings_alone_is_an_error_that_says_why():
    clock = VirtualClock(1.0)
    robot = Faulty(clock, FAULTS["outside its limits"], until=np.inf)
    with pytest.raises(TimeoutError, match=r"\['place'\].*1000000\.0.*convert its units"):
        control(robot, Delayed(clock, line), clock, start_s=1.0)
    assert robot.commands == []


@pytest.mark.parametrize("age", [-5.0, -np.inf, np.nan, 0.6, np.inf])
def test_an_age_that_is_not_between_now_and_the_oldest_is_stale(age):
    safety = Safety(FREE, 0.01, stale_s=0.5)
    safety.begin([0.0, 0.0])
    assert Event.STALE in safety([1.0, 1.0], age_s=age).events
    assert Event.STALE not in safety([1.0, 1.0], age_s=-1e-7).events


def test_planned_actions_are_interpolated():
    planned = np.array([[0.0, 1.0], [1.0, 1.0], [5.0, 0.0]])
    assert interpolate(planned, 0.0).tolist() == [0.0, 1.0]
    assert interpolate(planned, 1.5).tolist() == [3.0, 0.5]
    assert interpolate(planned, -1.0).tolist() == [0.0, 1.0]
    assert interpolate(planned, 2.0).tolist() == interpolate(planned, 77.3).tolist() == [5.0, 0.0]
