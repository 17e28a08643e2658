"""Safety: whatever the plan is, no command is outside the limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recede.control.safety import HELD, Event, Limits, Safety, next_command
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
    """Hostile targets: limits, infinities, NaN, changes of side in every step, all mixed."""
    kind = rng.integers(0, 6, size=(count, SIZE))
    side = rng.choice([-1.0, 1.0], size=(count, SIZE))
    target = np.where(kind == 0, rng.uniform(LOW, HIGH, size=(count, SIZE)), 0.0)
    target = np.where(kind == 1, np.where(side > 0, HIGH, LOW), target)
    target = np.where(kind == 2, side * 1e300, target)
    target = np.where(kind == 3, rng.choice([np.nan, np.inf, -np.inf], size=(count, SIZE)), target)
    target = np.where(kind == 4, LOW + (HIGH - LOW) * (0.5 + side * rng.exponential(size=(count, SIZE))), target)
    return np.where(kind == 5, np.nextafter(np.where(side > 0, HIGH, LOW), side * np.inf), target)


def test_velocities_are_refused():
    """A held velocity would go on moving the robot."""
    action = Stream("action", (2,), low=-1, high=1, hold=("last", "zero"))
    specification = Specification((Stream("joints", (2,)),), action, 0.1)
    with pytest.raises(ValueError, match=r"hold=\['last', 'zero'\]: integrate"):
        Limits.of(specification, speed=1, acceleration=1, jump=1)


@pytest.mark.parametrize("limits", [LIMITS, TIGHT, FREE], ids=["jumps", "no jumps", "positions alone"])
@pytest.mark.parametrize("dt", [0.002, 0.01, 0.1])
def test_a_million_commands_stay_within_the_limits(limits, dt):
    """A thousand robots at once, 120 targets each; the nine cases together make a million."""
    rng = np.random.default_rng(0)
    last = rng.uniform(LOW, HIGH, size=(1000, SIZE))
    velocity = np.zeros_like(last)
    for step in range(120):
        target = adversarial(rng, 1000)
        target[:500] = np.where(step // 20 % 2, HIGH, LOW) if step % 7 else target[:500]  # full speed, then back
        near = last + rng.normal(size=last.shape) * 0.05 * (HIGH - LOW)
        target[250:750] = near[250:750]
        limited = next_command(target, last, velocity, limits, dt)
        assert_within(limited.command, last, velocity, limits, dt)
        last, velocity = limited.command, limited.velocity


@pytest.mark.slow
def test_a_million_chunks_in_one_batch_stay_within_the_limits():
    rng = np.random.default_rng(1)
    last, velocity = rng.uniform(LOW, HIGH, size=(1_000_000, SIZE)), np.zeros((1_000_000, SIZE))
    for _ in range(8):
        limited = next_command(adversarial(rng, 1_000_000), last, velocity, LIMITS, 0.05)
        assert_within(limited.command, last, velocity, LIMITS, 0.05)
        last, velocity = limited.command, limited.velocity


def test_rows_are_limited_independently():
    rng = np.random.default_rng(2)
    target, last = adversarial(rng, 50), rng.uniform(LOW, HIGH, size=(50, SIZE))
    velocity = rng.uniform(-0.1, 0.1, size=(50, SIZE))
    batch = next_command(
        target.reshape(5, 10, SIZE), last.reshape(5, 10, SIZE), velocity.reshape(5, 10, SIZE), LIMITS, DT
    )
    for row in range(50):
        alone = next_command(target[row], last[row], velocity[row], LIMITS, DT)
        assert np.array_equal(alone.command, batch.command.reshape(50, SIZE)[row])
        assert alone.events == batch.events.reshape(50)[row]


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
def test_no_sequence_of_events_leads_to_a_command_outside_the_limits(events_in_turn):
    safety = Safety(LIMITS, DT, stale_s=0.5, patience_s=0.1)
    safety.begin((LOW + HIGH) / 2)
    last, velocity = (LOW + HIGH) / 2, STILL
    for situation in events_in_turn:
        if situation == "stop":
            safety.stop()
        elif situation == "begin":
            safety.begin(last)
            velocity = STILL
        else:
            was_stopped = safety.is_stopped
            command, events = safety(situation[0], age_s=situation[1])
            assert_within(command, last, velocity, LIMITS, DT)
            braked = velocity - np.clip(velocity, -LIMITS.acceleration * DT, LIMITS.acceleration * DT)
            if was_stopped or events & HELD:
                np.testing.assert_allclose((command - last) / DT, braked, atol=1e-9)
            assert safety.is_stopped or not was_stopped
            last, velocity = command, (command - last) / DT


def settle(target, *, limits=LIMITS, start=None, steps=2000):
    """The path towards a constant target, and the last events."""
    last = np.array((LOW + HIGH) / 2 if start is None else start)
    way, velocity = [last], STILL
    for _ in range(steps):
        last, velocity, events = next_command(target, last, velocity, limits, DT)
        way.append(last)
    return np.stack(way), events


@pytest.mark.parametrize("target", [LOW, HIGH, (LOW + 2 * HIGH) / 3])
def test_a_target_within_the_limits_is_reached_exactly(target):
    way, events = settle(target)
    np.testing.assert_allclose(way[-1], target, rtol=1e-9, atol=1e-12)
    assert events == 0


def test_the_way_to_a_limit_is_nearly_time_optimal():
    """Accelerate, move at the highest speed, brake: the time of the closed form plus a few steps."""
    way, _ = settle(HIGH, start=LOW)
    distance, speed, acceleration = HIGH - LOW, LIMITS.speed, LIMITS.acceleration
    best = distance / speed + speed / acceleration
    taken = [np.argmax(np.abs(way[:, axis] - HIGH[axis]) < 1e-3 * distance[axis]) * DT for axis in range(SIZE)]
    assert (np.array(taken) <= best + 0.12).all()
    assert (np.abs(np.diff(way, axis=0)).max(axis=0) >= 0.999 * speed * DT).all()


def test_a_target_beyond_a_limit_leads_to_the_limit():
    way, events = settle(HIGH + (HIGH - LOW))
    np.testing.assert_allclose(way[-1], HIGH, rtol=1e-9)
    assert (way <= HIGH).all()
    assert events == Event.POSITION


def test_with_position_limits_alone_every_target_is_commanded_at_once():
    rng = np.random.default_rng(0)
    last, target = rng.uniform(LOW, HIGH, size=(2, 20, SIZE))
    limited = next_command(target, last, np.zeros_like(last), FREE, DT)
    np.testing.assert_allclose(limited.command, target, rtol=1e-12)
    assert not limited.events.any()


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
def test_events_name_the_limits_that_changed_a_command(target, limits, events):
    limited = next_command(target, (LOW + HIGH) / 2, STILL, limits, DT)
    assert Event(int(limited.events)) == events
    if events & HELD:
        assert np.array_equal(limited.command, (LOW + HIGH) / 2)


def started(**options):
    safety = Safety(LIMITS, DT, **options)
    safety.begin((LOW + HIGH) / 2)
    return safety


def test_a_robot_without_fresh_observations_is_held_then_stopped_and_can_begin_again():
    safety = started(stale_s=0.05, patience_s=0.03)
    for _ in range(20):
        moving, _ = safety(HIGH)
    assert safety(HIGH, age_s=0.051).events == Event.STALE
    assert safety(HIGH, age_s=float("nan")).events == Event.STALE
    assert safety(HIGH, age_s=0.049).events & HELD == 0  # it goes on, and its patience starts anew
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


def test_writing_to_a_command_does_not_change_safety():
    safety = started()
    first = safety(HIGH).command
    expected = first.copy()
    first[:] = np.nan
    assert np.isfinite(safety(expected).command).all()


@pytest.mark.parametrize("position", [[0.0, 0.6, 200.0], [0.0, np.nan, 200.0], [0.0, 0.3]])
def test_a_robot_outside_the_limits_cannot_begin(position):
    safety = Safety(LIMITS, DT)
    with pytest.raises(RuntimeError, match=r"begin\(\)"):
        safety(HIGH)
    with pytest.raises(ValueError, match="bring it inside"):
        safety.begin(position)


STICK = Specification((Stream("stick", (2,)),), Stream("action", (2,), low=(-1, 0), high=(1, 5)), control_dt=0.1)


def test_limits_are_those_of_the_action_narrowed_to_the_workspace():
    rest = {"speed": 1.0, "acceleration": [2.0, 3.0], "jump": np.inf}
    limits = Limits.of(STICK, **rest)
    assert [limits.low.tolist(), limits.high.tolist()] == [[-1, 0], [1, 5]]
    assert [limits.speed.tolist(), limits.acceleration.tolist()] == [[1, 1], [2, 3]]
    inner = Limits.of(STICK, workspace=([-0.5, 1], 0.9 * np.array([1, 5])), **rest)
    assert [inner.low.tolist(), inner.high.tolist()] == [[-0.5, 1], [0.9, 4.5]]
    with pytest.raises(ValueError, match=r"workspace.*\[-2"):
        Limits.of(STICK, workspace=(-2, 0.5), **rest)
    free = Specification(STICK.observations, Stream("action", (2,)), control_dt=0.1)
    with pytest.raises(ValueError, match="give its stream low and high"):
        Limits.of(free, **rest)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"low": [2.0, 0.0]}, "low.*high"),
        ({"speed": [1.0, 0.0]}, "speed.*0"),
        ({"jump": [1.0]}, "jump"),
        ({"acceleration": [1.0, np.nan]}, "acceleration"),
    ],
)
def test_impossible_limits_are_refused(change, error):
    values = {
        "low": [0.0, 0.0],
        "high": [1.0, 1.0],
        "speed": [1.0, 1.0],
        "acceleration": [1.0, 1.0],
        "jump": [1.0, 1.0],
    }
    with pytest.raises(ValueError, match=error):
        Limits(**values | change)


@pytest.mark.parametrize("options", [{"dt": 0}, {"stale_s": 0}, {"patience_s": -1}])
def test_impossible_times_are_refused(options):
    with pytest.raises(ValueError, match="dt, stale_s and patience_s"):
        Safety(LIMITS, **{"dt": DT} | options)
