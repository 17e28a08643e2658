"""The calibration of an arm of six serial-bus servos: from encoder steps to joints.

It is a JSON file, in the format of LeRobot. Each joint has the `id` of its servo, `drive_mode` (1 if the joint turns
the other way), `homing_offset` (steps that the servo subtracts from its encoder), `range_min` and `range_max` (steps).
The servo stores offset and range as well, and does not leave the range.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...files import read_json, write_json
from .bus import (
    BAUD_RATE,
    HOMING_OFFSET,
    LOCK,
    MODEL,
    POSITION,
    RANGE_MAX,
    RANGE_MIN,
    STEPS,
    STS3215,
    TORQUE,
    Bus,
    Register,
    open_port,
)

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""The joints from the base on. Their servos have the ids 1 to 6 unless the calibration says otherwise."""

LEAST_RANGE = 100
"""Smallest range of a joint, in steps (9 degrees). A joint that moved less was not moved on purpose."""


@dataclass(frozen=True)
class Joint:
    """The calibration of one joint, see above. Raises ValueError for a value that no servo can have."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int

    def __post_init__(self) -> None:
        bounds = {"id": (0, 253), "drive_mode": (0, 1), "homing_offset": (1 - STEPS // 2, STEPS // 2 - 1)}
        for name, value in asdict(self).items():
            low, high = bounds.get(name, (0, STEPS - 1))
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        if self.range_min >= self.range_max:
            raise ValueError(f"range_min must lie below range_max, got {self.range_min} and {self.range_max}")


def read_calibration(path: str | Path) -> dict[str, Joint]:
    """The joints of a file, in the order of `JOINTS`.

    Raises FileNotFoundError if the file does not exist, and ValueError if it is damaged or impossible.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no calibration {path}: make it with {__name__}.calibrate")
    content = read_json(Path(path))
    if content.keys() != set(JOINTS):
        raise ValueError(f"{path} must hold the joints {', '.join(JOINTS)}, got {', '.join(content)}: calibrate again")
    joints: dict[str, Joint] = {}
    for name in JOINTS:
        try:
            joints[name] = Joint(**content[name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, joint {name}: {error}; calibrate again") from None
    _check_ids([joint.id for joint in joints.values()], str(path))
    return joints


def _check_ids(ids: Sequence[int], place: str) -> None:
    if len(ids) != len(JOINTS) or len(set(ids)) != len(ids):
        raise ValueError(f"{place} must give each of {len(JOINTS)} joints a servo of its own, got {[*ids]}")


def joints_of(positions: ArrayLike, offsets: Sequence[int], ids: Sequence[int]) -> dict[str, Joint]:
    """The calibration of joints whose positions (N, 6), steps, were recorded while they moved from end to end.

    Raises ValueError if a joint did not move, or turned past the end of its encoder.
    """
    steps = np.asarray(positions, dtype=np.int64)
    lows, highs = steps.min(axis=0).tolist(), steps.max(axis=0).tolist()
    leaps = np.abs(np.diff(steps, axis=0)).max(axis=0, initial=0)
    joints: dict[str, Joint] = {}
    for name, servo, offset, low, high, leap in zip(JOINTS, ids, offsets, lows, highs, leaps, strict=True):
        if leap > STEPS // 2 or low < 0 or high >= STEPS:
            raise ValueError(
                f"joint {name} turned past the end of its encoder: calibrate again, begin in the middle of its range, "
                "and turn it by less than half a turn to either side"
            )
        if high - low < LEAST_RANGE:
            raise ValueError(f"joint {name} must be moved from end to end, but moved by {high - low} steps of {STEPS}")
        joints[name] = Joint(servo, 0, offset, low, high)
    return joints


def calibrate(
    port: str,
    path: str | Path,
    *,
    ids: Sequence[int] = (1, 2, 3, 4, 5, 6),
    ask: Callable[[str], Any] = input,
    baud_rate: int = BAUD_RATE,
) -> dict[str, Joint]:
    """Calibrate an arm that somebody moves by hand. Writes the calibration to the servos and to a file.

    port: name of the serial port.
    path: the file to write.
    ids: ids of the servos, in the order of `JOINTS`.
    ask: shows a text, and returns once the person has done it.

    Raises FileExistsError if the file exists; ValueError for impossible ids, servos of another model, and movements
    that give no range; and the errors of `open_port` and `Bus`.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} already exists: remove it, or calibrate to another file")
    _check_ids(ids, "ids")
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Bus(open_port(port, baud_rate), dict(zip(ids, JOINTS, strict=True)))) as bus:
        check_models(bus)
        ask("Hold the arm: it will lose its torque. Then press Enter. ")
        bus.write(TORQUE, [0] * len(ids))
        for register, value in ((HOMING_OFFSET, 0), (RANGE_MIN, 0), (RANGE_MAX, STEPS - 1)):
            _keep(bus, register, [value] * len(ids))
        ask("Bring every joint to the middle of its range, the gripper half open. Then press Enter. ")
        middle = STEPS // 2
        offsets = [max(encoder - middle, 1 - middle) for encoder in _positions(bus)]
        _keep(bus, HOMING_OFFSET, offsets)
        joints = joints_of(_watched(bus, ask), offsets, ids)
        _keep(bus, RANGE_MIN, [joint.range_min for joint in joints.values()])
        _keep(bus, RANGE_MAX, [joint.range_max for joint in joints.values()])
    write_json(path, {name: asdict(joint) for name, joint in joints.items()})
    return joints


def check_models(bus: Bus) -> None:
    """Raises ValueError if a servo is of another model, because its registers would differ too."""
    for (servo, name), reply in zip(bus.servos.items(), bus.sync_read(MODEL).values(), strict=True):
        if reply.values != (STS3215,):
            raise ValueError(
                f"servo {servo} ({name}) must be an STS3215, of model {STS3215}, got model {reply.values[0]}"
            )


def _positions(bus: Bus) -> list[int]:
    return [reply.values[0] for reply in bus.sync_read(POSITION).values()]


def _keep(bus: Bus, register: Register, values: Sequence[int]) -> None:
    """Write a persistent register."""
    bus.write(LOCK, [0] * len(values))
    bus.write(register, values)
    bus.write(LOCK, [1] * len(values))


def _watched(bus: Bus, ask: Callable[[str], Any]) -> list[list[int]]:
    """Record the positions of the joints until the person has moved them."""
    text, failures = (
        "Move every joint slowly from end to end, and put the arm down. Then press Enter. ",
        list[Exception](),
    )

    def wait() -> None:
        try:
            ask(text)
        except Exception as error:
            failures.append(error)

    asking = threading.Thread(target=wait, daemon=True)
    asking.start()
    positions = [_positions(bus)]
    while asking.is_alive():
        positions.append(_positions(bus))
        time.sleep(0.005)
    if failures:
        raise failures[0]
    return positions
