"""The clutch: whatever the input says, the robot never jumps."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recede.control.led import Approach, Led
from recede.control.loop import Commanded, Situation, Summary
from recede.control.safety import Limits, Safety
from recede.robots.interface import Reading
from recede.specification import Specification, Stream
from recede.teleoperation.axes import Axes
from recede.teleoperation.clutch import Clutch

ACTION = Stream("action", (2,), labels=("x", "y"), low=(-1.0, 0.0), high=(1.0, 4.0))
LOW, RANGE = np.array(ACTION.low), np.array([2.0, 4.0])
NEAR, STEP, STALE = 0.05, 0.2, 0.5


def clutch(kind, **options):
    return Clutch(kind, Axes(("x", "y"), ACTION), **{"near": NEAR, "step": STEP, "stale_s": STALE} | options)


values = st.tuples(*[st.one_of(st.floats(-3, 6), st.sampled_from([np.nan, np.inf, 1e300, -1e300]))] * 2)
events = st.lists(
    st.one_of(
        st.none(),
        st.tuples(values, st.sampled_from([0.0, 0.01, 0.4, 0.6, -1.0])),  # an age, s
        st.tuples(st.just("near"), st.just(0.0)),
        st.tuples(st.just("same"), st.just(0.0)),
    ),
    max_size=60,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["absolute", "relative", "velocity"]),
    events=events,
    gains=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_robot_never_jumps(kind, events, gains):
    """With robots that follow at once, slowly or not at all."""
    tested, last, before, now, value = clutch(kind), LOW + 0.4 * RANGE, None, 10.0, np.zeros(2)
    for event in events:
        now += 0.01
        reading = None
        if event is not None:
            value = {"near": last + 0.01, "same": value}[event[0]] if isinstance(event[0], str) else np.array(event[0])
            reading = Reading(value, now - event[1])
        target = tested.target(reading, last, now)
        assert tested.is_closed == (target is not None)
        if target is None:
            before = None
            continue
        assert ((target >= ACTION.low) & (target <= ACTION.high)).all()
        if kind == "velocity":
            assert (np.abs(target - last) <= STEP * RANGE + 1e-9).all()
        elif before is None:
            assert (np.abs(target - last) <= NEAR * RANGE + 1e-9).all()
        else:
            assert (np.abs(target - before) <= STEP * RANGE + 1e-9).all()
        before = target
        last = last + gains * (target - last)


def test_an_absolute_input_is_followed_only_from_near_the_robot():
    tested, last = clutch("absolute"), np.array([0.0, 1.0])
    assert tested.target(Reading(np.array([0.3, 1.0]), 0.0), last, 0.0) is None
    assert "action.x" in tested.why
    assert "0.3" in tested.why
    np.testing.assert_array_equal(tested.target(Reading(np.array([0.09, 1.1]), 0.0), last, 0.0), [0.09, 1.1])
    assert tested.why == ""
    np.testing.assert_array_equal(tested.target(Reading(np.array([0.4, 1.5]), 0.1), last, 0.1), [0.4, 1.5])


def test_a_relative_input_counts_from_where_it_is_taken():
    tested, last = clutch("relative"), np.array([0.0, 1.0])
    np.testing.assert_array_equal(tested.target(Reading(np.array([70.0, -8.0]), 0.0), last, 0.0), last)
    np.testing.assert_allclose(tested.target(Reading(np.array([70.2, -8.1]), 0.1), last, 0.1), [0.2, 0.9])
    assert tested.target(None, last, 0.2) is None
    np.testing.assert_array_equal(tested.target(Reading(np.array([0.0, 0.0]), 0.3), last, 0.3), last)


def test_a_way_beyond_a_limit_does_not_count():
    tested, last = clutch("relative"), np.array([0.9, 1.0])
    for moved, expected in ((0.0, 0.9), (0.3, 1.0), (0.6, 1.0), (0.5, 0.9), (0.4, 0.8)):
        target = tested.target(Reading(np.array([moved, 0.0]), 0.0), last, 0.0)
        assert target == pytest.approx([expected, 1.0])


def test_a_velocity_moves_the_target_with_time():
    tested, last, now = clutch("velocity"), np.array([0.0, 1.0]), 0.0
    for _ in range(11):
        target = tested.target(Reading(np.array([0.5, -1.0]), now), last, now)
        last, now = target, now + 0.05
    np.testing.assert_allclose(target, [0.25, 0.5])
    still = tested.target(Reading(np.zeros(2), now), last, now)
    np.testing.assert_allclose(still, target)
    after_a_pause = tested.target(Reading(np.array([0.5, 0.0]), now + 60), last, now + 60)
    np.testing.assert_allclose(after_a_pause - target, [0.05, 0.0])  # a tenth of a second at most


def test_one_lost_or_wrong_packet_ends_nothing():
    tested, last = clutch("absolute"), np.array([0.0, 1.0])
    assert tested.target(Reading(np.array([0.0, 1.0]), 0.0), last, 0.0) is not None
    assert tested.target(Reading(np.array([0.0, 1.0]), 0.0), last, 0.4) is not None  # lost packets
    assert tested.target(Reading(np.array([0.9, 1.0]), 0.41), last, 0.41) is None
    assert "jumped" in tested.why
    assert tested.target(Reading(np.array([0.01, 1.0]), 0.42), last, 0.42) is not None


def test_a_silent_input_opens_the_clutch():
    tested, last = clutch("velocity"), np.array([0.0, 1.0])
    assert tested.target(Reading(np.ones(2), 0.0), last, 0.0) is not None
    assert tested.target(Reading(np.ones(2), 0.0), last, 0.51) is None
    assert "silent for 0.5 s" in tested.why
    assert tested.target(Reading(np.ones(2), 2.0), last, 1.0) is None
    assert "use one clock" in tested.why


@pytest.mark.parametrize(
    ("drives", "scale", "expected"),
    [
        (None, 1.0, [1, 2]),
        (["y", "-x"], 1.0, [2, -1]),
        (["none", "z"], (3.0, 0.5), [0, 1.5]),
        (["-z", "z"], 2.0, [-6, 6]),
    ],
)
def test_axes_drive_dimensions(drives, scale, expected):
    axes = Axes(("z", "x", "y"), ACTION, drives=drives, scale=scale)
    np.testing.assert_array_equal(axes([3.0, 1.0, 2.0]), expected)
    unlabelled = Axes(("a", "b", "c"), Stream("action", (2,)))
    np.testing.assert_array_equal(unlabelled([3.0, 1.0, 2.0]), [3, 1])  # in order
    assert np.isnan(axes([np.nan] * 3)).tolist() == axes.is_driven.tolist()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Axes(("x",), ACTION), r"each of the 2 dimensions .*x, y.*got \['x'\]"),
        (lambda: Axes(("x", "y"), ACTION, drives=["x", "yy"]), "'yy': did you mean 'y'"),
        (lambda: Axes(("x", "y"), ACTION, scale=(1, 2, 3)), "scale must be one number, or 2"),
        (lambda: Axes(("x", "y"), ACTION)([1.0]), r"2 axes .* got shape \(1,\)"),
        (lambda: clutch("absolut"), "did you mean 'absolute'"),
        (lambda: clutch("absolute", near=0), "near must be above 0"),
        (lambda: clutch("absolute", step=(1, 1, 1)), "step must be above 0, one number or 2"),
        (lambda: Clutch("relative", Axes("xy", Stream("action", (2,))), near=1, step=1, stale_s=1), "low and high"),
        (lambda: Clutch("absolute", Axes("xy", ACTION, drives=["x", "none"]), near=1, step=1, stale_s=1), "for each"),
    ],
)
def test_impossible_inputs_are_refused(make, error):
    with pytest.raises(ValueError, match=error):
        make()


# --- as leads


def situation(acceleration=10.0):
    specification = Specification((Stream("place", (2,)),), ACTION, 0.1)
    safety = Safety(Limits.of(specification, speed=2.0, acceleration=acceleration, jump=np.inf), 0.01)
    safety.begin([0.0, 1.0])
    return Situation(None, safety, Commanded(), Summary(), 0.1, 0.0)


class Hand:
    kind, axes = "velocity", ("x", "y")

    def __init__(self):
        self.value: np.ndarray | None = np.array([1.5, 0.0])
        self.error = None

    def read(self, now):
        if self.error:
            raise self.error
        return None if self.value is None else Reading(self.value, now)


@pytest.mark.parametrize("end", ["let go", "error"])
def test_a_robot_that_is_let_go_brakes_and_never_turns_back(end):
    hand, here = Hand(), situation()
    lead = Led(hand, clutch("velocity", step=1.0))
    lead.begin(here)
    places = []
    for tick in range(120):
        if tick == 40 and end == "let go":
            hand.value = None
        elif tick == 40:
            hand.error = ConnectionError("unplugged")
        places.append(here.safety(lead.target(tick / 100).position).command[0])
    moves = np.diff(places)
    assert moves[38] > 0.01
    assert (moves >= 0).all()
    assert moves[-1] == 0
    assert not here.safety.is_stopped
    assert lead.is_led is False
    assert lead.fault is hand.error
    assert ("unplugged" in lead.clutch.why) == (end == "error")


@pytest.mark.parametrize("acceleration", [0.5, 10.0])
@pytest.mark.parametrize(("speed", "seconds"), [(9.0, 1.0), (0.25, 2.0)])
def test_an_approach_is_slow_and_ends_at_rest_at_its_pose(speed, seconds, acceleration):
    here, lead, places = situation(acceleration), Approach([0.8, 3.0], speed), []
    lead.begin(here)
    while not lead.is_there:
        places.append(here.safety(lead.target(0.0).position).command / RANGE)
        assert len(places) < 2000
    np.testing.assert_allclose(here.safety.last, [0.8, 3.0], atol=1e-5)
    assert np.abs(np.diff(places, axis=0)).max() <= 0.01 * min(speed, 1.0) + 1e-9  # safety allows 2 units a second
    assert len(places) >= 100 * seconds
    assert np.max(places, axis=0) == pytest.approx([0.4, 0.75], abs=1e-3)  # it does not go beyond
