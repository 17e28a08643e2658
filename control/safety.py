"""Safety between a policy and a robot: whatever the plan is, no command is outside the limits.

`next_command` is one array function with leading batch axes, so that tests can try it on millions of commands; `Safety`
adds the memory of one robot, and the times after which a robot without a sensible plan stops.

| event | reaction |
|---|---|
| target outside the position limits or the workspace | clipped to them |
| faster, or accelerating more, than allowed | as fast as allowed, towards the target |
| target not finite, or further from the last command than `jump` | braked, and held while that lasts |
| observations older than `stale_s`, or no plan | braked, and held while that lasts |
| a reading of the future, not finite or outside its limits | not acted on: its stream grows stale |
| a policy that is lost | slower, held or stopped, as chosen: see `planned.Planned` |
| a late tick | its command is given at once, and missed periods are skipped: see `control.loop` |
| held for longer than `patience_s`, or `stop` | stopped: braked and held until `begin` |

Braking is within the acceleration limit, and every command leaves room to brake before the position limits.

Shapes: Da size of the action; ... any batch axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..robots.interface import TOLERANCE_S
from ..specification import Specification

Array: TypeAlias = NDArray[np.float64]


class Event(IntFlag):
    """A reason why the command is not the target; or that a reading was not acted on, or that the policy is lost."""

    POSITION = 1
    SPEED = 2
    ACCELERATION = 4
    NOT_FINITE = 8
    JUMP = 16
    STALE = 32
    NO_PLAN = 64
    STOPPED = 128
    BAD_READING = 256
    LOST = 512


HELD = Event.NOT_FINITE | Event.JUMP | Event.STALE | Event.NO_PLAN
"""Events for which the target is ignored, and the robot brakes."""


@dataclass(frozen=True)
class Limits:
    """Limits of each dimension of the action, (Da,) in its units and seconds; infinity is no limit.

    Raises ValueError unless they have one shape, and leave room to move.
    """

    low: Array
    """Lowest position."""
    high: Array
    """Highest position."""
    speed: Array
    """Highest speed, units/s."""
    acceleration: Array
    """Highest acceleration, units/s^2."""
    jump: Array
    """Largest distance of a target from the last command."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != np.shape(self.low) or value.ndim != 1 or np.isnan(value).any():
                raise ValueError(f"{name} must be one number for each dimension of the action, got {value.tolist()}")
            object.__setattr__(self, name, value)
        if not (self.low < self.high).all():
            raise ValueError(f"low must lie below high, got {self.low.tolist()} and {self.high.tolist()}")
        for name in ("speed", "acceleration", "jump"):
            if not (getattr(self, name) > 0).all():
                raise ValueError(f"{name} must be above 0 in every dimension, got {getattr(self, name).tolist()}")

    @classmethod
    def of(
        cls,
        specification: Specification,
        *,
        speed: ArrayLike,
        acceleration: ArrayLike,
        jump: ArrayLike,
        workspace: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Limits:
        """The limits of the action stream, narrowed to a workspace (low, high).

        speed, acceleration, jump: one number for each dimension, or one for all. Raises ValueError if the stream has no
        limits, if its actions are no positions, or if the workspace lies outside the limits of the stream.
        """
        action = specification.action
        if "zero" in action.hold:
            raise ValueError(
                f"the action must be positions, which a robot can hold when it has braked, got "
                f"hold={list(action.hold)}: integrate velocities to positions in the data"
            )
        if not action.low:
            raise ValueError("the action must have limits to be commanded to a robot: give its stream low and high")
        low, high = np.array(action.low), np.array(action.high)
        if workspace is not None:
            inner = [np.broadcast_to(np.asarray(bound, dtype=np.float64), low.shape) for bound in workspace]
            if (inner[0] < low).any() or (inner[1] > high).any():
                raise ValueError(
                    f"the workspace must lie within the limits of the action, {low.tolist()} to {high.tolist()}, "
                    f"got {inner[0].tolist()} to {inner[1].tolist()}"
                )
            low, high = inner
        rates = (np.broadcast_to(np.asarray(rate, dtype=np.float64), low.shape) for rate in (speed, acceleration, jump))
        return cls(low, high, *rates)


class LimitedCommand(NamedTuple):
    """A command within the limits (..., Da), its velocity (..., Da), units/s, and the `Event`s (...)."""

    command: Array
    velocity: Array
    events: NDArray[np.int64]


def next_command(target: ArrayLike, last: Array, velocity: Array, limits: Limits, dt: float) -> LimitedCommand:
    """The next command towards a target (..., Da), `dt` seconds after the last command and its velocity.

    If the last command was within the limits, with room to brake, so is the next one: by induction all commands are,
    whatever the targets are. A target that is not finite, or too far, means braking.
    """
    target = np.asarray(target, dtype=np.float64)
    is_finite = np.isfinite(target)
    is_far = is_finite & (np.abs(target - last) > limits.jump)
    is_held = np.asarray(~is_finite.all(axis=-1) | is_far.any(axis=-1))
    inside = np.clip(np.where(is_finite, target, last), limits.low, limits.high)
    change = limits.acceleration * dt
    braked = velocity - np.clip(velocity, -change, change)
    desired = np.where(is_held[..., None], braked, (inside - last) / dt)
    slow = np.clip(desired, -limits.speed, limits.speed)
    smooth = np.clip(slow, velocity - change, velocity + change)
    up, down = _brakeable(limits.high - last, limits, dt), _brakeable(last - limits.low, limits, dt)
    command = np.clip(last + np.clip(smooth, -down, up) * dt, limits.low, limits.high)

    events = np.zeros(is_held.shape, dtype=np.int64)
    tolerance = 1e-9 * (1 + np.abs(desired))
    for event, occurs in (
        (Event.POSITION, ~is_held[..., None] & is_finite & (inside != target)),
        (Event.SPEED, np.abs(slow - desired) > tolerance),
        (Event.ACCELERATION, np.abs((command - last) / dt - slow) > tolerance),
        (Event.NOT_FINITE, ~is_finite),
        (Event.JUMP, is_far),
    ):
        events |= np.where(occurs.any(axis=-1), int(event), 0)
    return LimitedCommand(command, (command - last) / dt, events)


def _brakeable(gap: Array, limits: Limits, dt: float) -> Array:
    """The highest speed towards a limit `gap` away from which the robot can still brake before the limit.

    Braking by a dt each step from v covers at most v^2 / 2a + v dt / 2 + a dt^2 / 8, the first step included; this is
    solved for v. Below a dt, one step suffices. Each branch leads to states that satisfy it again.
    """
    gap = np.maximum(gap, 0.0)
    change = limits.acceleration * dt
    with np.errstate(invalid="ignore"):  # without an acceleration limit every speed can be braked
        several = np.sqrt(2 * limits.acceleration * gap) - change / 2
    return np.maximum(np.minimum(gap / dt, change), np.where(np.isfinite(several), several, gap / dt))


class SafeCommand(NamedTuple):
    """A command (Da,), and why it is not the target."""

    command: Array
    events: Event


class Safety:
    """The limits of one robot, and its last command.

    dt: seconds between commands. stale_s: age above which observations are too old to act on. patience_s: how long the
    robot may be held before it is stopped. slow_speed: (Da,), the highest speed where `is_slow`; None for the usual.
    """

    def __init__(
        self,
        limits: Limits,
        dt: float,
        *,
        stale_s: float = 0.5,
        patience_s: float = 2.0,
        slow_speed: ArrayLike | None = None,
    ) -> None:
        if not dt > 0 or not stale_s > 0 or not patience_s > 0:
            raise ValueError(f"dt, stale_s and patience_s must be above 0, got {dt}, {stale_s} and {patience_s}")
        self.limits, self.dt, self.stale_s, self.patience_s = limits, dt, stale_s, patience_s
        slow = limits.speed if slow_speed is None else np.minimum(limits.speed, slow_speed)
        self._slow = replace(limits, speed=slow)
        self._last: Array | None = None
        self._velocity: Array = np.zeros_like(limits.low)
        self._held_s, self._is_stopped = 0.0, False

    def begin(self, position: ArrayLike) -> None:
        """Begin, or begin again after a stop, at the resting position of the robot, (Da,) in the units of the action.

        Raises ValueError if it is not finite or lies outside the limits: the robot must be brought inside first.
        """
        start = np.array(position, dtype=np.float64)
        low, high = self.limits.low, self.limits.high
        slack = 1e-6 * (high - low)  # sensors are not exact
        if start.shape != low.shape or not ((start >= low - slack) & (start <= high + slack)).all():
            raise ValueError(
                f"the robot must begin within its limits, {low.tolist()} to {high.tolist()}, but is at "
                f"{start.tolist()}: bring it inside first"
            )
        self._last, self._velocity = np.clip(start, low, high), np.zeros_like(low)
        self._held_s, self._is_stopped = 0.0, False

    @property
    def last(self) -> Array:
        """The last command (Da,), or the position at `begin`. Raises RuntimeError before `begin`."""
        if self._last is None:
            raise RuntimeError("call begin() with the position of the robot before the first command")
        return self._last

    @property
    def is_stopped(self) -> bool:
        """Whether the robot is stopped until `begin`."""
        return self._is_stopped

    @property
    def is_at_rest(self) -> bool:
        """Whether the last command was to stay."""
        return not self._velocity.any()

    def stop(self) -> None:
        """Brake, whatever the targets are, and hold."""
        self._is_stopped = True

    def __call__(self, target: ArrayLike | None, *, age_s: float = 0.0, is_slow: bool = False) -> SafeCommand:
        """The next command. target (Da,): None if there is no plan. age_s: age of the observations behind it. is_slow:
        whether it has the lower speed.

        Raises RuntimeError before `begin`.
        """
        last = self.last
        events = Event.NO_PLAN if target is None else Event(0)
        if not -TOLERANCE_S <= age_s <= self.stale_s:  # also without an age that is a number
            events |= Event.STALE
        if self._is_stopped:
            events |= Event.STOPPED
        brake = np.full_like(last, np.nan)
        target = brake if events or target is None else target
        limited = next_command(target, last, self._velocity, self._slow if is_slow else self.limits, self.dt)
        if not events:
            events = Event(int(limited.events))
        self._last, self._velocity = limited.command, limited.velocity
        self._held_s = self._held_s + self.dt if events & HELD else 0.0
        if self._held_s > self.patience_s and not self._is_stopped:
            self.stop()
            events |= Event.STOPPED
        return SafeCommand(limited.command.copy(), events)
