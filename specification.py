"""What passes between demonstrations, policies, tasks and robots: one description, shared by all of them.

`Horizons` says how many steps are seen, generated and executed. A `Stream` is one named signal over time, and a
`Specification` is everything that a policy sees and does. The same `Specification` lies in a demonstration store, on a
task and in a checkpoint, so that every mismatch is one call of `Specification.differences`.

Only numpy is needed here, so every part of the package may import this module.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


def nearest(name: str, options: Iterable[str]) -> str:
    """End an error message: the option that `name` probably meant, or all of them.

    >>> nearest("pushed", ["pusht", "pick_place"])
    "did you mean 'pusht'?"
    >>> nearest("kitchen", ["pusht", "pick_place"])
    "choose from 'pick_place', 'pusht'"
    """
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(map(repr, options)) if options else "there are none to choose from"


@dataclass(frozen=True, slots=True)
class Horizons:
    """How many control steps a policy sees, generates and executes (Chi et al. 2023, section II.C).

    A window of `prediction` steps starts at the oldest observed step; its first `observation` steps end at the
    current one, and the `action` steps from the current one on are executed before the next chunk is generated.

    observation (To), prediction (Tp), action (Ta): counts of steps, at least 1.

    >>> Horizons(observation=2, prediction=16, action=8).executed
    slice(1, 9, None)
    """

    observation: int = 2
    prediction: int = 16
    action: int = 8

    def __post_init__(self) -> None:
        for name in ("observation", "prediction", "action"):
            if getattr(self, name) < 1:
                raise ValueError(f"the {name} horizon must be at least 1 step, got {getattr(self, name)}")
        needed = self.observation - 1 + self.action
        if needed > self.prediction:
            raise ValueError(
                f"the prediction horizon must cover the observed past and the executed actions, "
                f"{self.observation} - 1 + {self.action} = {needed} steps, got {self.prediction}: "
                f"predict at least {needed} steps or execute at most {self.future}"
            )

    @property
    def future(self) -> int:
        """The number of steps of a generated chunk from the current step on."""
        return self.prediction - self.observation + 1

    @property
    def executed(self) -> slice:
        """The steps of a generated chunk that are executed: from the current step on."""
        return slice(self.observation - 1, self.observation - 1 + self.action)


HOLDS = ("last", "zero")
"""What an action may do while nobody commands it; see `Stream`."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One named signal over time: an observation, or the action.

    name: a lower-case identifier. shape: of one step, `(D,)` for a vector and `(H, W, C)` for an image.
    dtype: numpy's name for it. units, labels, low, high: one entry a dimension of a vector, or empty where unknown;
    a single unit or limit stands for every dimension. Units are SI where a unit exists ("m", "rad", "s"), "px" for
    pixels and "1" for pure numbers. `low` and `high` are the finite limits that a value may take.

    hold: what an action does in each dimension while nobody commands it: before and after an episode, and when a plan
    has run out. "last" repeats the nearest action, which is right for positions. "zero" is right for velocities and
    differences, which would move the robot on. One entry a dimension or one for all; empty stands for "last".

    >>> Stream("gripper", (3,), units="m", labels=("x", "y", "z"), low=-0.5, high=0.5).high
    (0.5, 0.5, 0.5)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    units: tuple[str, ...] | str = ()
    labels: tuple[str, ...] = ()
    low: tuple[float, ...] | float = ()
    high: tuple[float, ...] | float = ()
    hold: tuple[str, ...] | str = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a stream's name must be a lower-case identifier, got {self.name!r}")
        shape = tuple(int(size) for size in self.shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"stream {self.name!r}: the shape of a step must be positive sizes, got {self.shape}")
        try:
            dtype = np.dtype(self.dtype).name
        except TypeError:
            raise ValueError(f"stream {self.name!r}: dtype must be one that numpy knows, got {self.dtype!r}") from None
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", dtype)
        for field in ("units", "labels", "low", "high", "hold"):
            object.__setattr__(self, field, self._per_dimension(field))
        if wrong := [value for value in self.hold if value not in HOLDS]:
            raise ValueError(
                f"stream {self.name!r}: hold must be 'last' or 'zero', got {wrong[0]!r}: {nearest(wrong[0], HOLDS)}"
            )
        if "zero" not in self.hold:  # so that equal streams compare equal
            object.__setattr__(self, "hold", ())
        if bool(self.low) != bool(self.high):
            raise ValueError(f"stream {self.name!r}: give both limits or neither, got low={self.low} high={self.high}")
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):  # type: ignore[arg-type]
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"stream {self.name!r}, dimension {index}: limits must be finite and ascend, got [{low}, {high}]"
                )

    def _per_dimension(self, field: str) -> tuple[Any, ...]:
        value = getattr(self, field)
        size = self.shape[0] if len(self.shape) == 1 else 0
        values = (value,) * size if isinstance(value, str | int | float) else tuple(value)
        if len(values) not in (0, size):
            raise ValueError(
                f"stream {self.name!r}: {field} must be empty or hold one entry for each of its {size} dimensions, "
                f"got {len(values)}: {values}"
            )
        return tuple(map(float, values)) if field in ("low", "high") else tuple(map(str, values))

    @property
    def is_image(self) -> bool:
        """Whether a step is a picture: uint8 (H, W, C)."""
        return len(self.shape) == 3 and self.dtype == "uint8"

    @property
    def size(self) -> int:
        """Numbers in one step."""
        return math.prod(self.shape)

    def label(self, index: int) -> str:
        """A readable name of one dimension: `"gripper.x"`, or `"gripper[0]"` where it has no label."""
        return f"{self.name}.{self.labels[index]}" if self.labels else f"{self.name}[{index}]"


@dataclass(frozen=True, slots=True)
class Specification:
    """All that a policy sees and does: its observation streams, its action stream, and the control period.

    control_dt: seconds between two control steps.

    >>> stick = Stream("stick", (2,), units="m")
    >>> spec = Specification((stick,), Stream("action", (2,)), control_dt=0.1)
    >>> spec.differences(Specification((stick,), Stream("action", (3,)), control_dt=0.1))
    ['action: shape is (2,) on one side and (3,) on the other']
    """

    observations: tuple[Stream, ...]
    action: Stream
    control_dt: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "observations", tuple(self.observations))
        object.__setattr__(self, "control_dt", float(self.control_dt))
        names = [stream.name for stream in self.observations]
        if not names:
            raise ValueError("a specification must have at least one observation stream, got none")
        if len({*names, "action"}) != len(names) + 1:
            raise ValueError(f"observation streams must have different names, none of them 'action', got {names}")
        if self.action.name != "action" or len(self.action.shape) != 1:
            raise ValueError(
                f"the action must be a vector stream named 'action', "
                f"got {self.action.name!r} of shape {self.action.shape}"
            )
        if holding := [stream.name for stream in self.observations if stream.hold]:
            raise ValueError(
                f"hold says what an action does, got it for the observations {holding}: leave it out there"
            )
        if not (math.isfinite(self.control_dt) and self.control_dt > 0):
            raise ValueError(f"control_dt must be a positive number of seconds, got {self.control_dt}")

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Every stream, the action last."""
        return (*self.observations, self.action)

    def differences(self, other: Specification) -> list[str]:
        """What differs between two descriptions, a sentence each; empty where they agree. Order does not matter."""
        mine = {stream.name: stream for stream in self.streams}
        theirs = {stream.name: stream for stream in other.streams}
        found = [f"{name}: only on one side" for name in sorted(mine.keys() ^ theirs.keys())]
        for name in [name for name in mine if name in theirs]:
            ours, others = asdict(mine[name]), asdict(theirs[name])
            found += [
                f"{name}: {field} is {ours[field]} on one side and {others[field]} on the other"
                for field in ours
                if ours[field] != others[field]
            ]
        if self.control_dt != other.control_dt:
            found.append(f"control_dt is {self.control_dt} s on one side and {other.control_dt} s on the other")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Specification:
        """Build from what `to_json` gave.

        Raises ValueError where a field is missing, unknown or impossible.
        """
        try:
            return cls(
                observations=tuple(Stream(**stream) for stream in data["observations"]),
                action=Stream(**data["action"]),
                control_dt=data["control_dt"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a specification: {error}") from error
