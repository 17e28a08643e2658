"""A gamepad or a 3D mouse on Linux as the hands: its axes are velocities, and its buttons begin, end and decide.

The kernel gives each event of an input device as a `struct input_event`, and the range of each axis by an ioctl.
Source: linux/input.h, linux/input-event-codes.h, and the kernel's gamepad.rst, by which all gamepads have these codes.
"""

from __future__ import annotations

import math
import os
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..robots.interface import Reading
from .interface import Order, Status

EVENT = struct.Struct("llHHi")
"""Seconds, microseconds, type, code, value."""

SYN, KEY, REL, ABS = 0, 1, 2, 3
"""Types of events: the end of a packet, a button, an axis whose rest is silent, an axis."""

DROPPED = 3
"""The code of a `SYN` after which events are lost up to the next `SYN`."""

STICKS = {
    "left_x": (0, 1),
    "left_y": (1, -1),
    "right_x": (3, 1),
    "right_y": (4, -1),
    "hat_x": (16, 1),
    "hat_y": (17, -1),
}
"""Axis of the input -> its code, and its sign; up is positive."""

LEFT_TRIGGER, RIGHT_TRIGGER, LEFT_BUMPER, RIGHT_BUMPER = 2, 5, 0x136, 0x137
SOUTH, EAST, NORTH, WEST, SELECT, START = 0x130, 0x131, 0x133, 0x134, 0x13A, 0x13B

BUTTONS: dict[str, dict[int, tuple[str, ...]]] = {
    "ready": {START: ("begin",), SELECT: ("undo",)},
    "recording": {START: ("end",), EAST: ("discard",)},
    "ended": {
        START: ("keep",),
        SOUTH: ("success", "keep"),
        NORTH: ("failure", "keep"),
        WEST: ("failure", "keep"),
        EAST: ("discard",),
    },
    "controlled": {
        START: ("end",),
        SOUTH: ("success", "end"),
        NORTH: ("failure", "end"),
        WEST: ("failure", "end"),
    },
}
"""Phase -> button -> the orders that it gives. The driver of Xbox gamepads takes north for west, so both are one."""

HINT = (
    "START begins, ends and keeps; the lower button keeps as a success, the upper or left one as a failure; the right "
    "one discards; SELECT removes the last episode"
)

CAP = {"x": (0, 1), "y": (1, -1), "z": (2, -1), "roll": (3, 1), "pitch": (4, -1), "yaw": (5, -1)}
"""Axis of a 3D mouse -> its code, and its sign. The device itself counts right, towards the person, and down."""

CAP_END = 350
"""The value of an axis of a 3D mouse at its end, if the kernel does not say it."""

CAP_SILENCE_S = 0.1
"""Without an event for so long, an axis of type `REL` is at rest: the kernel gives no zeros. One comes every 16 ms."""

LEFT, RIGHT = 0x100, 0x101

CAP_BUTTONS: dict[str, dict[int, tuple[str, ...]]] = {
    "ready": {LEFT: ("begin",)},
    "recording": {LEFT: ("end",), RIGHT: ("discard",)},
    "ended": {LEFT: ("keep",), RIGHT: ("discard",)},
    "controlled": {LEFT: ("end",)},
}
"""Phase -> button of a 3D mouse -> the orders that it gives."""

CAP_HINT = "the left button begins, ends and keeps an episode; the right one discards it"

GIVEN_BACK_S = 0.6
"""Seconds at rest after which a policy goes on."""

BY_ID = Path("/dev/input/by-id")
"""Where Linux names the input devices."""


def range_request(code: int) -> int:
    """The request of the ioctl that reads the value and the range of an axis: EVIOCGABS.

    >>> hex(range_request(0))
    '0x80184540'
    """
    return 2 << 30 | 24 << 16 | ord("E") << 8 | 0x40 + code


KEYS_REQUEST = 2 << 30 | 96 << 16 | ord("E") << 8 | 0x18
"""The request of the ioctl that reads which buttons are pressed: EVIOCGKEY of 96 bytes."""

SILENT_REQUEST = 2 << 30 | 8 << 16 | ord("E") << 8 | 0x20 + REL
"""The request of the ioctl that reads which axes of type `REL` there are: EVIOCGBIT of 8 bytes."""


class Device:
    """A velocity input whose axes are from -1 to 1. A device that nobody touches has a velocity of zero.

    While a policy controls the robot, the device is held as long as an axis is moved or a button is pressed, and
    `GIVEN_BACK_S` longer.

    device: name of the device; None for the only one there is.
    dead: share of the way of an axis that does not count, because no stick comes back to its very middle.

    Raises ValueError unless dead is at least 0 and below 1.
    """

    kind = "velocity"
    axes: tuple[str, ...]
    what: str
    """What the device is."""
    links: str
    """Its names in `BY_ID`."""
    codes: tuple[int, ...]
    """Its axes, of which it must have the first ones, `least` of them."""
    least: int
    buttons: dict[str, dict[int, tuple[str, ...]]]
    """Phase -> button -> the orders that it gives."""
    hint: str
    """What the buttons do, in words."""

    def __init__(self, device: str | None = None, *, dead: float = 0.1) -> None:
        if not 0 <= dead < 1:
            raise ValueError(f"dead must be at least 0 and below 1, got {dead}")
        self.device, self.dead = device, dead
        self._file: int | None = None
        self._rest, self._is_dropped = b"", False
        self._ranges, self._values = dict[int, tuple[int, int]](), dict[int, int]()
        self._moved, self._moved_s = set[int](), dict[int, float]()  # axes of type REL alone
        self._pressed, self._presses = set[int](), deque[int]()
        self._is_controlled, self._touched_s = False, -math.inf

    def start(self) -> None:
        """Open the device, and say which buttons do what.

        Raises ConnectionError if there is no such device, if it cannot be read, or if it has other axes.
        """
        self.device = self.device or self._only_one()
        try:
            self._file = os.open(self.device, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ConnectionError(
                f"the {self.what} {self.device} cannot be opened ({error.strerror}): plug it in, and see that you may "
                "read it (be in the group that owns it)"
            ) from None
        self._synchronise()
        if not {*self.codes[: self.least]} <= self._ranges.keys():
            self.close()
            raise ConnectionError(
                f"{self.device} is no {self.what}, because it lacks axes of one: name one of {BY_ID}/{self.links}"
            )
        print(self.hint)

    def read(self, now: float) -> Reading | None:
        """Where the axes are; None if a policy goes on. An unplugged device raises ConnectionError."""
        self._take()
        values = self._axis_values(now)
        if self._pressed or any(values.values()):
            self._touched_s = now
        if self._is_controlled and now - self._touched_s > GIVEN_BACK_S:
            return None
        return Reading(np.array([values[name] for name in self.axes]), now)

    def _axis_values(self, now: float) -> dict[str, float]:
        """Axis -> where it is."""
        raise NotImplementedError

    def orders(self, status: Status) -> Sequence[Order]:
        """The orders of the buttons that were pressed since the last call."""
        self._take()
        self._is_controlled = status.phase == "controlled"
        presses = [self._presses.popleft() for _ in range(len(self._presses))]
        meanings = self.buttons.get(status.phase, {})
        return [Order(kind) for button in presses for kind in meanings.get(button, ())]

    def close(self) -> None:
        """Close the device."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _take(self) -> None:
        """Take all events that have come."""
        if self._file is None:
            raise RuntimeError(f"start() the {self.what} first")
        while True:
            try:
                data = os.read(self._file, 64 * EVENT.size)
            except BlockingIOError:
                return
            except OSError as error:
                raise self._gone(str(error.strerror)) from None
            if not data:
                raise self._gone("it has ended")
            data = self._rest + data
            whole = len(data) // EVENT.size * EVENT.size
            self._rest = data[whole:]
            for _, _, kind, code, value in EVENT.iter_unpack(data[:whole]):
                self._event(kind, code, value)

    def _event(self, kind: int, code: int, value: int) -> None:
        if kind == SYN:
            if self._is_dropped and code != DROPPED:
                self._synchronise()
            self._is_dropped = code == DROPPED
        elif self._is_dropped:
            return
        elif kind == ABS:
            self._values[code] = value
        elif kind == REL and code in self._moved_s:
            self._values[code] = value
            self._moved.add(code)
        elif kind == KEY and value == 1:
            self._pressed.add(code)
            self._presses.append(code)
        elif kind == KEY and value == 0:
            self._pressed.discard(code)

    def _synchronise(self) -> None:
        """Ask the kernel where all axes and buttons are."""
        import fcntl

        assert self._file is not None
        for code in self.codes:
            try:
                answer = fcntl.ioctl(self._file, range_request(code), bytes(24))
            except OSError:  # it has no such axis
                continue
            value, low, high = struct.unpack_from("iii", answer)
            if low < high:
                self._ranges[code], self._values[code] = (low, high), value
        self._pressed = self._bits(KEYS_REQUEST, 96)

    def _bits(self, request: int, size: int) -> set[int]:
        """The numbers of the bits that an ioctl answers with; none if the device does not know it."""
        import fcntl

        assert self._file is not None
        try:
            bits = fcntl.ioctl(self._file, request, bytes(size))
        except OSError:
            return set()
        return {code for code in range(8 * size) if bits[code // 8] >> code % 8 & 1}

    def _share(self, code: int, *, middle: bool = False) -> float:
        """Where an axis is, outside its dead zone: from 0 to 1, or from -1 to 1 about its middle. 0 if it has none."""
        if code not in self._ranges:
            return 0.0
        low, high = self._ranges[code]
        share = min(max((self._values[code] - low) / (high - low), 0.0), 1.0)
        share = 2 * share - 1 if middle else share
        return float(np.sign(share)) * max(abs(share) - self.dead, 0.0) / (1 - self.dead)

    def _gone(self, why: str) -> ConnectionError:
        return ConnectionError(f"the {self.what} {self.device} is gone ({why}): plug it in, and begin again")

    def _only_one(self) -> str:
        """The name of the only device. Raises ConnectionError if there is none, or another one."""
        names = sorted(str(path) for path in BY_ID.glob(self.links))
        if len(names) != 1:
            number = f"{len(names)} of them ({', '.join(names)})" if names else f"no {self.links}"
            raise ConnectionError(
                f"there must be one {self.what}, but {BY_ID} has {number}: plug it in, or give input.device="
            )
        return names[0]


class Gamepad(Device):
    """Its axes `triggers` and `bumpers` are the right one minus the left one."""

    axes = ("left_x", "left_y", "right_x", "right_y", "triggers", "bumpers", "hat_x", "hat_y")
    what, links = "gamepad", "*-event-joystick"
    codes, least = (*(code for code, _ in STICKS.values()), LEFT_TRIGGER, RIGHT_TRIGGER), 2
    buttons, hint = BUTTONS, HINT

    def _axis_values(self, now: float) -> dict[str, float]:
        del now
        values = {name: sign * self._share(code, middle=True) for name, (code, sign) in STICKS.items()}
        values["triggers"] = self._share(RIGHT_TRIGGER) - self._share(LEFT_TRIGGER)
        values["bumpers"] = float(RIGHT_BUMPER in self._pressed) - float(LEFT_BUMPER in self._pressed)
        return values


class SpaceMouse(Device):
    """Its cap goes right along x, away from the person along y and up along z, and turns about them, right-handed."""

    axes = tuple(CAP)
    what, links = "3D mouse", "*3Dconnexion*-event-*"
    codes, least = tuple(code for code, _ in CAP.values()), len(CAP)
    buttons, hint = CAP_BUTTONS, CAP_HINT

    def _axis_values(self, now: float) -> dict[str, float]:
        moved, self._moved = self._moved, set[int]()
        for code, moved_s in self._moved_s.items():
            if code in moved:
                self._moved_s[code] = now
            elif now - moved_s > CAP_SILENCE_S:
                self._values[code] = 0
        return {name: sign * self._share(code, middle=True) for name, (code, sign) in CAP.items()}

    def _synchronise(self) -> None:
        super()._synchronise()
        for code in self._bits(SILENT_REQUEST, 8) & {*self.codes}:
            self._ranges[code], self._values[code], self._moved_s[code] = (-CAP_END, CAP_END), 0, -math.inf
