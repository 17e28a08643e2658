"""Gamepads: events as linux/input.h describes them, in a pipe, and ioctls answered as the kernel does."""

import contextlib
import os
import struct

import numpy as np
import pytest
import toys
from hands import write_in_thread
from recede.configs.components.inputs import GamepadInputConfig, SpaceMouseInputConfig
from recede.datasets.store import DemonstrationStore
from recede.realtime import MonotonicClock
from recede.specification import Specification, Stream
from recede.teleoperation.check import check_teleoperator
from recede.teleoperation.gamepad import BUTTONS, CAP_BUTTONS, Gamepad, SpaceMouse
from recede.teleoperation.interface import ORDERS, Status


class Pad:
    """A device: a pipe by name, and what the kernel knows of it. ranges: code -> value, low, high.

    silent: axes whose zeros the kernel does not give.
    """

    def __init__(self, path):
        self.path, self.buttons, self.silent = str(path), set(), set()
        self.ranges = {code: [0, -32768, 32767] for code in (0, 1, 3, 4)}
        self.ranges |= {2: [0, 0, 255], 5: [0, 0, 255], 16: [0, -1, 1], 17: [0, -1, 1]}
        os.mkfifo(path)
        self.end = os.open(path, os.O_RDWR)

    def press(self, button):
        self.send((1, button, 1), (1, button, 0))

    def unplug(self):
        end, self.end = self.end, None
        if end is not None:
            os.close(end)

    def ioctl(self, file, request, data):
        bits = {0x80604518: self.buttons, 0x80084522: self.silent}.get(request)
        if bits is not None:
            return sum(1 << code for code in bits).to_bytes(len(data), "little")
        code = request - 0x80184540
        if code not in self.ranges:
            raise OSError(22, "Invalid argument")
        assert len(data) == 24
        return struct.pack("6i", *self.ranges[code], 0, 0, 0)

    def send(self, *events):
        for kind, code, value in (*events, (0, 0, 0)):
            os.write(self.end, struct.pack("qqHHi", 7, 8, kind, code, value))


@pytest.fixture
def pad(tmp_path, monkeypatch):
    device = Pad(tmp_path / "event7")
    monkeypatch.setattr("fcntl.ioctl", device.ioctl)
    yield device
    device.unplug()


@pytest.fixture
def gamepad(pad):
    with contextlib.closing(Gamepad(pad.path, dead=0.2)) as gamepad:
        gamepad.start()
        yield gamepad


def values(gamepad):
    return {name: value for name, value in zip(gamepad.axes, gamepad.read(0.0).value, strict=True) if value}


def kinds(gamepad, phase):
    return [order.kind for order in gamepad.orders(Status(phase=phase, num_episodes=0))]


def test_it_keeps_every_promise_of_an_input(pad, capsys):
    assert "velocity input" in check_teleoperator(Gamepad(pad.path), MonotonicClock(), seconds=0.1, max_call_s=1.0)
    assert "START begins" in capsys.readouterr().out


def test_sticks_are_velocities_outside_a_dead_zone_and_up_is_positive(pad, gamepad):
    assert values(gamepad) == {}
    pad.send((3, 0, 6000), (3, 1, -6000))  # 0.18 of the way
    assert values(gamepad) == {}
    pad.send((3, 0, 32767), (3, 1, -32768), (3, 3, -19661), (3, 17, -1))
    assert values(gamepad) == pytest.approx({"left_x": 1, "left_y": 1, "right_x": -0.5, "hat_y": 1}, abs=1e-4)
    pad.send((3, 0, 0), (3, 1, 0), (3, 3, 0), (3, 17, 0), (3, 5, 255), (1, 0x136, 1))
    assert values(gamepad) == pytest.approx({"triggers": 1, "bumpers": -1})
    pad.send((3, 5, 0), (3, 2, 153), (1, 0x136, 0), (1, 0x137, 1))
    assert values(gamepad) == pytest.approx({"triggers": -0.5, "bumpers": 1})
    pad.send((1, 0x137, 2))  # a repetition
    assert values(gamepad)["bumpers"] == 1


def test_buttons_give_orders_by_the_phase(pad, gamepad):
    orders = {
        "ready": {0x13B: ["begin"], 0x13A: ["undo"], 0x130: []},
        "recording": {0x13B: ["end"], 0x131: ["discard"], 0x130: []},
        "ended": {
            0x130: ["success", "keep"],
            0x131: ["discard"],
            0x133: ["failure", "keep"],
            0x134: ["failure", "keep"],
            0x13B: ["keep"],
        },
        "preparing": {0x13B: []},
        "controlled": {0x13B: ["end"], 0x130: ["success", "end"], 0x133: ["failure", "end"], 0x131: []},
    }
    for phase, buttons in orders.items():
        for button, expected in buttons.items():
            pad.send((1, button, 1))
            pad.send((1, button, 2), (1, button, 0))
            gamepad.read(0.0)  # takes the events as well
            assert kinds(gamepad, phase) == expected
            assert kinds(gamepad, phase) == []
    assert {kind for buttons in BUTTONS.values() for kinds in buttons.values() for kind in kinds} <= {*ORDERS}


def test_a_policy_is_taken_over_from_as_long_as_the_gamepad_is_touched(pad, gamepad):
    kinds(gamepad, "controlled")
    assert gamepad.read(0.0) is None
    pad.send((3, 0, 6000))  # within the dead zone
    assert gamepad.read(1.0) is None
    pad.send((3, 0, 32767))
    assert gamepad.read(2.0).value[0] == 1
    pad.send((3, 0, 0))
    assert gamepad.read(2.5).value[0] == 0
    assert gamepad.read(2.7) is None
    pad.send((1, 0x131, 1))  # any button holds the robot
    assert gamepad.read(9.0) is not None
    pad.send((1, 0x131, 0))
    assert gamepad.read(9.7) is None
    kinds(gamepad, "recording")
    assert gamepad.read(9.7) is not None


def test_after_lost_events_the_kernel_is_asked_where_everything_is(pad, gamepad):
    pad.send((3, 0, 32767), (1, 0x137, 1))
    pad.ranges[0][0], pad.ranges[4][0], pad.buttons = 0, 32767, {0x136}
    pad.send((0, 3, 0), (3, 0, 20000), (1, 0x13B, 1))
    assert values(gamepad) == pytest.approx({"right_y": -1, "bumpers": -1})
    assert kinds(gamepad, "ready") == []
    pad.send((3, 4, 0), (1, 0x136, 0))
    assert values(gamepad) == {}


def test_an_event_in_two_pieces_is_one(pad, gamepad):
    event = struct.pack("qqHHi", 0, 0, 3, 0, 32767)
    os.write(pad.end, event[:10])
    assert values(gamepad) == {}
    os.write(pad.end, event[10:])
    assert values(gamepad) == {"left_x": 1}


def test_an_unplugged_gamepad_is_one_error_with_its_name(pad, gamepad, monkeypatch):
    def read(file, size):
        raise OSError(19, "No such device")

    monkeypatch.setattr("os.read", read)
    for call in (lambda: gamepad.read(0.0), lambda: kinds(gamepad, "ready")):
        with pytest.raises(ConnectionError, match=r"event7 is gone \(No such device\): plug it in"):
            call()


def test_what_is_no_gamepad_is_refused(pad, tmp_path, monkeypatch):
    with pytest.raises(ConnectionError, match=r"nothing cannot be opened \(No such file.*group"):
        Gamepad(str(tmp_path / "nothing")).start()
    pad.ranges = {0: [0, 0, 0]}
    with pytest.raises(ConnectionError, match=r"event7 is no gamepad.*event-joystick"):
        Gamepad(pad.path).start()
    monkeypatch.setattr("recede.teleoperation.gamepad.BY_ID", tmp_path / "by-id")
    with pytest.raises(
        ConnectionError, match=r"one gamepad, but .* has no .*-event-joystick: plug it in, or give input.device="
    ):
        Gamepad().start()
    (tmp_path / "by-id").mkdir()
    for name in ("a", "b"):
        (tmp_path / "by-id" / f"{name}-event-joystick").symlink_to(pad.path)
    with pytest.raises(ConnectionError, match=r"has 2 of them .*a-event-joystick, .*b-event-joystick"):
        Gamepad().start()
    with pytest.raises(RuntimeError, match="start"):
        Gamepad().read(0.0)
    with pytest.raises(ValueError, match="dead must be at least 0 and below 1, got 1"):
        GamepadInputConfig(dead=1.0)


def test_the_only_gamepad_is_taken(pad, tmp_path, monkeypatch):
    monkeypatch.setattr("recede.teleoperation.gamepad.BY_ID", tmp_path)
    (tmp_path / "my-event-joystick").symlink_to(pad.path)
    with contextlib.closing(Gamepad()) as gamepad:
        gamepad.start()
        assert gamepad.device == str(tmp_path / "my-event-joystick")


def test_speed_counts_in_ranges_of_the_action_whatever_its_units(pad):
    action = Stream("action", (2,), low=(0.0, -1.0), high=(512.0, 1.0), labels=("x", "y"))
    specification = Specification((Stream("place", (1,)),), action, 0.1)
    config = GamepadInputConfig(device=pad.path, speed=0.5, scale=[1, 0.5], axes=["left_x", "-right_y"], step=1.0)
    with contextlib.closing(config.build(None)) as gamepad:
        gamepad.start()
        clutch = config.clutch(gamepad, specification)
        pad.send((3, 0, 32767), (3, 4, 32767))
        last = np.array([100.0, 0.0])
        for now in (0.0, 0.1):
            last = clutch.target(gamepad.read(now), last, now)
        np.testing.assert_allclose(last, [125.6, 0.05], rtol=1e-3)
    with pytest.raises(ValueError, match="scale must be one number, or 2"):
        GamepadInputConfig(scale=[1, 2, 3]).clutch(gamepad, specification)


def test_one_dimension_is_driven_by_the_first_axis_and_many_need_axes_of_their_own(pad):
    for config, most in ((GamepadInputConfig(device=pad.path), 8), (SpaceMouseInputConfig(device=pad.path), 6)):
        device = config.build(None)
        for size in (1, most):
            action = Stream("action", (size,), low=0.0, high=1.0)
            clutch = config.clutch(device, Specification((Stream("place", (1,)),), action, 0.1))
            np.testing.assert_array_equal(clutch.axes.matrix != 0, np.eye(size, most))
        many = Specification((Stream("place", (1,)),), Stream("action", (most + 1,), low=0.0, high=1.0), 0.1)
        with pytest.raises(ValueError, match=f"axes must name one axis .* {most + 1} dimensions .* or none"):
            config.clutch(device, many)


@pytest.fixture(params=[True, False], ids=["silent at rest", "with zeros"])
def cap(request, pad):
    """A 3D mouse, as the kernel shows it with and without an axis for each of its reports; and its type of axes."""
    pad.ranges = {} if request.param else {code: [0, -350, 350] for code in range(6)}
    pad.silent = set(range(6)) if request.param else set()
    with contextlib.closing(SpaceMouseInputConfig(device=pad.path, dead=0.0).build(None)) as mouse:
        mouse.start()
        yield mouse, 2 if request.param else 3


def test_the_cap_of_a_3d_mouse_goes_and_turns_right_handed(pad, cap, capsys):
    mouse, kind = cap
    assert mouse.axes == ("x", "y", "z", "roll", "pitch", "yaw")
    assert values(mouse) == {}
    pad.send(*((kind, code, 350) for code in range(6)))  # right, towards the person, down, and about these
    assert mouse.read(1.0).value.tolist() == [1, -1, -1, 1, -1, -1]
    pad.send((kind, 0, -175), (kind, 5, 400))
    assert mouse.read(1.05).value.tolist() == [-0.5, -1, -1, 1, -1, -1]


def test_a_cap_that_is_let_go_is_at_rest(pad, cap):
    mouse, kind = cap
    pad.send((kind, 0, 350), (kind, 1, 350))
    assert mouse.read(1.0).value.tolist() == [1, -1, 0, 0, 0, 0]
    for now in np.arange(1.05, 1.5, 0.05):
        pad.send((kind, 0, 350), *([(3, 1, 0)] if kind == 3 else []))
        mouse.orders(Status(phase="ready", num_episodes=0))  # takes the events as well
        assert mouse.read(now).value[0] == 1
    assert mouse.read(1.5).value.tolist() == [1, 0, 0, 0, 0, 0]
    if kind == 3:
        pad.send((3, 0, 0))
    assert mouse.read(1.7).value.tolist() == [0] * 6
    pad.send((kind, 2, 350), (0, 3, 0), (kind, 2, 350))  # events are lost
    assert mouse.read(1.8).value.tolist() == [0] * 6


def test_the_buttons_of_a_3d_mouse_begin_end_keep_and_discard(pad, cap):
    orders = {"ready": ["begin"], "recording": ["end", "discard"], "ended": ["keep", "discard"], "controlled": ["end"]}
    for phase, expected in orders.items():
        for button in (0x100, 0x101):
            pad.press(button)
        assert kinds(cap[0], phase) == expected
    assert {kind for buttons in CAP_BUTTONS.values() for kinds in buttons.values() for kind in kinds} <= {*ORDERS}


def test_what_is_no_3d_mouse_is_refused_and_the_only_one_is_taken(pad, tmp_path, monkeypatch):
    del pad.ranges[4]
    with pytest.raises(ConnectionError, match=r"event7 is no 3D mouse.*3Dconnexion"):
        SpaceMouse(pad.path).start()
    pad.ranges = {code: [0, -350, 350] for code in range(6)}
    monkeypatch.setattr("recede.teleoperation.gamepad.BY_ID", tmp_path)
    (tmp_path / "usb-3Dconnexion_SpaceNavigator-event-if00").symlink_to(pad.path)
    assert "velocity input" in check_teleoperator(SpaceMouse(), MonotonicClock(), seconds=0.1, max_call_s=1.0)


@pytest.mark.slow
def test_it_drives_begins_and_decides_and_the_robot_rests_if_it_is_gone(recede, pad, monkeypatch, tmp_path):
    monkeypatch.setattr("recede.recording.session.MEASURED_S", 0.2)
    write_in_thread(monkeypatch)
    typed, make, orders, commands, stops = set(), toys.make_robot, Gamepad.orders, [], []

    def play(gamepad, status):
        """Move to the right; keep the first episode as a success, and lose the gamepad in the second."""
        phase = (status.phase, status.num_episodes)
        button = {"ready": 0x13B, "recording": 0x13B, "ended": 0x130}.get(status.phase)
        if phase == ("recording", 1) and status.seconds > 0.2:
            pad.unplug()
        elif button and phase not in typed and (status.phase != "recording" or status.seconds > 0.6):
            typed.add(phase)
            pad.press(button)
            pad.send((3, 0, 32767))
        return orders(gamepad, status)

    def make_noting(rate):
        robot = make(rate)
        command, stop = robot.command, robot.stop
        robot.command = lambda action, at_time: (commands.append(action), command(action, at_time))
        robot.stop = lambda: (stops.append(len(commands)), stop())
        return robot

    monkeypatch.setattr(Gamepad, "orders", play)
    monkeypatch.setattr(toys, "make_robot", make_noting)
    path = tmp_path / "hands.zarr"
    options = [
        "input=gamepad",
        f"input.device={pad.path}",
        "robot=driver",
        "robot.make=toys:make_robot",
        "approach=0.2",
    ]
    result = recede("record", "task=toy_reach", f"out={path}", *options, "action=input", "safety.stale_ms=5000")
    assert result.status != 0
    assert f"gamepad {pad.path} is gone" in result.err
    assert result.err.count("\n") == 1
    assert "1 demonstrations" in result.out
    (facts,), episode = (store := DemonstrationStore.open(path)).episode_facts, store.episode(0)
    assert (facts.input, facts.outcome, facts.notes["action"]) == ("gamepad", "success", "input")
    way = np.ptp(episode["action"], axis=0)
    assert 0.1 < way[0] < 0.4  # half a unit a second
    assert way[1] == 0
    np.testing.assert_array_equal(commands[-1], commands[-2])
    assert stops[-1] == len(commands)
    assert recede("inspect", path, f"out={tmp_path / 'hands.png'}").status == 0
