"""Pictures of a simulation, from a twin of it in another process.

Pictures may take longer than a control period, and the simulation runs in real time. So a twin, with the same task and
the same seed, takes the same steps in its own time, and renders the newest one. The simulation itself stays as it is.

Shapes: Da size of the action.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.faults import RunningEnv
from ..envs.task import Task
from ..realtime import Channel, Layouts
from ..specification import Specification

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
    """The messages of a simulation to its twin: every reset and every step, and their times on the machine's clock."""
    action = specification.action
    return {
        "reset": np.dtype([("time", "f8"), ("seed", "i8")]),
        "step": np.dtype([("time", "f8"), ("number", "i8"), ("action", action.dtype, action.shape)]),
    }


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
                twin.show()
                steps.wait(WAIT_S)


class Twin:
    """A simulation that does what another one did. If it misses a step, it waits for the next reset."""

    def __init__(self, task: Task, pictures: Channel) -> None:
        self.task, self.env = task, RunningEnv(partial(task.make, render_mode="rgb_array"), task.specification)
        self._pictures = pictures
        self._number, self._time, self._is_fresh = -1, 0.0, False
        self._observation: Any = None
        self._has_failed = False

    def follow(self, name: str, record: Any) -> None:
        """Reset, or take a step."""
        if self._has_failed:
            return
        with self._reporting():
            if name == "reset":
                self._observation, _ = self.env.reset(int(record["seed"]))
                self._number = 0
            elif self._number < 0 or record["number"] != self._number + 1:
                self._number = -1
                return
            else:
                self._observation, *_ = self.env.step(record["action"])
                self._number += 1
            self._time, self._is_fresh = float(record["time"]), True

    def show(self) -> None:
        """Send a picture of the newest step, if it was not sent yet."""
        if not self._is_fresh or self._has_failed:
            return
        with self._reporting():
            image = self.env.picture()
            data = to_jpeg(image)
            point, ways = self._places(image.shape)
            padded = np.zeros(MOST_BYTES, np.uint8)
            padded[: len(data)] = np.frombuffer(data, np.uint8)[:MOST_BYTES]
            self._pictures.send("picture", self._time, bool(ways.any()), point, ways, len(data), padded)
            self._is_fresh = False

    def _places(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the robot is in the picture (2,), and where each dimension leads (Da, 2); zeros if unknown."""
        action = self.task.specification.action
        nowhere = np.zeros(2), np.zeros((action.size, 2))
        pixels: Callable[..., Any] | None = getattr(self.env.env.unwrapped, "pixels", None)
        if pixels is None or self.task.position is None or not action.low:
            return nowhere
        here = np.asarray(self._observation[self.task.position], np.float64)
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
