"""Simulated robots on a virtual clock: when readings arrive and what commands do, by hand."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import toys
from recede.envs.tasks.pick_place import PICK_PLACE
from recede.realtime import VirtualClock
from recede.robots.simulated import STATUS, SimulatedRobot, _run
from recede.robots.simulation import Disturbances, Episode, Simulation
from toys import REACH

DT = REACH.specification.control_dt
FAR = np.ones(2, np.float32)
"""A position beyond the reach of the toy in one episode."""


def at(clock, moment, robot):
    """The newest position at a time, and when it was captured."""
    clock.sleep_until(moment)
    reading = robot.read()["position"]
    return reading.value.tolist(), round(reading.time, 6)


@pytest.fixture
def clock():
    return VirtualClock(100.0)


@pytest.mark.parametrize("task", [REACH, PICK_PLACE], ids=lambda task: task.name)
def test_commands_at_each_step_do_what_the_environment_does(task):
    clock, env, expert = VirtualClock(7.7), task.make(), task.expert(0)
    robot = Simulation(task, clock, first_seed=3)
    robot.start()
    scheduled = clock.now()
    observation, info = env.reset(seed=3)
    best, steps, is_over = info["score"], 0, False
    while not is_over:
        readings = robot.read()
        for name, value in observation.items():
            assert readings[name].value.tobytes() == value.tobytes()
            assert readings[name].time == pytest.approx(clock.now())
        action = expert(info["state"])
        robot.command(action, clock.now())
        observation, _, terminated, truncated, info = env.step(action)
        best, steps, is_over = max(best, info["score"]), steps + 1, terminated or truncated
        scheduled += task.specification.control_dt  # an inexact sum
        clock.sleep_until(scheduled + (1e-9 if steps % 2 else -1e-9))
    assert robot.episode == Episode(3, info["success"], best, steps, True)


def test_it_holds_its_position_until_it_is_commanded(clock):
    robot = Simulation(REACH, clock)
    robot.start()
    start, _ = at(clock, 100, robot)
    assert at(clock, 100.25, robot) == (start, 100.2)
    assert robot.episode.num_steps == 2
    assert robot.position().tolist() == start


def test_a_reading_is_seen_when_its_delay_is_over(clock):
    robot = Simulation(REACH, clock, sensor_delay={"position": 0.25})
    robot.start()
    assert set(robot.read()) == {"target"}
    assert robot.position() is None
    robot.command(FAR, 100.0)
    clock.sleep_until(100.24)
    assert set(robot.read()) == {"target"}
    start, captured = at(clock, 100.25, robot)
    assert captured == 100.0
    assert robot.read()["target"].time == pytest.approx(100.2)
    assert at(clock, 100.34, robot) == (start, 100.0)
    moved, captured = at(clock, 100.35, robot)
    assert captured == 100.1
    assert np.linalg.norm(np.subtract(moved, start)) == pytest.approx(0.06, abs=1e-6)


def test_a_command_takes_effect_in_the_first_step_after_its_arrival(clock):
    robot = Simulation(REACH, clock, actuation_delay=0.15)
    assert robot.actuation_delay == 0.15
    robot.start()
    robot.command(FAR, 100.0)  # it arrives at 100.15, within the second step
    start, _ = at(clock, 100, robot)
    assert at(clock, 100.2, robot) == (start, 100.2)
    assert at(clock, 100.3, robot) != (start, 100.3)


def test_the_newest_command_that_has_arrived_counts(clock):
    robot = Simulation(REACH, clock)
    robot.start()
    start = np.array(at(clock, 100, robot)[0])
    robot.command(-FAR, 100.0)
    robot.command(FAR, 100.0)
    robot.command(-FAR, 100.2)  # for later
    moves = [np.subtract(at(clock, 100 + k * DT, robot)[0], start).sum() for k in (1, 2, 3, 4)]
    assert moves[0] > 0
    assert moves[1] > moves[0]
    assert moves[2] < moves[1]
    assert moves[3] < moves[2]


def test_rare_calls_see_the_same(clock):
    often, seldom = (Simulation(REACH, clock, jitter=0.15, dropped=0.2, sensor_delay=0.1) for _ in range(2))
    often.start()
    seldom.start()
    for robot in (often, seldom):
        robot.command(FAR, 100.0)
        robot.command(-FAR, 100.7)
    for moment in np.arange(100, 102, 0.03):
        clock.sleep_until(moment)
        often.read()
    assert at(clock, 102, often) == at(clock, 102, seldom)
    assert often.episode == seldom.episode


class Crowded:
    """A channel whose other end is read rarely, and a process that sleeps for long in between."""

    def __init__(self, clock, requests, naps):
        self.clock, self.requests, self.naps = clock, requests, list(naps)
        self.room, self.sent = 0, []

    def receive(self):
        requests, self.requests = self.requests, []
        return [(name, {"number": number, "seed": 4}) for name, number in requests]

    def send(self, name, *values):
        if name != STATUS and self.room == 0:
            return False
        if name == "position":
            self.sent.append(round(values[0], 3))
        self.room -= name != STATUS
        return True

    def wait(self, seconds):
        if not self.naps:
            raise ConnectionResetError("the other end is closed")
        nap, self.room = self.naps.pop(0)
        self.clock.sleep_until(self.clock.now() + nap)


def test_a_process_that_falls_behind_and_finds_no_room_sends_every_reading_in_order(clock):
    channel = Crowded(clock, [("start", 1)], [(0.1, 20), (0.35, 20), (0.1, 0), (0.2, 3), (0.1, 20)])
    with pytest.raises(ConnectionResetError):
        _run(channel, Simulation(REACH, clock))
    assert channel.sent == [100.0, 100.1, 100.2, 100.3, 100.4, 100.5, 100.6, 100.7, 100.8]


def test_jitter_and_losses_depend_on_the_seeds_alone():
    def arrivals(first_seed, seed, then=None):
        clock = VirtualClock()
        robot = Simulation(REACH, clock, first_seed=first_seed, jitter=0.25, dropped=0.3, seed=seed)
        robot.start()
        if then is not None:
            clock.sleep_until(1.0)
            robot.reset(then)
        origin = clock.now()
        return [
            [(name, round(r.time - origin, 6)) for name, r in robot.read().items()]
            for moment in np.arange(0, 2, 0.02)
            if clock.sleep_until(origin + moment) is None
        ]

    assert arrivals(0, 0) == arrivals(0, 0) == arrivals(5, 0, then=0)
    assert arrivals(0, 0) != arrivals(0, 1)
    assert arrivals(0, 0) != arrivals(1, 0)


def test_jitter_has_bounds_and_keeps_the_order_and_losses_their_share(clock):
    robot = Simulation(REACH, clock, sensor_delay=0.1, jitter=0.25, dropped=0.3)
    robot.start()
    arrivals = {}
    for moment in np.arange(100, 160, 0.01):
        clock.sleep_until(moment)
        if "position" in (readings := robot.read()):
            arrivals.setdefault(round(readings["position"].time, 6), moment)
    captured = list(arrivals)
    assert captured == sorted(captured)
    late = [moment - time for time, moment in arrivals.items()]
    assert min(late) > 0.1 - 1e-6
    assert max(late) < 0.36 + 1e-6  # plus the hundredth of a second between calls
    assert np.ptp(late) > 0.15
    kept = len(captured) / 600
    assert 0.3 < kept < 0.75  # the next reading overtakes some within a hundredth of a second

    lots = Disturbances(REACH.specification, dropped=0.3)
    lost = np.mean([lots.visible_at("position", 0.0) is None for _ in range(5000)])
    assert lost == pytest.approx(0.3, abs=0.03)


def test_a_stopped_robot_holds_until_it_is_started_again(clock):
    robot = Simulation(REACH, clock, actuation_delay=0.05)
    robot.stop()  # no effect before the start
    robot.start()
    robot.command(FAR, 100.0)
    clock.sleep_until(100.3)
    robot.command(-FAR, 100.3)  # on its way
    robot.stop()
    robot.stop()
    before, _ = at(clock, 100.3, robot)
    robot.command(-FAR, 100.3)
    stopped, _ = at(clock, 101, robot)
    assert stopped > before  # towards the last command that arrived
    clock.sleep_until(101)
    assert robot.episode.num_steps == 10
    robot.start()
    held, _ = at(clock, 102, robot)
    assert held > stopped
    robot.command(-FAR, 102.0)
    assert at(clock, 103, robot)[0] < held


def test_the_world_stands_still_once_the_episode_is_over(clock):
    robot = Simulation(REACH, clock, first_seed=4)
    robot.start()
    robot.command(FAR, 100.0)
    clock.sleep_until(100 + DT * toys.MAX_STEPS)
    over, _ = at(clock, 100 + DT * toys.MAX_STEPS, robot)
    assert robot.episode._replace(score=0.0, success=False) == Episode(4, num_steps=toys.MAX_STEPS, is_over=True)
    robot.command(-FAR, clock.now())
    assert at(clock, 110, robot) == (over, 110.0)
    robot.stop()
    assert at(clock, 111, robot) == (over, 111.0)

    robot.reset(4)
    again, captured = at(clock, 111.05, robot)
    assert captured == 111.0
    assert robot.episode == Episode(4, score=robot.episode.score)
    robot.command(FAR, clock.now())  # it is not stopped any more either
    assert at(clock, 112, robot)[0] != again


def test_it_tells_the_action_of_a_step_when_the_step_begins_and_when_it_is_taken(clock):
    messages = []
    robot = Simulation(REACH, clock, rate=100.0)
    robot.tell = lambda name, time, *values: messages.append((name, round(time, 3), *values))
    robot.start()
    robot.command(FAR, 100.05)
    for moment in (100.1, 100.2, 100.5):
        clock.sleep_until(moment)
        robot.read()
    kinds = [(name, time, *values[:1]) for name, time, *values in messages]
    assert kinds[:3] == [("reset", 100.0, 0), ("ahead", 100.0, 0), ("step", 100.1, 1)]
    assert kinds[3:] == [  # a late call tells all that was taken, and only the present step as ahead
        *(("ahead", 100.1, 1), ("step", 100.2, 2), ("ahead", 100.2, 2)),
        *(("step", 100.3, 3), ("step", 100.4, 4), ("step", 100.5, 5), ("ahead", 100.5, 5)),
    ]
    steps = [values[-1] for name, _, *values in messages if name == "step"]
    ahead = [values[-1] for name, _, *values in messages if name == "ahead"]
    np.testing.assert_array_equal(steps[:2], ahead[:2])
    np.testing.assert_array_equal(steps[1], FAR)


def test_a_reset_drops_readings_and_commands_on_their_way(clock):
    robot = Simulation(REACH, clock, sensor_delay=0.25, actuation_delay=0.25)
    robot.reset(8)
    robot.start()
    assert robot.episode.seed == 8
    clock.sleep_until(100.5)
    robot.command(FAR, 100.5)
    robot.reset(9)
    assert robot.read() == {}
    start, captured = at(clock, 100.75, robot)
    assert captured == 100.5
    assert at(clock, 102.25, robot) == (start, 102.0)


def test_the_world_waits_for_a_command_if_the_position_is_unknown(clock):
    robot = Simulation(replace(REACH, position=None), clock)
    robot.start()
    clock.sleep_until(101)
    assert (robot.position(), robot.episode.num_steps) == (None, 0)
    robot.command(FAR, 101.0)
    clock.sleep_until(102)
    assert robot.episode.num_steps == 10
    robot.stop()
    clock.sleep_until(103)
    assert robot.episode.num_steps == 10


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sensor_delay": -1}, "sensor_delay of 'position' must be 0"),
        ({"sensor_delay": {"postion": 1}}, "did you mean 'position'"),
        ({"actuation_delay": np.inf}, "actuation_delay must be 0"),
        ({"jitter": -0.1}, "jitter must be 0"),
        ({"dropped": 1.0}, r"dropped.*1\.0"),
    ],
)
def test_an_impossible_disturbance_is_refused(option, message):
    for make in (partial(Simulation, REACH, VirtualClock()), partial(SimulatedRobot, REACH)):
        with pytest.raises(ValueError, match=message):
            make(**option)


@pytest.mark.parametrize(("kind", "remedy"), [("old reset", "return an info too"), ("old step", "instead of done")])
def test_an_environment_of_the_old_gym_is_named(clock, kind, remedy):
    robot = Simulation(toys.faulty(kind), clock)

    def take_a_step():
        robot.start()
        robot.command(FAR, clock.now())
        at(clock, clock.now() + 2 * DT, robot)

    with pytest.raises(ValueError, match=rf"{kind.split()[1]}\(\) must return \(observation, .*{remedy}"):
        take_a_step()
