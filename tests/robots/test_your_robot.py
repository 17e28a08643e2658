"""The driver in docs/your_robot.md is a robot, and every block of the pages about robots runs, in their order."""

import re
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import recede
from emulated_bus import EmulatedBus, Servo
from recede.datasets.store import DemonstrationStore
from recede.realtime import MonotonicClock
from recede.robots.check import check_robot

PAGES = [Path(recede.__file__).parent / "docs" / name for name in ("your_robot.md", "safety.md", "so_arm.md")]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
DELAY_S = 0.05


class Axis:
    """The library of the maker of the slide: slow calls, and a slower motor."""

    def __init__(self, address):
        self.commands = [(0.0, 200.0)]

    def go_to_mm(self, place):
        time.sleep(0.002)
        self.commands.append((time.monotonic() + DELAY_S, place))

    def read_mm(self):
        time.sleep(0.002)
        return next(place for moment, place in reversed(self.commands) if moment <= time.monotonic())


class Hand:
    """A standard input: a person who presses Enter after moving the arm."""

    def __init__(self, emulated):
        self.emulated, self.num_asked = emulated, 0

    def readline(self):
        self.num_asked += 1
        for place in (1500, 1100, 2000, 2900, 2048) if self.num_asked == 3 else ():
            for servo in self.emulated.servos.values():
                servo.encoder = place
            looked = len(self.emulated.requests)
            while len(self.emulated.requests) < looked + 2:
                time.sleep(0.001)
        return "\n"

    def flush(self):
        pass


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """The names that the blocks of the pages define, run in order, and their output."""
    emulated = EmulatedBus({number: Servo(number) for number in range(1, 7)})
    monkeypatch.setattr("recede.robots.feetech.bus.SILENCE_S", 0.06)  # for a busy machine
    monkeypatch.setitem(sys.modules, "slide", types.SimpleNamespace(Axis=Axis))
    monkeypatch.setattr("sys.stdin", Hand(emulated))
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        for block in BLOCKS:
            exec(compile(block.replace("/dev/ttyACM0", emulated.port), "your_robot.md", "exec"), names)
        yield names, capsys.readouterr().out
    finally:
        if "robot" in names:
            names["robot"].close()
        emulated.unplug()


@pytest.mark.slow
def test_the_document_is_true(shown):
    names, printed = shown
    robot, clock = names["robot"], names["clock"]
    assert "50 commands/s, each 60.0 ms before its effect" in printed
    assert "60 commands/s" in printed
    assert robot.actuation_delay > DELAY_S / 2
    episode = DemonstrationStore.open("slide.zarr").episode(0)
    assert episode["place"].shape == episode["action"].shape == (20, 1)
    np.testing.assert_allclose(episode["action"], np.clip(episode["place"] + 0.005, 0, 0.4), atol=1e-6)
    check_robot(robot, clock, seconds=0.3)
    robot._axis.read_mm = lambda: (_ for _ in ()).throw(ConnectionError("its cable was cut"))
    robot._thread.join(30)
    with pytest.raises(ConnectionError, match="the slide at usb:1 is lost: its cable was cut"):
        robot.read()


def slide_of_the_document(monkeypatch):
    monkeypatch.setitem(sys.modules, "slide", types.SimpleNamespace(Axis=Axis))
    names = {}
    exec(compile(BLOCKS[0], "your_robot.md", "exec"), names)
    return names["Slide"]("usb:1", MonotonicClock())


@pytest.mark.parametrize("place", [np.nan, 1e6, 0.0, 231.0])
def test_the_driver_of_the_document_holds_its_last_command_whatever_it_reads(monkeypatch, place):
    slide = slide_of_the_document(monkeypatch)
    slide.start()
    slide._axis.read_mm = lambda: place
    slide.stop()
    time.sleep(0.02)
    assert len(slide._axis.commands) == 1  # nothing was sent
    slide.start()
    slide.command(np.array([0.3], np.float32), 0.0)
    slide.stop()
    slide.command(np.array([0.1], np.float32), 0.0)  # ignored
    slide.close()
    assert [goal for _, goal in slide._axis.commands[1:]] == pytest.approx([300.0])


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, OSError])
def test_the_driver_of_the_document_is_lost_after_any_error(monkeypatch, error):
    slide = slide_of_the_document(monkeypatch)
    slide.start()
    slide._axis.read_mm = lambda: (_ for _ in ()).throw(error("a broken frame"))
    slide._thread.join(30)
    with pytest.raises(ConnectionError, match="lost: a broken frame"):
        slide.read()
    slide.stop()


def test_the_document_shows_what_the_check_prints():
    (shown,) = re.findall(
        r"```\n(.*?)```", PAGES[0].read_text().split("## Control it")[0].split("Otherwise it prints")[1], re.DOTALL
    )
    assert [line.split()[0] for line in shown.splitlines()] == [
        "60", "joints", "read()", "position()", "command()", "stop()", "all", "by",
    ]  # fmt: skip


def test_a_driver_of_the_document_is_small():
    assert sum(bool(line.strip()) for line in BLOCKS[0].splitlines()) < 75
