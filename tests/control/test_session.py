"""Sessions: the episodes of a robot, with parts that need no configuration."""

import re

import numpy as np
import pytest
from control_loop import FREE, HORIZONS, SPECIFICATION, Delayed, Ideal, line, path
from hands import Hands
from recede.control.led import Led
from recede.control.log import DEMONSTRATIONS
from recede.control.planned import Doubt
from recede.control.safety import Safety
from recede.control.session import LOST, STILL, Session
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.execution.overlapping import AsyncReplace
from recede.realtime import VirtualClock
from recede.teleoperation.axes import Axes
from recede.teleoperation.clutch import Clutch


class Startable(Ideal):
    """An ideal robot that starts again after a stop. It notes its calls."""

    def __init__(self, clock, **options):
        super().__init__(clock, **options)
        self.calls = []

    def start(self):
        super().start()
        self.is_stopped = False
        self.calls.append("start")

    def stop(self):
        super().stop()
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")


class Policy(Delayed):
    """A planner with the calls of a process; a prediction takes 0.25 s, and it is stuck from `stuck_from` on."""

    def __init__(self, clock, stuck_from=np.inf):
        super().__init__(clock, line, 0.1)
        self.stuck_from, self.is_closed = stuck_from, False

    def wait(self):
        return 0.25

    def is_idle(self):
        return self.clock.now() < self.stuck_from

    def close(self):
        self.is_closed = True


def session(robot, policies, out, **options):
    made = []

    def make_execution(delay):
        made.append(delay)
        return AsyncReplace(HORIZONS, delay=delay)

    parts = {"robot": robot, "start_policy": lambda: next(policies), "make_execution": make_execution, "out": out}
    parts |= {"safety": Safety(FREE, 1 / robot.rate), "clock": robot.clock, "episodes": 2, "seconds": 1.0}
    return Session(**parts | options), made


def test_every_episode_is_logged_recorded_and_printed(tmp_path, capsys):
    robot = Startable(VirtualClock())
    policy = Policy(robot.clock)
    run, delays = session(robot, iter([policy]), tmp_path, first_seed=7)
    run.run()
    assert [record["seed"] for record in run.records] == [7, 8]
    for record in run.records:
        assert (record["reason"], record["success"], record["score"]) == ("over", None, None)
        assert record["commands"] == pytest.approx(100, abs=2)
        assert (record["demonstrations"], record["unlogged"]) == (1, 0)
        assert record["chunks"] > 0
    assert delays == [3, 3]  # 0.25 s, in control steps of 0.1 s
    assert DemonstrationStore.open(tmp_path / DEMONSTRATIONS).episode_seeds.tolist() == [-1, -1]
    assert robot.calls == ["start", "stop"] * 3 + ["close"]
    assert policy.is_closed
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a prediction takes 250.0 ms, 3 control steps"
    assert [line.partition(",")[0] for line in printed[1:]] == ["seed 7", "seed 8"]


@pytest.mark.parametrize(("on_lost", "reason"), [("stop", LOST), ("slow", "over"), (None, "over")])
def test_a_lost_policy_ends_the_episode_only_if_that_is_chosen(tmp_path, on_lost, reason):
    robot = Startable(VirtualClock())
    policy = Policy(robot.clock)
    policy.doubt = Doubt(1.0, is_alarm=True)
    run, _ = session(robot, iter([policy]), tmp_path, episodes=1, on_lost=on_lost)
    run.run()
    assert run.records[0]["reason"] == reason
    assert bool(run.records[0]["events"].get("LOST")) == (on_lost is not None)


@pytest.mark.parametrize(("still_s", "reason"), [(0.3, STILL), (5.0, "over")])
def test_a_policy_that_stands_still_long_enough_ends_the_episode(tmp_path, still_s, reason):
    robot = Startable(VirtualClock())
    policy = Policy(robot.clock)
    policy.answer = lambda request: path(np.minimum(request.history["moment"][-1, 0] + 0.1 * np.arange(16), 0.5) * 10)
    run, _ = session(robot, iter([policy]), tmp_path, episodes=1, seconds=3.0, still_s=still_s)
    run.run()
    assert run.records[0]["reason"] == reason


def test_a_policy_that_is_stuck_is_replaced_before_the_next_episode(tmp_path):
    robot = Startable(VirtualClock())
    policies = [Policy(robot.clock, stuck_from=0.5), Policy(robot.clock)]
    run, _ = session(robot, iter(policies), tmp_path, episodes=3)
    run.run()
    assert [policy.is_closed for policy in policies] == [True, True]
    assert policies[0].num_requests > 0
    assert policies[1].num_requests > policies[0].num_requests  # the second one served two episodes
    assert [record["reason"] for record in run.records] == ["over"] * 3


def test_an_episode_that_fails_is_recorded_and_ends_the_session(tmp_path):
    class Lost(Startable):
        def command(self, action, at_time):
            super().command(action, at_time)
            if at_time > 0.5:
                raise ConnectionError("unplugged")

    robot = Lost(VirtualClock())
    run, _ = session(robot, iter([Policy(robot.clock)]), tmp_path)
    with pytest.raises(ConnectionError, match="unplugged"):
        run.run()
    (record,) = run.records
    assert (record["reason"], record["demonstrations"]) == ("lost: unplugged", 1)
    assert robot.calls[-2:] == ["stop", "close"]


CALLS = ["start", "read", "position", "command", "stop"]
ERRORS = [ZeroDivisionError("by zero"), ValueError("a broken frame"), KeyError("place")]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param(name, error, marks=[pytest.mark.slow] if (place - kind) % len(ERRORS) else [])
        for place, name in enumerate(CALLS)
        for kind, error in enumerate(ERRORS)
    ],
)
def test_any_error_of_a_driver_ends_the_episode_and_is_named(tmp_path, monkeypatch, name, error):
    robot = Startable(VirtualClock())
    run, _ = session(robot, iter([Policy(robot.clock)]), tmp_path)
    method = getattr(robot, name)

    def failing(*arguments):
        answer = method(*arguments)
        if robot.calls.count("start") == 2:  # in the episode, and not while the robot is tried before it
            raise error
        return answer

    failing.__name__ = name
    monkeypatch.setattr(robot, name, failing)
    names = rf"{name}\(\): {type(error).__name__}: .*{error.args[0]}"
    with pytest.raises(ConnectionError, match=names):
        run.run()
    (record,) = run.records
    assert re.match("lost: .*" + names, record["reason"])
    assert "stop" in robot.calls[robot.calls.index("start", 1) :]
    assert robot.calls[-1] == "close"


def test_a_robot_that_cannot_be_reached_fails_before_the_policy_is_loaded(tmp_path):
    class Unreachable(Startable):
        def start(self):
            raise ConnectionError("no robot")

    robot = Unreachable(VirtualClock())
    run, _ = session(robot, iter([]), tmp_path / "run")
    with pytest.raises(ConnectionError, match="no robot"):
        run.run()
    assert robot.calls == ["close"]
    assert not (tmp_path / "run").exists()


class Interfering(Hands):
    """Hands that take over from 0.8 s to 1.4 s of each episode."""

    def read(self, now):
        return super().read(now) if self.statuses and 0.8 <= self.statuses[-1].seconds < 1.4 else None


def led(hands):
    return Led(hands, Clutch(hands.kind, Axes(hands.axes, SPECIFICATION.action), near=0.05, step=0.2, stale_s=0.2))


def test_a_person_takes_over_and_the_demonstration_says_when(tmp_path, capsys):
    robot = Startable(VirtualClock())
    hands = Interfering([("controlled", 1.5, "success"), ("controlled", 1.8, "end")], velocity=(1.0, 1.0))
    facts = EpisodeFacts(task="wipe", operator="Ada", input="stick")
    run, _ = session(robot, iter([Policy(robot.clock)]), tmp_path, seconds=2.0, hands=led(hands), facts=facts)
    run.run()
    assert [record["reason"] for record in run.records] == ["ended by the hands", "over"]
    assert [record["led"] for record in run.records] == [pytest.approx(60, abs=2)] * 2
    assert hands.calls == ["start", "close"]
    store = DemonstrationStore.open(tmp_path / DEMONSTRATIONS)
    assert [facts.outcome for facts in store.episode_facts] == ["success", "unknown"]
    for index, facts in enumerate(store.episode_facts):
        assert (facts.task, facts.operator, facts.input) == ("wipe", "Ada", "stick")
        ((begin, end),) = facts.notes["led"]
        assert end - begin == pytest.approx(6, abs=1)
        moved = np.diff(store.episode(index)["action"], axis=0)[:, 1]  # the policy goes down, and the person up
        assert (moved[begin + 1 : end - 1] > 0).all()
        assert (moved[end + 5 :] < 0).all()
    assert {status.is_led for status in hands.statuses} == {False, True}
    assert hands.statuses[0].phase == "controlled"
    leads = [line for line in capsys.readouterr().out.splitlines() if "lead" in line]
    assert leads == ["0.8 s: the hands lead", "1.4 s: the policy leads"] * 2


def test_an_input_that_is_lost_brakes_the_robot_and_is_named(tmp_path):
    robot = Startable(VirtualClock())
    run, _ = session(robot, iter([Policy(robot.clock)]), tmp_path, hands=led(Hands(fail_at=0.5)))
    with pytest.raises(ConnectionError, match="the stick is unplugged"):
        run.run()
    (record,) = run.records
    assert (record["reason"], record["demonstrations"]) == ("lost: the input failed: the stick is unplugged", 1)
    np.testing.assert_array_equal(robot.commands[-1][1], robot.commands[-2][1])  # it came to rest


def test_the_hands_end_the_session(tmp_path):
    robot = Startable(VirtualClock())
    hands = Hands([("controlled", 0.5, "quit")], velocity=None)
    run, _ = session(robot, iter([Policy(robot.clock)]), tmp_path, hands=led(hands))
    run.run()
    assert [record["led"] for record in run.records] == [0]
