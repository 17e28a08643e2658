"""A page in a browser as the hands: it shows the robot, and its keys, mouse, touch and gamepads move it.

The page is served by a process of its own (`web.py`), so that the control loop never waits for it. Pictures of a
simulation come from its twin, and those of a robot from its cameras.

Shapes: Da size of the action, which is the number of axes.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..realtime import Channel, Child, connected
from ..robots.filming import CAPTION, MOST_BYTES, film, film_layouts, picture_layouts, to_jpeg
from ..robots.interface import Reading, Robot
from ..robots.simulated import SimulatedRobot
from ..specification import Specification
from ..web.access import Access, listen
from .axes import axis_names
from .interface import Order, Status
from .web import NO_MESSAGES, Shown, Site, answer_layouts, serve, status_layouts

STATUS_S = 0.05
"""Shortest time between two messages about the recording, and between two with values, s."""

MOST_VALUES = 200
"""Most numbers that the page lists; the streams that come first are listed."""

DIGITS = 5
"""Digits of a value on the page."""

READ_S = 0.03
"""Shortest time between two looks at the readings of the robot, and between two pictures of its cameras, s."""


class Browser:
    """A relative input: the way that the page has gone so far, in units of the action.

    robot: it is shown, and not started yet. host, port: where the page is served; port 0 is a free one. token: what the
    address of the page must hold; None for none.

    Raises ValueError if websockets is not installed.
    """

    kind = "relative"

    def __init__(self, robot: Robot, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> None:
        if find_spec("websockets") is None:
            raise ValueError("input=browser needs websockets: pip install 'recede[record]'")
        action = robot.specification.action
        self.axes = axis_names(action)
        self.host, self.port, self.token = host, port, token
        self.address = ""
        """The address of the page, after `start`."""
        self._robot, self._range = robot, np.subtract(action.high, action.low)
        self._web: Child | None = None
        self._twin: Child | None = None
        self._cameras: _Cameras | None = None
        self._is_closed = False
        self._reading: Reading | None = None
        self._orders: list[Order] = []
        self._texts = {"status": "", "values": ""}  # as they were sent last
        self._sent_s = dict.fromkeys(self._texts, -np.inf)
        self._shown, self._read_s = _shown(robot.specification), -np.inf

    def start(self) -> None:
        """Serve the page and print its address. Raises ConnectionError if nothing can listen there."""
        access = Access(host=self.host, token=self.token, printer="the recording", purpose="drive the robot")
        listening = listen(self.host, self.port, key="input.port")
        self.address = access.address(listening.getsockname()[1])
        size = len(self.axes)
        pictures = picture_layouts(size)
        shown, taken = connected(pictures, NO_MESSAGES)
        site = Site(
            axes=self.axes,
            streams=self._shown,
            task=self._robot.task.name if isinstance(self._robot, SimulatedRobot) else "",
            access=access,
        )
        with listening, shown, taken:
            self._web = Child(serve, status_layouts(), answer_layouts(size), listening, taken, site)
            if isinstance(self._robot, SimulatedRobot):
                self._film(self._robot, shown)
            else:
                names = [stream.name for stream in self._robot.specification.observations if stream.is_image]
                self._cameras = _Cameras(Channel(shown.dup(), pictures, NO_MESSAGES), names, size)
        print(f"drive the robot at {self.address}", flush=True)

    def _film(self, robot: SimulatedRobot, shown: socket.socket) -> None:
        filmed, followed = connected(film_layouts(robot.specification), NO_MESSAGES)
        with followed:
            self._twin = Child(film, NO_MESSAGES, NO_MESSAGES, robot.task, followed, shown)
        robot.film(filmed)

    def read(self, now: float) -> Reading | None:
        """The way so far; None while no page is there, or while it is not in front."""
        del now
        self._receive()
        return self._reading

    def orders(self, status: Status) -> Sequence[Order]:
        """What the page asks for. Shows it the status."""
        self._receive()
        self._show(status)
        self._show_readings()
        orders, self._orders = self._orders, []
        return orders

    def close(self) -> None:
        """End the processes."""
        self._is_closed = True
        if self._cameras is not None:
            self._cameras.close()
        for child in (self._web, self._twin):
            if child is not None:
                child.close()

    def _receive(self) -> None:
        if self._web is None:
            raise RuntimeError("start() the input first")
        if self._is_closed:
            raise ConnectionError("the page is closed: make another input")
        try:
            for name, record in self._web.channel.receive():
                if name == "order":
                    self._orders.append(Order(record["kind"].decode(), record["text"].decode()))
                elif record["is_held"]:
                    self._reading = Reading(np.array(record["way"]) * self._range, float(record["time"]))
                else:
                    self._reading = None
        except ConnectionError:
            raise ConnectionError("the process that serves the page has ended: start the recording again") from None

    def _show(self, status: Status) -> None:
        values = {
            "phase": status.phase,
            "episodes": status.num_episodes,
            "seconds": round(status.seconds, 1),
            "led": status.is_led,
            "outcome": status.outcome,
            "message": status.message[:500],
            "task": status.task[:200],
            "sentence": status.sentence[:500],
        }
        self._send("status", values)

    def _show_readings(self) -> None:
        now = time.monotonic()
        if now - self._read_s < READ_S:
            return
        self._read_s, readings = now, {}
        with contextlib.suppress(ConnectionError):  # whoever drives the robot reports it
            readings = self._robot.read()
        if self._cameras is not None:
            self._cameras.show(readings)
        if values := {name: _rounded(readings[name].value) for name, *_ in self._shown if name in readings}:
            self._send("values", {"values": values})

    def _send(self, name: str, values: dict[str, Any]) -> None:
        """Send values to the page as JSON, if they are new."""
        assert self._web is not None
        text, now = json.dumps(values, ensure_ascii=False), time.monotonic()
        if text == self._texts[name] or now - self._sent_s[name] <= STATUS_S:
            return
        try:
            if self._web.channel.send(name, text.encode(errors="replace")):
                self._texts[name], self._sent_s[name] = text, now
        except ConnectionError:
            raise ConnectionError("the process that serves the page has ended: start the recording again") from None


def _shown(specification: Specification) -> tuple[Shown, ...]:
    """The streams that the page lists."""
    streams, total = list[Shown](), 0
    for stream in specification.observations:
        total += 0 if stream.is_image else stream.size
        if not stream.is_image and total <= MOST_VALUES:
            streams.append(Shown(stream.name, axis_names(stream), tuple(stream.units) or ("",) * stream.size))
    return tuple(streams)


def _rounded(value: NDArray[Any]) -> list[float | None]:
    """The values of a reading for the page; None for what is not finite."""
    numbers = [float(f"{number:.{DIGITS}g}") for number in np.ravel(value).tolist()]
    return [number if math.isfinite(number) else None for number in numbers]


class _Cameras:
    """Pictures from the image streams of a robot, compressed in a thread."""

    def __init__(self, channel: Channel, names: Sequence[str], size: int) -> None:
        self._channel, self._names, self._size = channel, names, size
        self._newest: Reading | None = None
        self._is_new, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="pictures of the cameras", daemon=True)
        self._thread.start()

    def show(self, readings: Mapping[str, Reading]) -> None:
        """Hand over the newest image of each camera, side by side if they have one height."""
        images = [readings[name] for name in self._names if name in readings]
        if images and (self._newest is None or images[0].time > self._newest.time):
            alike = [image.value for image in images if image.value.shape[0] == images[0].value.shape[0]]
            self._newest = Reading(np.concatenate(alike, axis=1), images[0].time)
            self._is_new.set()

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._is_new.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._is_new.wait()
                self._is_new.clear()
                if self._is_closed:
                    return
                if self._newest is not None:
                    self._send(self._newest)
        except ConnectionError:  # the server has ended, which `read` reports
            return
        finally:
            self._channel.close()

    def _send(self, reading: Reading) -> None:
        data = to_jpeg(reading.value)
        padded: NDArray[np.uint8] = np.zeros(MOST_BYTES, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)[:MOST_BYTES]
        caption: list[Any] = [reading.time, False, np.zeros(2)]
        assert len(caption) == len(CAPTION)
        self._channel.send("picture", *caption, np.zeros((self._size, 2)), len(data), padded)
