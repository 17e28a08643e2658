"""The streams of observations and actions, described once for demonstrations, policies, tasks and robots.

A `Stream` is one named signal over time. A `Specification` is everything that a policy observes and commands.
`Horizons` counts the steps that a policy observes, predicts and executes. Demonstration stores, tasks and checkpoints
hold the same `Specification`, so `Specification.differences` finds every mismatch.

This module needs only numpy, so every part of the package may import it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray


def block_size(kind: str) -> int:
    """The dimensions in a block of this kind, 1 if it comes alone, or 0 if the kind does not exist.

    >>> block_size("quaternion_xyzw"), block_size("euler_zyx_yxz"), block_size("euler_xxy_xyz")
    (4, 3, 0)
    """
    if kind in KINDS:
        return ROTATIONS.get(kind, 2 if kind == "cosine_sine" else 1)
    word, *axes = kind.split("_")
    return 3 if word == "euler" and len(axes) == 2 and all(sorted(part) == ["x", "y", "z"] for part in axes) else 0


def group_of(kind: str) -> str:
    """The kind, or "rotation" for every kind of rotation."""
    return "rotation" if kind in ROTATIONS or kind.startswith("euler_") else kind


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of an error message: the option that `name` resembles, or all options.

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
    """How many control steps a policy observes, predicts and executes (Chi et al. 2023, section II.C).

    A chunk of `prediction` steps starts at the oldest observed step. Its first `observation` steps end at the current
    step. From the current step on, `action` steps are executed before the next chunk is predicted.

    Raises ValueError if a horizon is no whole number of at least 1, or if the chunk does not cover the executed steps.

    >>> Horizons(observation=2, prediction=16, action=8).executed
    slice(1, 9, None)
    """

    observation: int = 2
    """To, the observed steps."""
    prediction: int = 16
    """Tp, the steps of a predicted chunk."""
    action: int = 8
    """Ta, the executed steps of a chunk."""

    def __post_init__(self) -> None:
        for name in ("observation", "prediction", "action"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"the {name} horizon must be at least 1 step, got {value!r}: give a whole number")
        least = self.observation - 1 + self.action
        if least > self.prediction:
            raise ValueError(
                f"the prediction horizon must cover the observed past and the executed actions, "
                f"{self.observation} - 1 + {self.action} = {least} steps, got {self.prediction}: "
                f"predict at least {least} steps or execute at most {self.future}"
            )

    @property
    def future(self) -> int:
        """Number of steps in a chunk from the current step on."""
        return self.prediction - self.observation + 1

    @property
    def executed(self) -> slice:
        """The executed steps of a chunk, which start at the current step."""
        return slice(self.observation - 1, self.observation - 1 + self.action)


HOLDS = ("last", "zero")
"""What an action may do without a command; see `Stream.hold`."""

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
"""The dtypes of streams."""

ROTATIONS = {
    "quaternion_wxyz": 4,
    "quaternion_xyzw": 4,
    "axis_angle": 3,
    "roll_pitch_yaw": 3,
    "rotation_matrix": 9,
    "rotation_6d": 6,
}
"""Kinds of rotations -> the dimensions of one; see `Stream.kinds`."""

KINDS = ("position", "angle", "cosine_sine", "gripper", "number", *ROTATIONS)
"""What a dimension may be, beside `euler_AAA_BBB`; see `Stream.kinds`."""

WORDS = "words"
"""The name of a context stream that holds a sentence, as a text encoder embeds it."""

ABSENT = "absent_streams"
"""The name of a stream whose labels are those of observations that may be absent: 1 where one is, and 0 elsewhere."""

VECTOR_LIMIT = 2**20
"""Most dimensions of a vector."""

CHANNEL_LIMIT = 32
"""Most channels of an image."""

STEP_LIMIT = 2**30
"""Most values in a step."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One named signal over time: an observation, or the action.

    `units`, `labels`, `low`, `high`, `hold` and `kinds` have one entry for each dimension of a vector, or are empty if
    unknown. A single unit, limit, hold or kind stands for every dimension.

    Raises ValueError if a value is impossible, or if no policy could use it.

    >>> Stream("gripper", (3,), units="m", labels=("x", "y", "z"), low=-0.5, high=0.5).high
    (0.5, 0.5, 0.5)
    """

    name: str
    """A lower-case identifier."""
    shape: tuple[int, ...]
    """Shape of one step: `(D,)` for a vector, `(H, W, C)` for an image."""
    dtype: str = "float32"
    """One of `DTYPES`; an image must be uint8. A boolean counts as 0 or 1."""
    units: tuple[str, ...] | str = ()
    """SI units ("m", "rad", "s"), "px" for pixels, "1" for pure numbers."""
    labels: tuple[str, ...] = ()
    """Names of the dimensions."""
    low: tuple[float, ...] | float = ()
    """Smallest values: finite numbers that the dtype has."""
    high: tuple[float, ...] | float = ()
    """Largest values, likewise."""
    hold: tuple[str, ...] | str = ()
    """What an action does without a command: before and after an episode, and after the last action of a plan.

    "last" repeats the nearest action, which suits positions. "zero" suits velocities and differences, because repeating
    them would keep the robot moving. Empty stands for "last".
    """
    context: bool = False
    """Whether an observation says what an episode asks for, such as a goal: it is the same in all steps of one."""
    kinds: tuple[str, ...] | str = ()
    """What each dimension is, so that a policy may learn it in another way.

    "position" is a coordinate that never wraps, in metres or as the angle of a joint. "angle" is one modulo a turn, in
    radians. "gripper" is how far one is open, and "number" anything else. "cosine_sine" are two dimensions. Rotations
    are blocks, each dimension of which has the name of the block:

    - "quaternion_wxyz" and "quaternion_xyzw"; q and -q are the same rotation.
    - "axis_angle": the axis times the angle in radians.
    - "roll_pitch_yaw": radians about x, y and z; the matrix is Rz(yaw) Ry(pitch) Rx(roll).
    - "euler_AAA_BBB": any three angles about x, y and z. AAA are the axes of the three dimensions, BBB those of the
      product that is the matrix: roll_pitch_yaw is "euler_xyz_zyx".
    - "rotation_matrix": row after row.
    - "rotation_6d": the first column of the matrix, then the second (Zhou et al. 2019).
    """

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a stream's name must be a lower-case identifier, got {self.name!r}")
        if not _are_sizes(self.shape):
            raise ValueError(
                f"stream {self.name!r}: the shape of a step must be positive sizes, got {self.shape}: give whole "
                f"numbers, at most {VECTOR_LIMIT} for a vector and {STEP_LIMIT} values in all"
            )
        shape = tuple(int(size) for size in self.shape)
        try:
            dtype = np.dtype(self.dtype).name
        except (TypeError, ValueError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
            dtype = ""
        if dtype not in DTYPES:
            raise ValueError(f"stream {self.name!r}: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        self._check_layout(shape, dtype)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", dtype)
        for field in ("units", "labels", "low", "high", "hold", "kinds"):
            object.__setattr__(self, field, self._per_dimension(field))
        if wrong := [value for value in self.hold if value not in HOLDS]:
            raise ValueError(
                f"stream {self.name!r}: hold must be 'last' or 'zero', got {wrong[0]!r}: {nearest(wrong[0], HOLDS)}"
            )
        if "zero" not in self.hold:  # so that equal streams compare equal
            object.__setattr__(self, "hold", ())
        self.blocks()
        if bool(self.low) != bool(self.high):
            raise ValueError(f"stream {self.name!r}: give both limits or neither, got low={self.low} high={self.high}")
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):  # type: ignore[arg-type]
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"stream {self.name!r}, dimension {index}: limits must be finite and ascend, got [{low}, {high}]"
                )
            self._check_limits(index, low, high)

    def blocks(self) -> list[tuple[str, int, int]]:
        """The kind, first dimension and end of each block: one of a rotation or of a cosine and sine, or one dimension.

        Raises ValueError for a kind that does not exist, or a block of another size.

        >>> Stream("hand", (5,), kinds=("position", *["quaternion_wxyz"] * 4)).blocks()
        [('position', 0, 1), ('quaternion_wxyz', 1, 5)]
        """
        result, start = list[tuple[str, int, int]](), 0
        while start < len(self.kinds):
            kind = self.kinds[start]
            size = block_size(kind)
            if not size:
                raise ValueError(
                    f"stream {self.name!r}, dimension {start}: there is no kind {kind!r}: {nearest(kind, KINDS)}"
                )
            if self.kinds[start : start + size] != (kind,) * size:
                raise ValueError(
                    f"stream {self.name!r}, dimension {start}: kind {kind!r} has {size} dimensions in a row, got "
                    f"{self.kinds[start : start + size]}: give each of them this kind"
                )
            result.append((kind, start, start + size))
            start += size
        return result

    def _check_layout(self, shape: tuple[int, ...], dtype: str) -> None:
        """Raise ValueError unless a step is a vector, or an image with its channels last."""
        if len(shape) == 1:
            return
        place, is_image = f"stream {self.name!r}", len(shape) == 3 and dtype == "uint8"
        if is_image and (shape[2] > CHANNEL_LIMIT or (shape[0] <= 4 < shape[2])):
            turned = (shape[1], shape[2], shape[0])
            raise ValueError(
                f"{place}: an image must be (H, W, C) with at most {CHANNEL_LIMIT} channels, got {shape}: if the "
                f"channels come first, give {turned} and np.moveaxis(image, 0, -1)"
            )
        if not is_image:
            deep = len(shape) == 3
            raise ValueError(
                f"{place}: a step must be a vector (D,) or an image (H, W, C) of uint8, as the encoders take them, got "
                f"{dtype} {shape}: "
                + ("scale the image to 0 .. 255" if deep else f"flatten it to ({math.prod(shape)},)")
            )

    def _check_limits(self, index: int, low: float, high: float) -> None:
        """Raise ValueError unless the dtype has both limits (a float rounds them), and they differ in it."""
        held, dtype = self.cast([low, high]).astype(np.float64).tolist(), np.dtype(self.dtype)
        has = max(-low, high) <= float(np.finfo(dtype).max) if dtype.kind == "f" else held == [low, high]
        if not has or held[0] >= held[1]:
            raise ValueError(
                f"stream {self.name!r}, dimension {index}: limits must be two values of {self.dtype}, "
                f"got [{low}, {high}]: give values that it has, or another dtype"
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
        if field in ("low", "high"):
            return tuple(map(float, values))
        words = tuple(map(str, values))
        if wrong := [word for word in words if not word.isprintable()]:
            raise ValueError(
                f"stream {self.name!r}: {field} must be printable, got {wrong[0]!r}: leave out such characters"
            )
        return words

    def cast(self, values: ArrayLike) -> NDArray[Any]:
        """The values as a new array of the stream's dtype, each as the nearest value that the dtype has.

        This is the one way from numbers of another dtype, such as the actions of a policy, to those of a stream:
        integers and booleans are rounded, half to even, and everything is clipped to the range of the dtype. NaN and
        infinity remain in floats.

        Raises ValueError for NaN or infinity if the dtype is of integers or booleans, and for what is no number.

        >>> gripper = Stream("gripper", (1,), "int64")
        >>> gripper.cast([0.999, -3.9, 1e30]).tolist(), Stream("touch", (1,), "bool").cast([0.4, 0.6]).tolist()
        ([1, -4, 9223372036854775807], [False, True])
        """
        source, dtype = np.asarray(values), np.dtype(self.dtype)
        if source.dtype == dtype:
            return source.copy()
        if source.dtype.kind not in "biuf":
            raise ValueError(f"stream {self.name!r}: values must be numbers, got {source.dtype}: convert them first")
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                rows = source.astype(dtype)
            is_over = np.isinf(rows) & np.isfinite(source)
            return np.where(is_over, np.copysign(np.finfo(dtype).max, rows), rows)
        if source.dtype.kind == "b":
            source = source.astype(np.uint8)
        elif source.dtype.kind == "f":
            source = source.astype(np.float64)
            if not np.isfinite(source).all():
                raise ValueError(
                    f"stream {self.name!r}: values of {self.dtype} must be finite, got {source.tolist()}: find where "
                    "they are made"
                )
            source = np.rint(source)
        least, most = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        is_low, is_high = source < least, source > most
        if source.dtype.kind == "f":  # the largest integers have no exact float
            is_high = source >= float(most)
        rows = np.where(is_low | is_high, np.zeros((), source.dtype), source).astype(dtype)
        return np.where(is_high, np.array(most, dtype), np.where(is_low, np.array(least, dtype), rows))

    @property
    def is_image(self) -> bool:
        """Whether a step is an image, uint8 (H, W, C)."""
        return len(self.shape) == 3 and self.dtype == "uint8"

    @property
    def size(self) -> int:
        """Number of values in one step."""
        return math.prod(self.shape)

    def label(self, index: int) -> str:
        """A readable name of a dimension: `"gripper.x"`, or `"gripper[0]"` without labels."""
        return f"{self.name}.{self.labels[index]}" if self.labels else f"{self.name}[{index}]"


@dataclass(frozen=True, slots=True)
class Specification:
    """Everything that a policy observes and commands: observation streams, action stream and control period.

    Raises ValueError for streams with equal names, observations that are all context, an action that is context or no
    vector, or an impossible control period.

    >>> stick = Stream("stick", (2,), units="m")
    >>> spec = Specification((stick,), Stream("action", (2,)), control_dt=0.1)
    >>> spec.differences(Specification((stick,), Stream("action", (3,)), control_dt=0.1))
    ['action: shape is (2,) on one side and (3,) on the other']
    """

    observations: tuple[Stream, ...]
    action: Stream
    """A vector stream named "action"."""
    control_dt: float
    """Time between two control steps (s)."""

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
        if self.action.context or len(self.context) == len(names):
            raise ValueError(
                "context must be observations beside others that change in an episode, got "
                f"{['action'] if self.action.context else names}: leave out context=True"
            )
        if names := [stream.name for stream in self.observations if stream.hold]:
            raise ValueError(f"only the action may have hold, the observations {names} have it too: leave it out there")
        if not (math.isfinite(self.control_dt) and self.control_dt > 0):
            raise ValueError(f"control_dt must be a positive number of seconds, got {self.control_dt}")

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All streams, the action last."""
        return (*self.observations, self.action)

    @property
    def context(self) -> tuple[Stream, ...]:
        """The observations that say what an episode asks for."""
        return tuple(stream for stream in self.observations if stream.context)

    @property
    def may_be_absent(self) -> tuple[Stream, ...]:
        """The observations that may be absent, in the order of the labels of `ABSENT`; none without such a stream."""
        streams = {stream.name: stream for stream in self.observations}
        labels = streams[ABSENT].labels if ABSENT in streams else ()
        return tuple(streams[name] for name in labels if name in streams)

    def without(self, names: Collection[str]) -> Specification:
        """The specification without some of its observations."""
        return replace(self, observations=tuple(stream for stream in self.observations if stream.name not in names))

    def differences(self, other: Specification) -> list[str]:
        """The differences between two specifications, a sentence each.

        The order of streams does not matter. Kinds that one side does not state are those of the other side, because
        stores and checkpoints were once written without them.
        """
        left = {stream.name: asdict(stream) for stream in self.streams}
        right = {stream.name: asdict(stream) for stream in other.streams}
        sentences = [f"{name}: only on one side" for name in sorted(left.keys() ^ right.keys())]
        for name in [name for name in left if name in right]:
            sentences += [
                f"{name}: {field} is {value} on one side and {right[name][field]} on the other"
                for field, value in left[name].items()
                if value != right[name][field] and (field != "kinds" or (value and right[name][field]))
            ]
        if self.control_dt != other.control_dt:
            sentences.append(f"control_dt is {self.control_dt} s on one side and {other.control_dt} s on the other")
        return sentences

    def with_kinds(self, other: Specification) -> Specification:
        """The specification with the kinds of the other one in the streams that state none here."""
        kinds = {stream.name: stream.kinds for stream in other.streams}

        def stated(stream: Stream) -> Stream:
            return stream if stream.kinds else replace(stream, kinds=kinds.get(stream.name, ()))

        return replace(self, observations=tuple(map(stated, self.observations)), action=stated(self.action))

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Specification:
        """Build a specification from the result of `to_json`.

        Raises ValueError if a field is missing, unknown or impossible.
        """
        try:
            return cls(
                observations=tuple(Stream(**stream) for stream in data["observations"]),
                action=Stream(**data["action"]),
                control_dt=data["control_dt"],
            )
        except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
            raise ValueError(f"not a specification: {error}") from error


def interface_to_json(specification: Specification, horizons: Horizons) -> dict[str, Any]:
    """What a policy observes and does, and in which steps, as the entries of a JSON object."""
    return {"specification": specification.to_json(), "horizons": asdict(horizons)}


def interface_from_json(content: Mapping[str, Any]) -> tuple[Specification, Horizons]:
    """Read the entries of `interface_to_json` among others. Raises ValueError if one is missing or impossible."""
    try:
        return Specification.from_json(content["specification"]), Horizons(**content["horizons"])
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"no specification and horizons: {error!r}") from error


def _are_sizes(shape: Any) -> bool:
    if not isinstance(shape, Sequence) or not 1 <= len(shape) <= 32:
        return False
    if any(isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1 for size in shape):
        return False
    return math.prod(map(int, shape)) <= (VECTOR_LIMIT if len(shape) == 1 else STEP_LIMIT)


Source: TypeAlias = tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]
"""Where a foreign dataset holds a stream: a key, and a function from the key's rows (T, ...) to rows of the stream."""
