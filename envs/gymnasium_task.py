"""A task of any gymnasium environment, from its id: `task=gymnasium:ID`, or `task=gymnasium:ID@WORDS` with a mapping.

The id is as `gymnasium.make` takes it; if a package must be imported first, it is `package:ID`. The mapping is a YAML
file, or is typed in its place. Its keys are the fields of `Words`:

>>> task = open_gymnasium("gymnasium:Pendulum-v1@{success: reward >= -0.01, dt: 0.05}")
>>> [stream.name for stream in task.specification.observations], task.specification.action.high, task.max_steps
(['observation'], (2.0,), 200)

The mapping names no module, and the id is acted upon only because the user typed it: see `envs.catalogue`.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..specification import Specification, Stream, nearest
from .faults import own_frames
from .gymnasium_adapter import GymnasiumAdapter
from .promises import PromiseError, brief, kind, reset, unpacked
from .task import Task

PREFIX = "gymnasium:"
"""What the name of such a task begins with."""

PAGE = "docs/your_task.md"
REMEDY = f"write a Task for it ({PAGE})"

SUCCESSES = ("is_success", "success")
"""Entries of an info that say the success, if the mapping does not."""

AGREEMENT = 0.02
"""Two control periods that differ by less, as a share, differ by rounding alone."""

FARTHEST = 1e9
"""Limits beyond this are none."""

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
RULE = re.compile(r"(reward|terminated|info(?:\.[^\s.<>=]+)+)(?:\s*(>=|<=|>|<)\s*(\S+))?")


@dataclass(frozen=True)
class Rule:
    """A value of a step: `reward`, `terminated` or `info.KEY`, alone or compared with a number."""

    source: str
    comparison: str | None = None
    bound: float = 0.0

    @classmethod
    def parse(cls, key: str, text: Any) -> Rule:
        """Read the rule of a key of the mapping. Raises ValueError for anything else."""
        match = RULE.fullmatch(text.strip()) if isinstance(text, str) else None
        try:
            if match is not None:
                return cls(match[1], match[2], float(match[3] or 0.0))
        except ValueError:
            pass
        raise ValueError(
            f"{key} must be info.KEY, terminated or reward, alone or compared with a number as in 'reward >= 1', "
            f"got {text!r}"
        )

    def __call__(self, reward: float, terminated: bool, info: Mapping[str, Any]) -> Any:
        """The value; None if the info has no such entry."""
        value: Any = {"reward": reward, "terminated": terminated, "info": info}[self.source.partition(".")[0]]
        for name in self.source.split(".")[1:]:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None or self.comparison is None:
            return value
        return COMPARISONS[self.comparison](float(np.asarray(value).item()), self.bound)


@dataclass(frozen=True, kw_only=True)
class Words:
    """How an environment becomes a task. What is left out is read from the environment.

    Raises ValueError for an impossible value.
    """

    observe: Any = None
    """The parts of the observation that become streams: a list of them, as [agent_pos, pixels.top], or a mapping from
    the names of the streams to them. None takes all. An observation that is no dictionary is one part, observation."""
    success: str | None = None
    """When a step is a success: a `Rule`. None is info.is_success or info.success."""
    score: str | None = None
    """The score of a step, in [0, 1]: a `Rule`. None is 1 for a success and else 0."""
    dt: float | None = None
    """The control period (s). None is `env.unwrapped.dt` or 1 / `metadata["render_fps"]`, unless they differ."""
    max_steps: int | None = None
    """Control steps until an episode is truncated. None takes those of the id."""
    hold: str = "last"
    """What the action does without a command: last for positions, zero for velocities and differences."""
    position: str | None = None
    """The stream that holds the robot's position in the units of the action; `recede control` needs it."""
    make: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    """Further arguments of `gymnasium.make`."""

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"observe": (list, dict), "dt": (int, float), "max_steps": int}
        kinds |= {"hold": str, "position": str, "make": dict}
        for name, types in kinds.items():
            value = getattr(self, name)
            is_left_out = value is None and name not in ("hold", "make")
            if not is_left_out and (isinstance(value, bool) or not isinstance(value, types)):
                raise ValueError(f"{name} cannot be {value!r}: {PAGE} lists the keys")
        for name in ("dt", "max_steps"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("success", "score"):
            if (text := getattr(self, name)) is not None:
                Rule.parse(name, text)

    @classmethod
    def read(cls, text: str) -> Words:
        """Read a mapping as it is typed: {key: value}, or the name of a YAML file.

        Raises ValueError if it is no mapping or has an unknown key, and OSError if the file cannot be read.
        """
        from omegaconf import OmegaConf

        is_file = not text.startswith("{")
        if is_file and not Path(text).expanduser().is_file():
            raise ValueError(f"there is no mapping {text}: check its path, or type it in its place, @{{key: value}}")
        source = Path(text).expanduser().read_text() if is_file else text
        try:
            content = OmegaConf.to_container(OmegaConf.create(source), resolve=False)
        except Exception as error:  # of the parser, which has errors of its own
            raise ValueError(f"{text} is no YAML: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{text} must be a mapping of keys to values, got {brief(content)}")
        keys = [entry.name for entry in fields(cls)]
        for key in content:
            if key not in keys:
                colon = str(key).partition(":")[0]
                remedy = f"write a space behind {colon}:" if colon in keys else nearest(str(key), keys)
                raise ValueError(f"{text} has no key {key!r}: {remedy}")
        return cls(**{str(key): value for key, value in content.items()})


def open_gymnasium(text: str) -> Task:
    """The task of "gymnasium:ID" or "gymnasium:ID@WORDS", as the user typed it. Its streams are printed to stderr.

    Raises what `gymnasium_task` and `Words.read` raise.
    """
    identity, at, words = text.removeprefix(PREFIX).partition("@")
    try:
        task, origin = _opened(identity, Words.read(words) if at else Words())
    except ValueError as error:
        if own_frames(error):
            raise
        raise ValueError(f"{PREFIX}{identity}: {error}") from error
    print(f"{task.name}: {origin}", file=sys.stderr)
    return task


def gymnasium_task(identity: str, **words: Any) -> Task:
    """The task of a gymnasium id. words: the fields of `Words`.

    It makes the environment, and takes its first step to learn what it returns.

    Raises ValueError if the environment cannot be made, if a policy cannot serve its spaces, or if something that the
    words leave out cannot be read from it. Errors of the environment are passed on.
    """
    return _opened(identity, Words(**words))[0]


def _opened(identity: str, words: Words) -> tuple[Task, str]:
    """The task, and a line on what was read from the environment."""
    with closing(_made(identity, words)) as env:
        action = _action(env.action_space, hold=words.hold)
        parts = _parts(env.observation_space, words.observe)
        with _explained("its first episode fails"):
            raw, info = reset(env, seed=0)
            parts(raw, info)
            env.action_space.seed(0)
            raw, _, _, _, info = unpacked("step", env.step(env.action_space.sample()))
            parts(raw, info)
        words, origin = _completed(words, env, info)
    assert words.dt is not None
    assert words.max_steps is not None
    specification = Specification(parts.streams, action, words.dt)
    make = partial(_adapted, identity, words, specification, parts)
    task = Task(f"{PREFIX}{identity}", specification, words.max_steps, make, position=words.position)
    return task, f"{', '.join(f'{s.name} {s.shape}' for s in parts.streams)} -> action {action.shape}; {origin}"


def _made(identity: str, words: Words, **options: Any) -> Any:
    """The environment of gymnasium. Raises ValueError if it cannot be made."""
    from . import physics  # it finds MuJoCo a renderer without a window, and must do so before a package imports MuJoCo

    del physics
    limit = {} if words.max_steps is None else {"max_episode_steps": words.max_steps}
    with _explained("gymnasium cannot make it"):
        return gymnasium.make(identity, disable_env_checker=True, **limit, **words.make, **options)


@contextlib.contextmanager
def _explained(what: str) -> Generator[None]:
    """An error that comes out of an installed package becomes a line; that of the user's own code is passed on."""
    try:
        yield
    except PromiseError:
        raise
    except Exception as error:
        if own_frames(error):
            raise
        is_unknown = isinstance(error, gymnasium.error.UnregisteredEnv | ModuleNotFoundError)
        hint = f" (an id of a package is {PREFIX}package:ID; the package must be installed, or lie in PYTHONPATH)"
        hint = hint if is_unknown else ""
        (*_, last) = traceback.extract_tb(error.__traceback__)
        place = "" if str(error) else f" at {last.filename}:{last.lineno}"
        raise ValueError(f"{what}: {type(error).__name__}{place}: {error}{hint}".rstrip(": ")) from error


def _completed(words: Words, env: Any, info: Mapping[str, Any]) -> tuple[Words, str]:
    """The words with everything that they left out, and a line on it. Raises ValueError if something is missing.

    info: of the first step.
    """
    missing = list[str]()
    periods = {"the mapping": words.dt} if words.dt is not None else _periods(env)
    if not periods or not math.isclose(min(periods.values()), max(periods.values()), rel_tol=AGREEMENT):
        stated = " but ".join(f"{where} is {value:.4g}" for where, value in periods.items()) or "it states none"
        missing.append(f"dt, the control period in seconds ({stated})")
    max_steps = words.max_steps or getattr(env.spec, "max_episode_steps", None)
    if max_steps is None:
        missing.append("max_steps, the control steps of an episode")
    success = words.success or next((f"info.{name}" for name in SUCCESSES if name in info), None)
    entries = f"the info of a step has {', '.join(sorted(map(str, info))) or 'no entries'}"
    if success is None:
        missing.append(f"success, as info.KEY, 'reward >= 1' or terminated ({entries})")
    if missing:
        raise ValueError(
            f"add to its mapping, {PREFIX}ID@{{key: value}} or {PREFIX}ID@FILE.yaml, {'; '.join(missing)}: see {PAGE}"
        )
    for key, text in (("success", success), ("score", words.score)):
        value = None if text is None else Rule.parse(key, text)(0.0, False, info)
        if text is not None and value is None:
            raise ValueError(f"{key} is {text}, but {entries}: name one of them")
        if key == "success" and value not in (0, 1):
            raise ValueError(f"success is {text}, which is {brief(value)} after a step: compare it, as '{text} >= 1'")
    (where, dt), *_ = periods.items()
    line = f"{dt:.4g} s a step (from {where}), at most {max_steps} steps, success is {success}"
    return replace(words, dt=round(dt, 9), max_steps=max_steps, success=success), line


def _periods(env: Any) -> dict[str, float]:
    """Where the environment states its control period -> the period (s)."""
    dt, fps = getattr(env.unwrapped, "dt", None), env.metadata.get("render_fps")
    stated = {"its dt": dt if _is_positive(dt) else None, "its render_fps": 1 / fps if _is_positive(fps) else None}
    return {where: float(period) for where, period in stated.items() if period is not None}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(0 < value < math.inf)


@dataclass(frozen=True)
class _Parts:
    """The function `observe` of the adapter: the parts of an observation, each as a step of its stream.

    sources: for each stream its part, as a path, and the shape that the space declares.
    """

    streams: tuple[Stream, ...]
    sources: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]

    def __call__(self, raw: Any, info: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Raises PromiseError if a part is missing, or is of another shape than its space."""
        observation: dict[str, NDArray[Any]] = {}
        for stream, (path, shape) in zip(self.streams, self.sources, strict=True):
            value: Any = raw
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            if np.shape(value) != shape or value is None:
                raise PromiseError(
                    f"the environment declares {'.'.join(path) or 'its observation'} of shape {shape}, but returns "
                    f"{kind(value)}: mend its observation_space, or {REMEDY}",
                    stream=stream.name,
                )
            observation[stream.name] = np.asarray(value).reshape(stream.shape)
        return observation


def _parts(space: Any, observe: Any) -> _Parts:
    """The parts of an observation space that become streams. Raises ValueError for those that cannot."""
    paths = {".".join(path) or "observation": (path, leaf) for path, leaf in _leaves(space)}
    pairs = observe.items() if isinstance(observe, dict) else [(_name(str(part)), part) for part in observe or paths]
    chosen = {str(name): str(part) for name, part in pairs}
    if len(chosen) < len(pairs):
        raise ValueError(
            f"two parts would be one stream, of {list(chosen)}: name each, as in {{observe: {{name: part}}}}"
        )
    streams = list[Stream]()
    for name, part in chosen.items():
        if part not in paths:
            raise ValueError(f"observe names {part!r}, which is no part of the observation: {nearest(part, paths)}")
        streams.append(_stream(name, part, paths[part][1]))
    return _Parts(tuple(streams), tuple((paths[part][0], paths[part][1].shape) for part in chosen.values()))


def _leaves(space: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The spaces within nested dictionaries, with the keys that lead to them."""
    if not isinstance(space, gymnasium.spaces.Dict):
        yield path, space
        return
    for name, inner in space.spaces.items():
        yield from _leaves(inner, (*path, str(name)))


def _name(part: str) -> str:
    """The name of a stream from that of its part: pixels.top becomes pixels_top."""
    name = re.sub(r"\W+", "_", part.lower()).strip("_")
    return name if name[:1].isalpha() else f"stream_{name}"


def _stream(name: str, part: str, space: Any) -> Stream:
    """The stream of a part of the observation: an image, or numbers in one row, rounded to float32."""
    is_box = isinstance(space, gymnasium.spaces.Box)
    is_image = is_box and space.dtype == np.uint8 and len(space.shape) == 3
    if not is_box or (len(space.shape) > 2 and not is_image):
        raise ValueError(
            f"a policy observes vectors and uint8 images, but {part} is {brief(space)}: choose other parts with "
            f"observe, as in {{observe: [a, b]}}, or {REMEDY}"
        )
    dtype = "float32" if space.dtype.kind == "f" else space.dtype.name
    try:
        return Stream(name, space.shape if is_image else (math.prod(space.shape),), dtype)
    except ValueError as error:
        raise ValueError(f"{part} is {brief(space)}: {error}; or {REMEDY}") from None


def _action(space: Any, *, hold: str) -> Stream:
    """The stream of the action, with the limits of its space if there are any."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"a policy commands a vector of numbers, but the action is {brief(space)}: {REMEDY}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    is_limited = bool((np.abs([low, high]) < FARTHEST).all() and (low < high).all())
    limits: Any = {"low": tuple(low.tolist()), "high": tuple(high.tolist())} if is_limited else {}
    return Stream("action", space.shape, space.dtype.name, hold=hold, **limits)


class _Adapted(GymnasiumAdapter):
    """An adapter that judges no reset, and whose info has no state but the observation.

    render_mode: the one that was asked for, whatever the environment has by default.
    """

    def __init__(self, env: Any, *, render_mode: str | None, **options: Any) -> None:
        super().__init__(env, **options)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        method = getattr(self.env.unwrapped, "seed", None)
        if callable(method) and seed is not None:  # of the old gym; Meta-World takes the seed of no reset
            method(seed)
        return super().reset(seed=seed, options=options)

    def _info(self, raw: Any, reward: float, terminated: bool, info: dict[str, Any]) -> dict[str, Any]:
        info = {name: value for name, value in info.items() if name != "state"}
        if self._steps == 0:
            return {**info, "success": False, "score": 0.0}
        return super()._info(raw, reward, terminated, info)


@dataclass(frozen=True)
class _Judge:
    """The function `judge` of the adapter."""

    success: Rule
    score: Rule | None

    def __call__(self, raw: Any, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[Any, Any]:
        success = self.success(reward, terminated, info)
        success = False if success is None else success  # some note it in the last step only
        score = float(bool(success)) if self.score is None else self.score(reward, terminated, info)
        return success, 0.0 if score is None else score


def _adapted(
    identity: str, words: Words, specification: Specification, parts: _Parts, **options: Any
) -> gymnasium.Env[Any, Any]:
    """An environment of the task. options: `render_mode`, if it is to render."""
    assert words.success is not None
    assert words.max_steps is not None
    score = None if words.score is None else Rule.parse("score", words.score)
    return _Adapted(
        _made(identity, words, **options),
        render_mode=options.get("render_mode"),
        specification=specification,
        observe=parts,
        judge=_Judge(Rule.parse("success", words.success), score),
        max_steps=words.max_steps,
    )
