"""Safety: whatever is planned, nothing outside the limits is commanded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recede.control.safety import HELD, Event, Limits, Safety, limited
from recede.specification import Specification, Stream

SIZE = 3
LOW, HIGH = np.array([-1.0, 0.0, 100.0]), np.array([1.0, 0.5, 300.0])
LIMITS = Limits(LOW, HIGH, speed=[1.0, 0.2, 400.0], acceleration=[5.0, 3.0, 1e4], jump=[3.0, 3.0, 3e3])
DT = 0.01
TIGHT = Limits(LOW, HIGH, speed=[1.0, 0.2, 400.0], acceleration=[5.0, 3.0, 1e4], jump=[0.1, 0.05, 20.0])
FREE = Limits(LOW, HIGH, *([np.inf] * SIZE for _ in range(3)))
STILL = np.zeros(SIZE)


def assert_within(command, last, velocity, limits, dt):
    """Position exactly; speed and acceleration up to rounding."""
    assert np.isfinite(command).all()
    assert (command >= limits.low).all()
    assert (command <= limits.high).all()
    now = (command - last) / dt
    rounding = 1e-12 * (np.abs(limits.high) + np.abs(limits.low)) / dt
    assert (np.abs(now) <= limits.speed + rounding).all()
    assert (np.abs(now - velocity) <= limits.acceleration * dt + 2 * rounding).all()


def adversarial(rng, count):
    """Targets that push: limits, infinities, no numbers, changes of side in every step, all mixed."""
    kind = rng.integers(0, 6, size=(count, SIZE))
    side = rng.choice([-1.0, 1.0], size=(count, SIZE))
    target = np.where(kind == 0, rng.uniform(LOW, HIGH, size=(count, SIZE)), 0.0)
    target = np.where(kind == 1, np.where(side > 0, HIGH, LOW), target)
    target = np.where(kind == 2, side * 1e300, target)
    target = np.where(kind == 3, rng.choice([np.nan, np.inf, -np.inf], size=(count, SIZE)), target)
    target = np.where(kind == 4, LOW + (HIGH - LOW) * (0.5 + side * rng.exponential(size=(count, SIZE))), target)
    return np.where(kind == 5, np.nextafter(np.where(side > 0, HIGH, LOW), side * np.inf), target)


def test_velocities_are_refused():
    """Braking to hold a velocity would go on moving the robot."""
    action = Stream("action", (2,), low=-1, high=1, hold=("last", "zero"))
    specification = Specification((Stream("joints", (2,)),), action, 0.1)
    with pytest.raises(
        ValueError, match=r"the action must be positions .* got hold=\['last', 'zero'\]: integrate velo"
    ):
        Limits.of(specification, speed=1, acceleration=1, jump=1)


@pytest.mark.parametrize("limits", [LIMITS, TIGHT, FREE], ids=["jumps", "no jumps", "positions alone"])
@pytest.mark.parametrize("dt", [0.002, 0.01, 0.1])
def test_a_million_commands_stay_within_the_limits(limits, dt):
    """A thousand robots at once, each pushed around 120 times; nine of these are a million."""
    rng = np.random.default_rng(0)
    last = rng.uniform(LOW, HIGH, size=(1000, SIZE))
    velocity = np.zeros_like(last)
    for step in range(120):
        target = adversarial(rng, 1000)
        target[:500] = np.where(step // 20 % 2, HIGH, LOW) if step % 7 else target[:500]  # full speed, then back
        near = last + rng.normal(size=last.shape) * 0.05 * (HIGH - LOW)
        target[250:750] = near[250:750]
        found = limited(target, last, velocity, limits, dt)
        assert_within(found.command, last, velocity, limits, dt)
        last, velocity = found.command, found.velocity


def test_a_million_chunks_in_one_batch_stay_within_the_limits():
    rng = np.random.default_rng(1)
    last, velocity = rng.uniform(LOW, HIGH, size=(1_000_000, SIZE)), np.zeros((1_000_000, SIZE))
    for _ in range(8):
        found = limited(adversarial(rng, 1_000_000), last, velocity, LIMITS, 0.05)
        assert_within(found.command, last, velocity, LIMITS, 0.05)
        last, velocity = found.command, found.velocity


def test_rows_are_limited_alone():
    rng = np.random.default_rng(2)
    target, last = adversarial(rng, 50), rng.uniform(LOW, HIGH, size=(50, SIZE))
    velocity = rng.uniform(-0.1, 0.1, size=(50, SIZE))
    together = limited(
        target.reshape(5, 10, SIZE), last.reshape(5, 10, SIZE), velocity.reshape(5, 10, SIZE), LIMITS, DT
    )
    for row in range(50):
        alone = limited(target[row], last[row], velocity[row], LIMITS, DT)
        assert np.array_equal(alone.command, together.command.reshape(50, SIZE)[row])
        assert alone.events == together.events.reshape(50)[row]


numbers = st.one_of(st.floats(), st.floats(-2, 2), st.floats(90, 310))
situations = st.lists(
    st.one_of(
        st.tuples(st.lists(numbers, min_size=SIZE, max_size=SIZE), st.floats(0, 1)),
        st.tuples(st.none(), st.floats()),
        st.just("stop"),
        st.just("begin"),
    ),
    max_size=60,
)


@given(situations)
def test_whatever_happens_nothing_outside_the_limits_is_commanded(happening):
    safety = Safety(LIMITS, DT, stale_s=0.5, patience_s=0.1)
    safety.begin((LOW + HIGH) / 2)
    last, velocity = (LOW + HIGH) / 2, STILL
    for what in happening:
        if what == "stop":
            safety.stop()
        elif what == "begin":
            safety.begin(last)
            velocity = STILL
        else:
            was_stopped = safety.is_stopped
            command, events = safety(what[0], age_s=what[1])
            assert_within(command, last, velocity, LIMITS, DT)
            braked = velocity - np.clip(velocity, -LIMITS.acceleration * DT, LIMITS.acceleration * DT)
            if was_stopped or events & HELD:
                np.testing.assert_allclose((command - last) / DT, braked, atol=1e-9)
            assert safety.is_stopped or not was_stopped
            last, velocity = command, (command - last) / DT


def settle(target, *, limits=LIMITS, start=None, steps=2000):
    """Where a target that stays leads, and on which way."""
    last = np.array((LOW + HIGH) / 2 if start is None else start)
    way, velocity = [last], STILL
    for _ in range(steps):
        last, velocity, events = limited(target, last, velocity, limits, DT)
        way.append(last)
    return np.stack(way), events


@pytest.mark.parametrize("target", [LOW, HIGH, (LOW + 2 * HIGH) / 3])
def test_a_target_within_the_limits_is_reached_exactly(target):
    way, events = settle(target)
    np.testing.assert_allclose(way[-1], target, rtol=1e-9, atol=1e-12)
    assert events == 0


def test_the_way_to_a_limit_is_about_as_quick_as_can_be():
    """Accelerate, go at the highest speed, brake: in the time of the closed form, and a few steps."""
    way, _ = settle(HIGH, start=LOW)
    distance, speed, acceleration = HIGH - LOW, LIMITS.speed, LIMITS.acceleration
    best = distance / speed + speed / acceleration
    taken = [np.argmax(np.abs(way[:, axis] - HIGH[axis]) < 1e-3 * distance[axis]) * DT for axis in range(SIZE)]
    assert (np.array(taken) <= best + 0.12).all()
    assert (np.abs(np.diff(way, axis=0)).max(axis=0) >= 0.999 * speed * DT).all()


def test_a_target_beyond_a_limit_leads_to_the_limit_and_no_further():
    way, events = settle(HIGH + (HIGH - LOW))
    np.testing.assert_allclose(way[-1], HIGH, rtol=1e-9)
    assert (way <= HIGH).all()
    assert events == Event.POSITION


def test_without_limits_but_positions_every_target_is_commanded_at_once():
    rng = np.random.default_rng(0)
    last, target = rng.uniform(LOW, HIGH, size=(2, 20, SIZE))
    found = limited(target, last, np.zeros_like(last), FREE, DT)
    np.testing.assert_allclose(found.command, target, rtol=1e-12)
    assert not found.events.any()


@pytest.mark.parametrize(
    ("target", "limits", "events"),
    [
        ([0.0, 0.25, 200.0], LIMITS, Event(0)),
        ([0.0, 0.25, 400.0], LIMITS, Event.POSITION | Event.SPEED | Event.ACCELERATION),
        ([0.0, 0.25, 200.5], LIMITS, Event(0)),
        ([0.0, 0.25, 202.0], LIMITS, Event.ACCELERATION),
        ([0.0, 0.25, 205.0], LIMITS, Event.SPEED | Event.ACCELERATION),
        ([0.0, np.nan, 200.0], LIMITS, Event.NOT_FINITE),
        ([-np.inf, 0.25, 200.0], LIMITS, Event.NOT_FINITE),
        ([0.0, 0.25, 221.0], TIGHT, Event.JUMP),
        ([0.2, np.nan, 200.0], TIGHT, Event.JUMP | Event.NOT_FINITE),
    ],
)
def test_events_say_what_was_done(target, limits, events):
    found = limited(target, (LOW + HIGH) / 2, STILL, limits, DT)
    assert Event(int(found.events)) == events
    if events & HELD:
        assert np.array_equal(found.command, (LOW + HIGH) / 2)


def started(**options):
    safety = Safety(LIMITS, DT, **options)
    safety.begin((LOW + HIGH) / 2)
    return safety


def test_a_robot_without_news_is_held_then_stopped_and_begins_again_from_where_it_is():
    safety = started(stale_s=0.05, patience_s=0.03)
    for _ in range(20):
        moving, _ = safety(HIGH)
    assert safety(HIGH, age_s=0.051).events == Event.STALE
    assert safety(HIGH, age_s=float("nan")).events == Event.STALE
    assert safety(HIGH, age_s=0.049).events & HELD == 0  # it goes on, and patience is as new
    assert safety(None).events == Event.NO_PLAN
    assert [bool(safety(None).events & Event.STOPPED) for _ in range(4)] == [False, False, True, True]
    assert safety.is_stopped
    for _ in range(200):
        rest, events = safety(HIGH)
        assert events == Event.STOPPED
    assert np.array_equal(safety(HIGH).command, rest)  # braked, and held
    assert (rest > moving).all()
    safety.begin(rest)
    assert not safety.is_stopped
    assert (safety(HIGH).command > rest).all()


def test_a_verdict_may_be_written_to():
    safety = started()
    first = safety(HIGH).command
    expected = first.copy()
    first[:] = np.nan
    assert np.isfinite(safety(expected).command).all()


@pytest.mark.parametrize("position", [[0.0, 0.6, 200.0], [0.0, np.nan, 200.0], [0.0, 0.3]])
def test_a_robot_that_is_outside_is_not_started(position):
    safety = Safety(LIMITS, DT)
    with pytest.raises(RuntimeError, match=r"begin\(\) from where the robot is"):
        safety(HIGH)
    with pytest.raises(ValueError, match=r"must begin within its limits.*bring it inside first"):
        safety.begin(position)


STICK = Specification((Stream("stick", (2,)),), Stream("action", (2,), low=(-1, 0), high=(1, 5)), control_dt=0.1)


def test_limits_are_those_of_the_action_and_of_the_workspace_within_them():
    rest = {"speed": 1.0, "acceleration": [2.0, 3.0], "jump": np.inf}
    limits = Limits.of(STICK, **rest)
    assert [limits.low.tolist(), limits.high.tolist()] == [[-1, 0], [1, 5]]
    assert [limits.speed.tolist(), limits.acceleration.tolist()] == [[1, 1], [2, 3]]
    inner = Limits.of(STICK, workspace=([-0.5, 1], 0.9 * np.array([1, 5])), **rest)
    assert [inner.low.tolist(), inner.high.tolist()] == [[-0.5, 1], [0.9, 4.5]]
    with pytest.raises(ValueError, match=r"the workspace must lie within the limits of the action.*got \[-2"):
        Limits.of(STICK, workspace=(-2, 0.5), **rest)
    free = Specification(STICK.observations, Stream("action", (2,)), control_dt=0.1)
    with pytest.raises(ValueError, match="the action must have limits to be commanded to a robot"):
        Limits.of(free, **rest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"low": [2.0, 0.0]}, "low must lie below high"),
        ({"speed": [1.0, 0.0]}, "speed must be above 0 in every dimension"),
        ({"jump": [1.0]}, "jump must be one number for each dimension"),
        ({"acceleration": [1.0, np.nan]}, "acceleration must be one number for each dimension"),
    ],
)
def test_impossible_limits_are_refused(change, said):
    values = {
        "low": [0.0, 0.0],
        "high": [1.0, 1.0],
        "speed": [1.0, 1.0],
        "acceleration": [1.0, 1.0],
        "jump": [1.0, 1.0],
    }
    with pytest.raises(ValueError, match=said):
        Limits(**values | change)


@pytest.mark.parametrize("options", [{"dt": 0}, {"stale_s": 0}, {"patience_s": -1}])
def test_impossible_times_are_refused(options):
    with pytest.raises(ValueError, match="dt, stale_s and patience_s must be above 0"):
        Safety(LIMITS, **{"dt": DT} | options)
