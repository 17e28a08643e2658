"""Pictures of a simulation, from a twin of it in another process.

Pictures may take longer than a control period, and the simulation runs in real time. So a twin, with the same task and
the same seed, takes the same steps in its own time, and renders the newest one. The simulation itself stays as it is.

Shapes: Da size of the action.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.faults import RunningEnv
from ..envs.task import Task
from ..realtime import Channel, Layouts
from ..specification import Specification

PICTURE_S = 1 / 30
"""Shortest time between two pictures, s."""

MOST_WORK = 0.6
"""Largest share of a processor that the pictures may take."""

WAIT_S = 0.1
"""Longest time until a twin notices that it is not needed any more, s."""

MOST_BYTES = 90_000
"""Largest picture, as a JPEG."""

SIDE = 640
"""Longest side of a picture, in pixels."""

QUALITIES = (80, 60, 40, 20)
"""Qualities of a JPEG, tried in this order until it is small enough."""

NICE = 5
"""How far the pictures stand back behind the control loop, as `nice` counts it."""

FAULT_BYTES = 1000
"""Longest reason why there are no pictures."""

CAPTION = [("time", "f8"), ("has_map", "?"), ("point", "f8", (2,))]
"""The time of a picture; whether places in it are known; and where the robot is, in shares of its width and height."""


def film_layouts(specification: Specification) -> Layouts:
    """The messages of a simulation to its twin, with times on the machine's clock.

    Every reset; every step after it was taken, with the time of its end and the number of steps; and as `ahead` the
    action of the step that begins, with the time of its begin and the number of steps before it.
    """
    action = specification.action
    step = np.dtype([("time", "f8"), ("number", "i8"), ("action", action.dtype, action.shape)])
    return {"reset": np.dtype([("time", "f8"), ("seed", "i8")]), "step": step, "ahead": step}


def picture_layouts(size: int) -> Layouts:
    """The messages with pictures. size: of the action; `ways` says where a range of each dimension leads (Da, 2)."""
    picture = [*CAPTION, ("ways", "f8", (size, 2)), ("size", "i8"), ("jpeg", "u1", (MOST_BYTES,))]
    return {"picture": np.dtype(picture), "no_pictures": np.dtype([("why", f"S{FAULT_BYTES}")])}


def to_jpeg(image: NDArray[np.uint8]) -> bytes:
    """A JPEG of an (H, W, 3) image, at most `SIDE` wide and high, and at most `MOST_BYTES` large."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    data = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= MOST_BYTES:
            break
    return data


def film(parent: Channel, task: Task, film_end: socket.socket, pictures_end: socket.socket) -> None:
    """The process of a twin, until the simulation or the parent ends."""
    os.nice(NICE)
    pictures = Channel(pictures_end, picture_layouts(task.specification.action.size), {"none": np.dtype([])})
    steps = Channel(film_end, {"none": np.dtype([])}, film_layouts(task.specification))
    with contextlib.closing(steps), contextlib.closing(pictures):
        twin = Twin(task, pictures)
        with contextlib.closing(twin.env):
            while True:
                list(parent.receive())
                for name, record in steps.receive():
                    twin.follow(name, record)
                twin.show(time.monotonic())
                steps.wait(min(twin.due - time.monotonic(), WAIT_S) if twin.has_news else WAIT_S)


class Twin:
    """A simulation that does what another one did. If it misses a step, it waits for the next reset.

    If its environment has a `preview`, it shows the present: how far the step under way has come. Otherwise it shows
    each step after it.
    """

    def __init__(self, task: Task, pictures: Channel) -> None:
        self.task, self.env = task, RunningEnv(partial(task.make, render_mode="rgb_array"), task.specification)
        self._pictures = pictures
        self._number, self._time, self._is_fresh = -1, 0.0, False
        self._observation: Any = None
        self._before: Any = None  # the observation a step earlier
        self._ahead: Any = None  # the message of the step under way
        self._last_action = np.zeros(task.specification.action.shape, task.specification.action.dtype)
        self._has_failed = False
        self.due = -math.inf
        """When the next picture may be taken, s."""

    def follow(self, name: str, record: Any) -> None:
        """Reset, or take a step."""
        if self._has_failed:
            return
        if name == "ahead":
            self._ahead = record
            return
        with self._reporting():
            self._before, self._ahead = self._observation, None
            if name == "reset":
                self._observation, _ = self.env.reset(int(record["seed"]))
                self._number, self._before = 0, None
            elif self._number < 0 or record["number"] != self._number + 1:
                self._number = -1
                return
            else:
                self._observation, *_ = self.env.step(record["action"])
                self._number, self._last_action = self._number + 1, record["action"]
            self._time, self._is_fresh = float(record["time"]), True

    @property
    def has_news(self) -> bool:
        """Whether there is something that was not shown yet."""
        return not self._has_failed and (self._is_fresh or self._is_under_way)

    def show(self, now: float) -> None:
        """Send a picture, if it is due and there is something new. now: the time, s."""
        if now < self.due or not self.has_news:
            return
        work = time.process_time()
        with self._reporting():
            action, moment, share = self._last_action, self._time, 0.0
            if self._is_under_way:
                seconds = min(max(now - self._ahead["time"], 0.0), self.task.specification.control_dt)
                moment, share = self._ahead["time"] + seconds, seconds / self.task.specification.control_dt
                action = self._ahead["action"]
            image = self.env.preview(action, share)
            if image is None or share == 1:  # nothing new comes before the next step
                self._ahead = None
            if image is None and self._is_fresh:
                image, moment, share = self.env.picture(), self._time, 0.0
            self._is_fresh = False
            if image is not None:
                self._send(image, moment, share)
        late = now - self.due
        pause = PICTURE_S - (late if late < PICTURE_S else 0.0)  # a late picture does not delay the next one
        self.due = now + max(pause, (time.process_time() - work) / MOST_WORK)

    @property
    def _is_under_way(self) -> bool:
        return self._ahead is not None and self._ahead["number"] == self._number

    def _send(self, image: NDArray[np.uint8], moment: float, share: float) -> None:
        data = to_jpeg(image)
        point, ways = self._places(image.shape, share)
        padded = np.zeros(MOST_BYTES, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)[:MOST_BYTES]
        self._pictures.send("picture", moment, bool(ways.any()), point, ways, len(data), padded)

    def _places(self, shape: tuple[int, ...], share: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the robot is in the picture (2,), and where each dimension leads (Da, 2); zeros if unknown.

        share: how far the step under way has come, in which the robot goes on as in the last one.
        """
        action = self.task.specification.action
        nowhere = np.zeros(2), np.zeros((action.size, 2))
        pixels: Callable[..., Any] | None = getattr(self.env.env.unwrapped, "pixels", None)
        if pixels is None or self.task.position is None or not action.low:
            return nowhere
        here = np.asarray(self._observation[self.task.position], np.float64)
        if self._before is not None:
            here = here + share * (here - np.asarray(self._before[self.task.position], np.float64))
        small = 1e-3
        rows = np.vstack([here, here + small * np.diag(np.subtract(action.high, action.low))])
        try:
            places = np.asarray(pixels(rows), np.float64) / (shape[1], shape[0])
        except Exception:  # of an adapter that knows no pixels; the picture is worth more than the map
            return nowhere
        if not np.isfinite(places).all():
            return nowhere
        return places[0], (places[1:] - places[0]) / small

    @contextlib.contextmanager
    def _reporting(self) -> Any:
        try:
            yield
        except ConnectionError:
            raise
        except Exception as error:  # each simulation and each graphics library raises errors of its own
            self._has_failed = True
            self._pictures.send("no_pictures", self.env.fault(error).cause.encode()[:FAULT_BYTES])
