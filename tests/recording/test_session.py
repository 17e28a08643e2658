"""Recordings on a virtual clock."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pytest
from control_loop import SPECIFICATION, Ideal
from hands import Hands, episodes, write_in_thread
from recede.control.safety import Limits, Safety
from recede.datasets import episode_writer
from recede.datasets import store as store_module
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.realtime import VirtualClock
from recede.recording.session import UNDER_WAY, RecordingSession
from recede.robots.interface import Reading
from recede.teleoperation.axes import Axes
from recede.teleoperation.clutch import Clutch
from recede.teleoperation.interface import KINDS

LIMITS = Limits.of(SPECIFICATION, speed=5.0, acceleration=50.0, jump=np.inf)


class Startable(Ideal):
    """An ideal robot that starts again after a stop, and notes its calls."""

    def __init__(self, clock, **options):
        super().__init__(clock, **options)
        self.calls, self.started_at = [], None

    def start(self):
        self.started_at = self.clock.now() if self.started_at is None else self.started_at
        self.is_stopped = False
        self.calls.append("start")

    def stop(self):
        super().stop()
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def threads(monkeypatch):
    """The process that writes is a thread of this one."""
    write_in_thread(monkeypatch)


@pytest.fixture
def record(tmp_path):
    """Records with some hands; returns the session, whose store is opened again."""

    def record(hands, *, robot=None, error=None, **options):
        robot = robot or Startable(VirtualClock())
        path = tmp_path / "hands.zarr"
        store = DemonstrationStore.open(path) if path.exists() else DemonstrationStore.create(path, SPECIFICATION)
        session = RecordingSession(
            robot=robot,
            teleoperator=hands,
            clutch=Clutch(hands.kind, Axes(hands.axes, SPECIFICATION.action), near=0.05, step=0.2, stale_s=0.2),
            safety=Safety(LIMITS, 1 / robot.rate),
            store=store,
            facts=EpisodeFacts(task="wipe", operator="Ada", input="stick"),
            clock=robot.clock,
            **options,
        )
        if error is None:
            session.run()
        else:
            with pytest.raises(error[0], match=error[1]):
                session.run()
        session.store = DemonstrationStore.open(path)
        return session

    return record


def in_force(timed, moments):
    """The newest of some timed values at each moment."""
    return np.array([[value for at, value in timed if at <= moment + 1e-6][-1] for moment in np.ravel(moments)])


@pytest.mark.usefixtures("threads")
def test_an_episode_is_what_was_observed_and_commanded(record):
    robot = Startable(VirtualClock(3.0))
    session = record(Hands(episodes("keep", "discard", "keep", seconds=2.0)), robot=robot)
    store = session.store
    assert (len(store), session.num_kept, session.num_discarded) == (2, 2, 1)
    assert store.episode_seeds.tolist() == [-1, -1]
    commands = [(-np.inf, np.zeros(2)), *robot.commands]
    for index in range(2):
        episode = store.episode(index)
        moments = episode["moment"][:, 0]
        np.testing.assert_allclose(np.diff(moments), 0.1, atol=1e-9)
        assert len(moments) == pytest.approx(21, abs=2)
        for moment, action, place in zip(moments, episode["action"], episode["place"], strict=True):
            (command,) = in_force(commands, [moment])
            np.testing.assert_array_equal(action, command)
            np.testing.assert_allclose(place, command, atol=0.011)  # the robot is there at once
    moved = np.diff(store.episode(0)["action"], axis=0)[2:-3]
    np.testing.assert_allclose(moved, np.tile([0.03, -0.02], (len(moved), 1)), atol=0.004)  # 0.3 and -0.2 a second
    assert robot.calls[-2:] == ["stop", "close"]
    assert session.teleoperator.calls == ["start", "close"]


class Swinging(Hands):
    """They swing out and back along x within pi seconds, by so many units; the time of each reading is noted."""

    axes = ("x", "y")

    def __init__(self, kind, way):
        super().__init__(episodes("keep", seconds=np.pi))
        self.kind, self.way, self.places = kind, way, []

    def read(self, now):
        status = self.statuses[-1] if self.statuses else None
        angle = 2 * status.seconds if status and status.phase == "recording" else 0.0
        place = self.way / 2 * (1 - np.cos(angle))
        self.places.append((now, place))
        return Reading(np.array([self.way * np.sin(angle) if self.kind == "velocity" else place, 0.0]), now)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", KINDS)
def test_where_the_input_was_differs_from_the_commands_only_if_safety_changed_them(record, tmp_path, kind):
    for way, is_changed in ((1.5, False), (8.0, True)):  # at a speed of up to 1.5 and 8, of which 5 is allowed
        shutil.rmtree(tmp_path / "hands.zarr", ignore_errors=True)
        robot, hands = Startable(VirtualClock()), Swinging(kind, way)
        store = record(hands, robot=robot, action="input").store
        (facts,), episode = store.episode_facts, store.episode(0)
        assert facts.notes["action"] == "input"
        ((first, after),) = facts.notes["led"]
        assert first <= 1
        assert after > 30
        actions, moments = episode["action"][first:after], episode["moment"][first:after]
        gap = np.abs(actions - in_force(robot.commands, moments)).max()
        assert 1.0 < gap <= 4.0 if is_changed else gap < 1e-9  # a velocity leads the robot by at most input.step
        if kind != "velocity":
            np.testing.assert_allclose(actions[:, 0], in_force(hands.places, moments), atol=1e-9)
        np.testing.assert_array_equal(actions[:, 1], 0)


@pytest.mark.usefixtures("threads")
def test_what_nobody_led_is_stored_as_it_was_commanded_and_one_store_has_actions_of_one_kind(record):
    robot, hands = Startable(VirtualClock()), LetGo(episodes("keep", seconds=2.0), velocity=(9.0, 0.0))
    store = record(hands, robot=robot, action="input").store
    ((_, after),) = store.episode_facts[0].notes["led"]
    episode = store.episode(0)
    assert 8 < after < store.num_steps - 8
    np.testing.assert_array_equal(episode["action"][after:], in_force(robot.commands, episode["moment"][after:]))
    robot = Startable(VirtualClock())
    record(Hands(), robot=robot, error=(ValueError, "episode 0 are input and action is commanded: give action=input"))
    assert robot.calls == ["close"]


@pytest.mark.usefixtures("threads")
def test_facts_are_noted_and_measured(record):
    script = [
        ("ready", 0, "sentence", "wipe the table"),
        ("ready", 0, "begin"),
        ("recording", 0.5, "success"),
        ("recording", 1.0, "end"),
        ("ended", 0, "keep"),
        ("ready", 0, "task", "sweep"),
        ("ready", 0, "begin"),
        ("recording", 1.0, "keep"),
        ("ready", 0, "begin"),
        ("recording", 1.0, "end"),
        ("ended", 0, "failure"),
        ("ended", 0, "keep"),
        ("ready", 0, "quit"),
    ]
    robot = Startable(VirtualClock(), sensor_delay=0.03, camera_dt=0.05)
    first, second, third = record(Hands(script), robot=robot).store.episode_facts
    assert [facts.outcome for facts in (first, second, third)] == ["success", "unknown", "failure"]
    assert (first.task, first.sentence, first.operator, first.input) == ("wipe", "wipe the table", "Ada", "stick")
    assert (second.task, second.sentence) == ("sweep", "wipe the table")
    assert first.rates == pytest.approx({"moment": 100, "place": 100, "camera": 20}, rel=0.1)
    assert first.delays["place"] == pytest.approx(0.03, abs=0.001)
    assert 0.03 <= first.delays["camera"] <= 0.045
    assert first.notes["skews"] == pytest.approx({"moment": 0, "place": 0.03, "camera": 0.05}, abs=0.011)
    ((first_led, end_led),) = first.notes["led"]
    assert first_led <= 1
    assert end_led == pytest.approx(11, abs=1)
    assert first.notes["input_rate"] == pytest.approx(100, rel=0.1)
    assert first.versions.keys() >= {"python", "recede"}


class LetGo(Hands):
    """They hold the robot for the first second of an episode."""

    def read(self, now):
        reading = super().read(now)
        is_held = not self.statuses or self.statuses[-1].seconds < 1.0
        return reading if is_held else None


@pytest.mark.usefixtures("threads")
def test_a_step_is_led_if_its_command_is(record):
    """A command takes effect later, and the step that stores it is as much later the person's."""
    ends = []
    for delay in (0.0, 0.25):
        robot = Startable(VirtualClock(), actuation_delay=delay)
        store = record(LetGo(episodes("keep", seconds=2.0)), robot=robot).store
        ((_, end),) = store.episode_facts[-1].notes["led"]
        ends.append(end)
    assert ends[1] - ends[0] in (2, 3)  # of 0.1 s


@pytest.mark.usefixtures("threads")
def test_the_hands_are_shown_what_happens(record):
    hands = Hands(episodes("keep", "discard"))
    record(hands)
    phases = [status.phase for status in hands.statuses]
    changes = [phase for phase, before in zip(phases, ["", *phases], strict=False) if phase != before]
    again = ["ready", "recording", "ended"]
    assert [phase for phase in changes if phase != "preparing"] == [*again, *again, "ready"]
    recording = [status for status in hands.statuses if status.phase == "recording"]
    assert recording[20].is_led
    assert 0.9 < max(status.seconds for status in recording) < 1.3
    assert hands.statuses[-1].num_episodes == 1


@pytest.mark.usefixtures("threads")
def test_between_episodes_the_robot_goes_slowly_to_its_start(record):
    robot = Startable(VirtualClock())
    record(Hands(episodes("keep", "keep", seconds=4.0), velocity=(2.0, 0.0)), robot=robot, approach=0.1)
    places = np.array([place[0] for _, place in robot.commands])
    back = np.diff(places)[np.diff(places) < -1e-7]
    assert 700 < len(back) < 900  # twice 8 units, at a tenth of a range of 20 a second, in ticks of 10 ms
    assert back.min() > -0.0201
    turn = int(np.argmax(places[: len(places) // 2]))
    assert places[turn] > 6
    assert np.abs(places[turn:]).min() < 1e-4


@pytest.mark.usefixtures("threads")
def test_a_robot_with_a_start_pose_goes_there_before_the_first_episode(record):
    robot = Startable(VirtualClock())
    store = record(Hands(episodes("keep"), velocity=None), robot=robot, start=[2.0, -1.0], approach=0.5).store
    np.testing.assert_allclose(store.episode(0)["place"], np.tile([2.0, -1.0], (store.num_steps, 1)), atol=1e-4)
    assert store.episode_facts[0].notes["led"] == []


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("moment", ["mid-episode", "end", "commit"])
def test_a_full_disk_loses_one_episode_and_brakes_the_robot(record, monkeypatch, capsys, moment):
    robot = Startable(VirtualClock())
    owner, name = (DemonstrationStore, "_commit") if moment == "commit" else (episode_writer, "extend")
    write = getattr(owner, name)
    if moment == "mid-episode":
        monkeypatch.setattr(store_module, "CHUNK_ROWS", 16)

    def full(*arguments):
        if robot.clock.now() > 3.5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(owner, name, full)
    hands = Hands(episodes("keep", "keep", seconds=2.0))
    session = record(hands, robot=robot, error=(OSError, "No space left on device.*has room"))
    assert len(session.store) == 1
    assert robot.is_stopped
    assert hands.script
    assert "episode 1: the episode under way is lost" in capsys.readouterr().out
    assert not (session.store.path / UNDER_WAY).exists()


@pytest.mark.usefixtures("threads")
def test_only_episodes_of_this_recording_are_undone(record):
    record(Hands(episodes("keep")))
    script = [*episodes("keep")[:-1], ("ready", 0, "undo"), ("ready", 0, "undo"), ("ready", 0, "quit")]
    hands = Hands(script)
    session = record(hands)
    assert (len(session.store), session.num_kept) == (1, 0)
    assert "no episode that could be removed" in hands.statuses[-1].message


@pytest.mark.usefixtures("threads")
def test_a_recording_goes_on_to_its_number_of_episodes(record):
    assert len(record(Hands(episodes("keep", "keep", "keep")), episodes=2).store) == 2
    assert len(record(Hands(episodes("keep", "keep")), episodes=3).store) == 3
    hands = Hands(episodes("keep"))
    record(hands, episodes=3)
    assert len(hands.script) == 4  # there are enough


@pytest.mark.usefixtures("threads")
def test_an_episode_ends_after_its_longest_duration(record):
    store = record(Hands([("ready", 0, "begin"), ("ended", 0, "keep"), ("ready", 0, "quit")]), seconds=0.7).store
    assert store.episode_facts[0].notes["ended"] == "over"
    assert store.num_steps == pytest.approx(8, abs=2)


@pytest.mark.usefixtures("threads")
def test_an_input_that_is_gone_brakes_the_robot_and_loses_one_episode(record, capsys):
    robot = Startable(VirtualClock())
    hands = Hands(episodes("keep", "keep", seconds=2.0), fail_at=4.2)
    session = record(hands, robot=robot, error=(ConnectionError, "the stick is unplugged"))
    assert len(session.store) == 1
    assert "under way is lost" in capsys.readouterr().out
    speeds = np.diff([place[0] for _, place in robot.commands[-30:]])
    assert speeds[-1] == 0
    assert robot.is_stopped
    assert not (session.store.path / UNDER_WAY).exists()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["read", "command"])
def test_a_robot_that_is_lost_loses_one_episode(record, name):
    robot = Startable(VirtualClock())
    method = getattr(robot, name)

    def failing(*arguments):
        if robot.clock.now() > 5.0:
            raise ConnectionError("the cable is loose")
        return method(*arguments)

    setattr(robot, name, failing)
    session = record(
        Hands(episodes("keep", "keep", seconds=2.0)), robot=robot, error=(ConnectionError, "cable is loose")
    )
    assert len(session.store) == 1
    assert robot.calls[-1] == "close"


def test_a_killed_writer_loses_one_episode_and_the_next_recording_says_so(record, capsys):
    class Killing(Hands):
        def orders(self, status):
            if status.phase == "recording" and status.num_episodes == 1 and status.seconds > 0.5:
                os.kill(session.recorder.pid, signal.SIGKILL)
            return super().orders(status)

    hands, robot = Killing(episodes("keep", "keep")), Startable(VirtualClock())
    original = RecordingSession.run

    def run(self):
        nonlocal session
        session = self
        original(self)

    session = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordingSession, "run", run)
        record(hands, robot=robot, error=(OSError, "process that writes has ended"))
    assert len(DemonstrationStore.open(session.store.path)) == 1
    assert robot.is_stopped
    capsys.readouterr()
    assert len(record(Hands(episodes("keep"))).store) == 2
    assert "killed in the middle of episode 1, which is lost; the 1 episodes before it" in capsys.readouterr().out
    assert not (session.store.path / UNDER_WAY).exists()


@pytest.mark.usefixtures("threads")
def test_a_silent_sensor_makes_an_episode_that_cannot_be_kept(record, capsys):
    class Silent(Startable):
        def read(self):
            readings = super().read()
            if 2.0 < self.clock.now() < 2.8:
                readings["place"] = Reading(readings["place"].value, 2.0)
            return readings

    robot = Silent(VirtualClock())
    script = [("ready", 0, "begin"), ("ready", 0, "quit")]
    session = record(Hands(script), robot=robot)
    assert "silent" in capsys.readouterr().out
    assert len(session.store) == 0


@pytest.mark.usefixtures("threads")
def test_a_stream_that_is_slower_than_the_specification_is_refused_with_both_rates(record):
    robot = Startable(VirtualClock(), camera_dt=0.15)
    session = record(
        Hands(episodes("keep")),
        robot=robot,
        error=(ValueError, r"'camera' comes 6.7 times.* 10.0 steps a second.*0.15"),
    )
    assert len(session.store) == 0
    assert not robot.commands


@pytest.mark.usefixtures("threads")
def test_one_recording_at_a_time(record, tmp_path):
    class Curious(Hands):
        def orders(self, status):
            if status.phase == "ready" and self.script[0][2] == "quit":
                record(Hands(), error=(ValueError, "recorded by another process"))
            return super().orders(status)

    assert len(record(Curious(episodes("keep"))).store) == 1


@pytest.mark.usefixtures("threads")
def test_a_note_of_a_lost_episode_that_is_damaged_is_removed(record, tmp_path, capsys):
    record(Hands(episodes("keep")))
    for content in ("{", json.dumps({"episode": 0}), json.dumps([1])):
        (tmp_path / "hands.zarr" / UNDER_WAY).write_text(content)
        record(Hands([("ready", 0, "quit")]))
        assert "lost" not in capsys.readouterr().out
        assert not (tmp_path / "hands.zarr" / UNDER_WAY).exists()
