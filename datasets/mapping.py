"""How the columns of another library's data set become streams: a small YAML file that a person reads and edits.

`recede convert SOURCE mapping=FILE` writes the proposal of `propose`. Units, meanings and limits are often written
nowhere in a data set, so a person adds them. A store keeps the mapping that made it in its provenance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..specification import CHANNEL_LIMIT, DTYPES, Specification, Stream, nearest
from .facts import COMMANDED, INPUT
from .formats.interface import ACTION, OBSERVATION, Column, ForeignDataset

MEANINGS = {"target": "last", "difference": "zero", "velocity": "zero", "next": "last"}
"""What a dimension of the action is -> its `Stream.hold`."""

MAKERS = {"robot": COMMANDED, "leader": INPUT}
"""Whose action it is: what the robot was commanded, or where a leader arm or another input was."""

UNSET = "???"
"""Stands for what the data set does not say and a person must write."""

UNITS = (
    *("m", "cm", "mm", "rad", "deg", "s", "ms", "Hz", "m/s", "mm/s", "rad/s", "deg/s", "rpm", "m/s^2", "rad/s^2"),
    *("N", "Nm", "kg", "g", "A", "mA", "V", "W", "K", "C", "Pa", "bar", "px", "1", "%"),
)
"""Units that are no slip of the pen. A conversion keeps others too, and warns of them."""

LARGEST_VECTOR = 1024
"""Arrays of more values a step are proposed as vectors only if they are flat."""

EXPLANATIONS = {
    "kind": "The format of the data set.",
    "rate": "Steps a second (Hz). A data set with times is resampled to it.",
    "longest_hole": "Seconds without a reading; a longer hole splits the episode. Data sets without times have none.",
    "observations": (
        "What a policy may observe, by the names of its streams. key: the column, or several [a, b] in turn. units: "
        "m, rad, deg, px, 1 or others, one or one a dimension. labels: names of the dimensions. low, high: limits. "
        "kinds: what each dimension is, such as position, quaternion_xyzw or gripper (docs/representations.md). "
        "context: true for a goal, which is the same in a whole episode. dtype: float64 is stored as float32 "
        "unless you say so."
    ),
    "action": (
        "Likewise. meaning: target (absolute), difference (to the present), velocity, or next (the column is an "
        "observation, and the action is its value of the next step); one, or one a dimension. of: robot (what it was "
        "commanded) or leader (where the arm that led it was)."
    ),
    "left_out": "Columns that are not converted, and why. Move one to the observations if a policy should see it.",
}
"""Field -> the comment above it in the file."""


@dataclass(frozen=True, kw_only=True)
class StreamMapping:
    """Where the values of one stream come from. The other fields are those of `Stream`."""

    key: str | list[str]
    units: str | list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    low: float | list[float] = field(default_factory=list)
    high: float | list[float] = field(default_factory=list)
    kinds: str | list[str] = field(default_factory=list)
    context: Any = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not self.keys or not _are_texts(self.keys):
            raise ValueError(f"key must be the name of a column, or a list of names, got {self.key!r}")
        object.__setattr__(self, "units", _with_one(self.units))  # YAML reads the unit 1 as a number
        for name in ("units", "labels", "kinds"):
            value = getattr(self, name)
            if not (isinstance(value, str) and name != "labels") and not _are_texts(value):
                raise ValueError(f"{name} must be a list of texts, got {value!r}")
        for name in ("low", "high"):
            value = getattr(self, name)
            if not _are_numbers(value if isinstance(value, list) else [value]):
                raise ValueError(f"{name} must be a number or a list of numbers, got {value!r}")
        if not isinstance(self.context, bool):
            raise ValueError(f"context must be true or false, got {self.context!r}")

    @property
    def keys(self) -> list[Any]:
        """The columns, in turn."""
        return self.key if isinstance(self.key, list) else [self.key]


def _with_one(units: Any) -> Any:
    """Units in which the number 1 is a text."""
    if isinstance(units, list):
        return [_with_one(unit) for unit in units]
    return "1" if isinstance(units, int) and not isinstance(units, bool) and units == 1 else units


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


@dataclass(frozen=True, kw_only=True)
class ActionMapping(StreamMapping):
    """Where the actions come from, and what they are."""

    meaning: str | list[str] = "target"
    of: str = "robot"

    @property
    def is_next(self) -> bool:
        """Whether the action is an observation of the next step, so that the last step of an episode has none."""
        return self.meaning == "next"


@dataclass(frozen=True, kw_only=True)
class DatasetMapping:
    """How a data set becomes demonstrations. See `EXPLANATIONS`.

    Raises ValueError for a value that is impossible, whatever the data set.
    """

    kind: str
    rate: float | str = UNSET
    longest_hole: float = 0.5
    observations: Mapping[str, StreamMapping]
    action: ActionMapping
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate == UNSET:
            raise ValueError(
                "rate must be the steps a second, which the data set does not say: write it, as in rate: 10"
            )
        for name in ("rate", "longest_hole"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
        if not self.observations:
            raise ValueError("observations must name a stream or more, got none")
        if "action" in self.observations:
            raise ValueError("observations must not be called action: give that stream another name")
        meanings: list[Any] = self.action.meaning if isinstance(self.action.meaning, list) else [self.action.meaning]
        for meaning in meanings:
            if meaning not in MEANINGS:
                remedy = nearest(str(meaning), MEANINGS)
                raise ValueError(f"action.meaning must be one of {', '.join(MEANINGS)}, got {meaning!r}: {remedy}")
        if "next" in meanings and not self.action.is_next:
            raise ValueError("action.meaning: next must hold for all dimensions: write it alone, without a list")
        if self.action.of not in MAKERS:
            remedy = nearest(str(self.action.of), MAKERS)
            raise ValueError(f"action.of must be one of {', '.join(MAKERS)}, got {self.action.of!r}: {remedy}")
        for name, stream in self.streams.items():
            if UNSET in stream.keys:
                raise ValueError(f"{name}.key must name a column, and none is an obvious choice: edit the mapping")
        for name, stream in self.observations.items():
            if not self.action.is_next and (shared := sorted(set(stream.keys) & set(self.action.keys))):
                raise ValueError(
                    f"observations.{name} must not be {shared[0]}, which is the action: a policy would read its answer "
                    f"there: remove {name}, or write meaning: next if the column is what the robot measured"
                )

    @property
    def streams(self) -> dict[str, StreamMapping]:
        """Stream -> where it comes from, the action last."""
        return {**self.observations, "action": self.action}

    @property
    def unknown_units(self) -> dict[str, list[str]]:
        """Stream -> its units that are not among `UNITS`, each once. Streams without any are left out."""
        units = {
            name: [mapped.units] if isinstance(mapped.units, str) else mapped.units
            for name, mapped in self.streams.items()
        }
        unknown = {name: sorted({unit for unit in all_ if unit and unit not in UNITS}) for name, all_ in units.items()}
        return {name: strange for name, strange in unknown.items() if strange}

    def specification(self, dataset: ForeignDataset) -> Specification:
        """The streams of a data set under this mapping.

        Raises ValueError if a column does not exist or cannot become its stream.
        """
        of_streams = {name: _stream(name, mapped, dataset) for name, mapped in self.streams.items()}
        return Specification(
            tuple(of_streams[name] for name in self.observations), of_streams["action"], control_dt=1 / float(self.rate)
        )

    def to_json(self) -> dict[str, Any]:
        """What a file of this mapping holds. Values that say nothing are left out."""
        content = asdict(self)
        content["observations"] = {name: _plain(mapped) for name, mapped in self.observations.items()}
        content["action"] = _plain(self.action)
        return content

    @classmethod
    def from_json(cls, content: Any, place: str) -> DatasetMapping:
        """The mapping in the content of a file. place: of the file, for messages.

        Raises ValueError, naming the entry, if something is missing, unknown or impossible.
        """
        entries = _entries(content, cls, place)
        try:
            observations: Any = entries["observations"]
            if not isinstance(observations, Mapping):
                raise ValueError(f"observations must be streams by their names, got {observations!r}")
            entries["observations"] = {
                str(name): StreamMapping(**_entries(value, StreamMapping, f"observations.{name}"))
                for name, value in observations.items()
            }
            entries["action"] = ActionMapping(**_entries(entries["action"], ActionMapping, "action"))
            entries["left_out"] = dict(entries.get("left_out") or {})
            return cls(**entries)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place}: {error}") from error


def _entries(content: Any, kind: type, place: str) -> dict[str, Any]:
    """The entries of a part of a file. Raises ValueError for one that is unknown or missing."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{place} must hold entries, got {content!r}: see what recede convert SOURCE prints")
    names = {entry.name: entry for entry in fields(kind)}
    for name in content:
        if name not in names:
            raise ValueError(f"{place} has no entry {name!r}: {nearest(str(name), names)}")
    needed = {"kind", "observations", "action", "key"} & names.keys()
    if missing := sorted(needed - content.keys()):
        raise ValueError(f"{place} must have {missing[0]}: add it")
    return {str(name): value for name, value in content.items()}


def _plain(mapped: StreamMapping, *, is_image: bool = False) -> dict[str, Any]:
    """The entries that say something; those of vectors keep units and labels, so that a person sees where they go."""
    empty = {entry.name: getattr(type(mapped)(key=""), entry.name) for entry in fields(mapped)}
    always = {"key", "meaning", "of"} | (set() if is_image else {"units", "labels"})
    return {name: value for name, value in asdict(mapped).items() if name in always or value != empty[name]}


def stream_name(key: str) -> str:
    """The name of a stream for a column: without "observation", "obs" or "images" in front, and as an identifier.

    >>> [stream_name(key) for key in ("observation.images.top", "obs/robot0_eef_pos", "observation.state", "Qpos-1")]
    ['top', 'robot0_eef_pos', 'state', 'qpos_1']
    """
    name = re.sub(r"^((observations?|obs|images?)[./]+)+", "", key.strip("/"))
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return name if name[:1].isalpha() else f"stream_{name}".rstrip("_")


def propose(dataset: ForeignDataset, *, rate: float | None = None) -> dict[str, Any]:
    """A mapping of every column that a policy could use, as the content of a file. `UNSET` stands for what is unknown.

    A mapping that the data set keeps is proposed as it is. rate: instead of that of the data set, Hz.

    Raises ValueError if what the data set keeps is no mapping.
    """
    if dataset.noted_mapping is not None:
        DatasetMapping.from_json(dataset.noted_mapping, f"the mapping that {dataset.path} keeps")
        return {**dataset.noted_mapping} | ({} if rate is None else {"rate": rate})
    observations, actions, left_out = dict[str, StreamMapping](), list[Column](), dict[str, str]()
    for column in dataset.columns:
        reason = _unusable(column) if column.role in (OBSERVATION, ACTION) else column.role
        if reason:
            left_out[column.key] = reason
        elif column.role == ACTION and not actions:
            actions.append(column)
        elif column.role == ACTION:
            left_out[column.key] = f"{actions[0].key} is taken for the action"
        else:
            name = _unused(stream_name(column.key), column.key, observations)
            observations[name] = _proposed(StreamMapping, column)
    action = _proposed(ActionMapping, actions[0]) if actions else ActionMapping(key=UNSET)
    steps_a_second = rate or dataset.rate
    return {
        "kind": dataset.kind,
        "rate": UNSET if steps_a_second is None else steps_a_second,
        "longest_hole": 0.5,
        "observations": {
            name: _plain(mapped, is_image=_is_image(dataset.column(mapped.keys[0])))
            for name, mapped in observations.items()
        },
        "action": _plain(replace(action, meaning=dataset.action_meaning)),
        "left_out": left_out,
    }


def _proposed(kind: Any, column: Column) -> Any:
    limits = {"low": _one_if_equal(column.low), "high": _one_if_equal(column.high)}
    words = {"units": list(column.units), "labels": list(column.labels), "kinds": list(column.kinds)}
    return kind(key=column.key, **words, **limits)


def _one_if_equal(values: Sequence[float]) -> float | list[float]:
    """One number if all are equal."""
    return values[0] if len(set(values)) == 1 else list(values)


def _unused(name: str, key: str, others: Iterable[str]) -> str:
    """A name that no other stream has: the whole key as an identifier if the short one is taken."""
    whole = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
    options = [name, whole, *(f"{whole}_{number}" for number in range(2, 100))]
    return next(option for option in options if option not in {*others, "action"} and option[:1].isalpha())


def _unusable(column: Column) -> str:
    """Why no stream can hold a column; empty if one can."""
    if column.dtype not in DTYPES:
        return f"{column.dtype} is no number" if column.role in (OBSERVATION, ACTION) else column.role
    if _is_image(column):
        return ""
    if len(column.shape) > 1 and math.prod(column.shape) > LARGEST_VECTOR:
        return f"{column.dtype} {column.shape} is neither an image of uint8 nor a vector"
    return "" if math.prod(column.shape) else "it has no values"


def _is_image(column: Column) -> bool:
    return column.dtype == "uint8" and len(column.shape) in (2, 3) and math.prod(column.shape) > LARGEST_VECTOR


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the shape of an image is (C, H, W)."""
    return len(shape) == 3 and shape[0] <= 4 < shape[2]


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (H, W, C) of an image that is stored as (H, W), (C, H, W) or (H, W, C)."""
    if len(shape) == 2:
        return (*shape, 1)
    return (shape[1], shape[2], shape[0]) if is_channels_first(shape) else shape


def _stream(name: str, mapped: StreamMapping, dataset: ForeignDataset) -> Stream:
    """The stream that a mapping describes. Raises ValueError if it is none."""
    columns = [dataset.column(key) for key in mapped.keys]
    images = [column for column in columns if _is_image(column)]
    if len(columns) > 1 and (images or len({column.dtype for column in columns}) > 1):
        dtypes = ", ".join(f"{column.key} {column.dtype}{column.shape}" for column in columns)
        raise ValueError(f"{name}.key must name one image, or vectors of one dtype, got {dtypes}: make streams of them")
    if reason := next(filter(None, map(_unusable, columns)), ""):
        raise ValueError(f"{name}.key: {columns[0].key} cannot be a stream, because {reason}: leave it out")
    shape = image_shape(columns[0].shape) if images else (sum(math.prod(column.shape) for column in columns),)
    if images and shape[-1] > CHANNEL_LIMIT:
        raise ValueError(
            f"{name}.key: {columns[0].key} has {shape[-1]} channels, and an image at most {CHANNEL_LIMIT}: leave it out"
        )
    stored = "float32" if columns[0].dtype == "float64" else columns[0].dtype
    meaning = mapped.meaning if isinstance(mapped, ActionMapping) else []
    hold = MEANINGS[meaning] if isinstance(meaning, str) else tuple(MEANINGS[name] for name in meaning)
    return Stream(
        name,
        shape,
        mapped.dtype or stored,
        units=_as_tuple(mapped.units),
        labels=tuple(mapped.labels),
        low=_as_tuple(mapped.low),
        high=_as_tuple(mapped.high),
        hold=hold,
        kinds=_as_tuple(mapped.kinds),
        context=mapped.context,
    )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def to_yaml(content: Mapping[str, Any]) -> str:
    """The text of a mapping's file, with a comment above each entry."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Lists in one line, everything else in lines of its own."""

    Dumper.add_representer(
        list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
    )
    parts = list[str]()
    for name, value in content.items():
        comment = "\n".join(f"# {line}" for line in _wrapped(EXPLANATIONS[name]))
        body = yaml.dump({name: value}, Dumper=Dumper, sort_keys=False, width=1000, allow_unicode=True)
        parts.append(f"{comment}\n{body}")
    return "\n".join(parts)


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 110)


def read_mapping(path: Path) -> Any:
    """The content of a mapping's file.

    Raises ValueError if it is no YAML or has an entry twice, and FileNotFoundError if it does not exist.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses an entry that stands twice, of which YAML takes the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key, _ in node.value if keys.count(key.value) > 1]:
                place = f"{path}, line {twice[-1].start_mark.line + 1}"
                raise ValueError(f"{place}: the entry {twice[-1].value!r} stands twice: rename one of them")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} must be a mapping in YAML: {error}") from error
