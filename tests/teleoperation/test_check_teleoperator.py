"""The check of inputs: it passes good ones, and names the broken promise of the others."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
import toys
from recede.realtime import VirtualClock
from recede.robots.interface import Reading
from recede.robots.simulation import Simulation
from recede.teleoperation.check import check_teleoperator
from recede.teleoperation.expert import ExpertHands
from recede.teleoperation.interface import Order, Status
from recede.teleoperation.keyboard import Keyboard


class Stick:
    kind, axes = "velocity", ("x", "y")

    def __init__(self, **broken):
        self.calls = []
        self.__dict__ |= broken

    def start(self):
        self.calls.append("start")

    def read(self, now):
        return Reading(np.zeros(2), now) if int(10 * now) % 2 else None

    def orders(self, status):
        return [Order("begin")] if status.phase == "ready" else []

    def close(self):
        self.calls.append("close")


def test_a_good_input_passes_and_is_closed():
    stick = Stick()
    line = check_teleoperator(stick, VirtualClock(), max_call_s=1.0)
    assert "velocity input was read for 2 s" in line
    assert re.search("held in (99|10[01]) of 200 reads with (99|10[01]) readings", line)
    assert stick.calls == ["start", "close", "close"]


def test_our_inputs_pass(capsys):
    clock = VirtualClock()
    robot = Simulation(toys.REACH, clock, rate=50.0)
    robot.start()
    assert "absolute" in check_teleoperator(ExpertHands(robot), clock, max_call_s=1.0)
    assert "relative" in check_teleoperator(Keyboard(toys.SPECIFICATION.action, 0.01), clock, max_call_s=1.0)
    assert "q a x, w s y" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"kind": "relativ"}, "did you mean 'relative'"),
        ({"axes": ("x", "x")}, "different names"),
        ({"axes": ()}, "different names"),
        ({"read": lambda now: np.zeros(2)}, "a Reading or None, got ndarray"),
        ({"read": lambda now: Reading(np.zeros(3), now)}, r"2 finite numbers.* got float64 of shape \(3,\)"),
        ({"read": lambda now: Reading(np.full(2, np.nan), now)}, "finite"),
        ({"read": lambda now: Reading(np.array(["a", "b"]), now)}, "finite numbers"),
        ({"read": lambda now: Reading(np.zeros(2), now + 1)}, "not be in the future"),
        ({"read": lambda now: Reading(np.zeros(2), -now)}, "not go back"),
        ({"orders": lambda status: None}, "list of orders, got NoneType while ready"),
        ({"orders": lambda status: ["begin"]}, "must be an Order .* got 'begin' while ready"),
        ({"orders": lambda status: [Order("start")]}, "one of begin, end, .*start"),
    ],
)
def test_a_broken_promise_is_named(broken, error):
    stick = Stick(**broken)
    with pytest.raises(ValueError, match=error):
        check_teleoperator(stick, VirtualClock(), max_call_s=1.0)
    assert stick.calls[-1:] in ([], ["close"])


def test_an_input_that_blocks_is_named():
    with pytest.raises(TimeoutError, match=r"read\(\) must return within 0.02 s"):
        check_teleoperator(Stick(read=lambda now: time.sleep(0.03)), VirtualClock())


def test_an_expert_that_needs_more_than_the_robot_observes_is_refused_with_the_stream():
    clock = VirtualClock()
    robot = Simulation(replace(toys.REACH, expert=lambda seed: lambda state: state["wind"]), clock)
    robot.start()
    with pytest.raises(ValueError, match="needs 'wind', which the robot does not observe"):
        ExpertHands(robot).read(0.0)
    with pytest.raises(ValueError, match=r"no scripted expert: .*another input="):
        ExpertHands(Simulation(replace(toys.REACH, expert=None), clock))


def test_a_key_moves_its_axis_by_a_step():
    keyboard = Keyboard(toys.SPECIFICATION.action, [0.1, 0.02])
    keyboard.orders(Status(phase="recording", num_episodes=0, keys=b"qqwSx\xff"))
    np.testing.assert_allclose(keyboard.read(0.0).value, [0.2, 0.0])
    keyboard.orders(Status(phase="recording", num_episodes=0, keys=b"as"))
    np.testing.assert_allclose(keyboard.read(0.0).value, [0.1, -0.02])


def test_space_takes_over_from_a_policy_and_gives_back_and_every_episode_begins_with_the_policy():
    keyboard = Keyboard(toys.SPECIFICATION.action, 0.1)
    held = []
    for episode, keys in enumerate([b"", b" q", b"", b" ", b"", b" "], start=6):
        keyboard.orders(Status(phase="controlled", num_episodes=episode // 4, keys=keys))
        held.append(keyboard.read(0.0) is not None)
    assert held == [False, True, False, True, True, False]
    keyboard.orders(Status(phase="recording", num_episodes=2))
    assert keyboard.read(0.0) is not None


def test_the_expert_takes_its_turns_with_a_policy():
    clock = VirtualClock()
    robot = Simulation(toys.REACH, clock)
    robot.start()
    expert, turns = ExpertHands(robot, after=2.0, seconds=1.0), []
    for second in range(7):
        expert.orders(Status(phase="controlled", num_episodes=0, seconds=second))
        turns.append(expert.read(0.0) is not None)
    assert turns == [False, False, True, False, False, True, False]
    robot.close()


def test_an_expert_that_watches_takes_over_from_a_policy_that_makes_no_progress():
    clock = VirtualClock()
    robot = Simulation(toys.REACH, clock)
    robot.start()
    expert = ExpertHands(robot, after=2.0, seconds=1.0, if_stuck=True)

    def turns(*scores):
        """Whether the expert leads in each half second of an episode with these scores."""
        leads = []
        for half, score in enumerate(scores):
            robot._episode = robot._episode._replace(score=score)
            expert.orders(Status(phase="controlled", num_episodes=0, seconds=half / 2))
            leads.append(expert.read(0.0) is not None)
        return "".join("-E"[lead] for lead in leads)

    assert turns(*[0.3] * 13) == "----EE----EE-"
    assert turns(0.0, 0.1, 0.2, 0.3, *[0.3] * 7) == "-------EE--"  # 2 s after the score rose last
    assert turns(*(0.001 * half for half in range(7))) == "----EE-"  # too little to be progress
    assert turns(*(0.1 * half for half in range(10))) == "----------"
    assert turns(*[0.0] * 5) == "----E"
    assert turns(*[0.0] * 5) == "----E"  # an episode that ended in its turn is over
    robot.close()
