"""A check of your own input. Nothing moves: it is read, and asked for its orders in every phase of a recording."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..realtime import Clock
from ..robots.interface import TOLERANCE_S, Answer, Reading
from ..specification import nearest
from .interface import KINDS, ORDERS, PHASES, Order, Status, Teleoperator

RATE = 100.0
"""Reads a second."""


def check_teleoperator(
    teleoperator: Teleoperator,
    clock: Clock,
    *,
    seconds: float = 2.0,
    max_call_s: float = 0.02,
) -> str:
    """Start an input, read it, and check every promise of `Teleoperator`; a sentence to print. Closes the input.

    seconds: how long it is read; hold it for some of that time.
    max_call_s: upper bound of the duration of a call, s of real time, even if `clock` is virtual.

    Raises ValueError for the first broken promise, TimeoutError if a call blocks, and ConnectionError if the input is
    lost.
    """
    if teleoperator.kind not in KINDS:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)}, got {teleoperator.kind!r}: "
            f"{nearest(str(teleoperator.kind), KINDS)}"
        )
    axes = teleoperator.axes
    if not axes or not all(isinstance(name, str) and name for name in axes) or len({*axes}) < len(axes):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"axes must be different names, one for each axis of the input, got {axes}")
    slowest: dict[str, float] = {}

    def call(name: str, function: Callable[[], Answer]) -> Answer:
        begin = time.perf_counter()
        answer = function()
        slowest[name] = max(time.perf_counter() - begin, slowest.get(name, 0.0))
        if slowest[name] > max_call_s:
            raise TimeoutError(
                f"{name}() must return within {max_call_s:g} s, but took {slowest[name]:.3g} s: talk to the input in a "
                "thread of its own, and keep its newest reading"
            )
        return answer

    newest: Reading | None = None
    num_readings = num_held = num_reads = 0
    try:
        teleoperator.start()
        until = clock.now() + seconds
        while clock.now() < until - TOLERANCE_S:
            now = clock.now()
            reading, num_reads = call("read", lambda now=now: teleoperator.read(now)), num_reads + 1
            if reading is not None:
                _check_reading(reading, newest, len(axes), clock.now())
                num_held += 1
                num_readings += newest is None or reading.time > newest.time
                newest = reading
            clock.sleep_until(now + 1 / RATE)
        for phase in PHASES:
            status = Status(phase=phase, num_episodes=0)
            _check_orders(call("orders", lambda status=status: teleoperator.orders(status)), phase)
    finally:
        teleoperator.close()
    teleoperator.close()
    return (
        f"all right: the {teleoperator.kind} input was read for {seconds:g} s, and held in {num_held} of {num_reads} "
        f"reads with {num_readings} readings; calls took at most {1e3 * max(slowest.values()):.2f} ms"
    )


def _check_reading(reading: Reading, before: Reading | None, num_axes: int, now: float) -> None:
    if not isinstance(reading, Reading):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"read() must return a Reading or None, got {type(reading).__name__}")
    value = np.asarray(reading.value)
    if value.shape != (num_axes,) or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise ValueError(
            f"read() must give {num_axes} finite numbers, one for each of its axes, got {value.dtype} of shape "
            f"{value.shape}: {value.tolist()}"
        )
    if not reading.time <= now + TOLERANCE_S:
        raise ValueError(f"the time of a reading must not be in the future, got {reading.time:.6f} s at {now:.6f} s")
    if before is not None and reading.time < before.time:
        raise ValueError(f"the time of a reading must not go back, got {reading.time:.6f} s after {before.time:.6f} s")


def _check_orders(orders: object, phase: str) -> None:
    if not isinstance(orders, list | tuple):
        raise ValueError(f"orders() must return a list of orders, got {type(orders).__name__} while {phase}")
    for order in orders:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(order, Order) or order.kind not in ORDERS:
            raise ValueError(f"an order must be an Order of one of {', '.join(ORDERS)}, got {order!r} while {phase}")
