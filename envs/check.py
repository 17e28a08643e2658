"""A check of your own task: `check_task` tries every promise that `recede.envs.task` lists.

It imports, steps and renders the environment, and changes nothing on disk.

Shapes: T steps, Da size of the action, H and W pixels.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..specification import Stream, nearest
from .gymnasium_adapter import box
from .task import Task

MAX_MOVE = 0.05
"""How far a robot that is commanded its own position may leave it, as a share of the limits of the action."""

SAME = 1e-4
"""Differences up to this share of a stream's limits are rounding."""


def check_task(task: Task, *, seed: int = 0, steps: int = 40) -> str:
    """Check every promise of `recede.envs.task`; returns what was observed, in lines to print.

    One episode is stepped to its end, the others for `steps` steps, by random walks of the action within its limits (of
    one unit where it has none).

    seed: of the first episode; the next seed is used too.

    Raises ValueError for the first promise that is broken, with the value and the remedy. What the environment itself
    raises is passed on.
    """
    check = _Check(task, seed, steps)
    check.description()
    with closing(check.make()) as env:
        check.spaces(env)
        check.episode(env)
        check.determinism(env)
        check.clipping(env)
        check.expert(env)
        check.mirror(env)
        check.restore(env)
        check.position(env)
    check.pictures()
    return "\n".join(f"{name:<20}{text}" for name, text in check.lines.items())


@dataclass
class _Step:
    """What one reset or step returned."""

    observation: Mapping[str, Any]
    info: Mapping[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated

    def bits(self) -> list[Any]:
        """Everything that must be equal for two steps to be the same to the last bit."""
        arrays = [(name, value.tobytes()) for name, value in self.observation.items()]
        return [*arrays, self.reward, self.terminated, self.truncated, self.info["success"], self.info["score"]]


@dataclass
class _Check:
    """A task and what was observed of it; each method checks promises about one thing."""

    task: Task
    seed: int
    num_steps: int
    lines: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def description(self) -> None:
        """What can be seen without an environment."""
        task, names = self.task, {stream.name for stream in self.task.specification.streams}
        _require(task.max_steps >= 1, f"max_steps must be 1 or more, got {task.max_steps}")
        for attribute, streams in (("sources", task.sources), ("mirror", task.mirror)):
            missing = names - set(streams or names)
            unknown = set(streams or ()) - names
            _require(
                not missing and not unknown,
                f"{attribute} must have an entry for every stream, {sorted(missing)} are missing and "
                f"{sorted(unknown)} are no streams",
            )
        try:
            travelled = pickle.loads(pickle.dumps(task))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"the task must be picklable, because worker processes get it, but {error}: use functions at the top "
                "of a module, and functools.partial, instead of lambdas and nested functions"
            ) from None
        _require(travelled.specification == task.specification, "a pickled task must have the same specification")
        streams = ", ".join(f"{s.name} {s.shape}" for s in task.specification.observations)
        self.lines[task.name] = f"{streams} -> action {task.specification.action.shape}"

    def spaces(self, env: Any) -> None:
        """The spaces are those of the streams, and nothing is rendered that was not asked for."""
        _require(
            env.render_mode is None, f"make() must make an environment that renders nothing, got {env.render_mode!r}"
        )
        specification = self.task.specification
        wanted = gymnasium.spaces.Dict({s.name: box(s) for s in specification.observations})
        for name, space, right in (
            ("observation_space", env.observation_space, wanted),
            ("action_space", env.action_space, box(specification.action)),
        ):
            _require(
                space == right,
                f"{name} must be that of the streams, {right}, got {space}: build it with "
                "recede.envs.gymnasium_adapter.box(stream)",
            )

    def episode(self, env: Any) -> None:
        """One episode to its end: every observation and every info is as promised, and it ends by `max_steps`."""
        step = self.reset(env, self.seed)
        kept, copies = step.observation, {name: value.copy() for name, value in step.observation.items()}
        best, number = step.info["score"], 0
        for action in self.actions(self.task.max_steps):
            step = self.step(env, action)
            number += 1
            best = max(best, step.info["score"])
            if step.is_over:
                break
        else:
            raise ValueError(
                f"an episode must be over after max_steps={self.task.max_steps} steps, but neither terminated nor "
                "truncated was True: return truncated=True in that step"
            )
        overwritten = [name for name, value in copies.items() if value.tobytes() != kept[name].tobytes()]
        _require(
            not overwritten, f"observations must stay as they are, but later steps changed {overwritten}: return copies"
        )
        end = "success" if step.info["success"] else "terminated" if step.terminated else "truncated"
        self.lines["a random episode"] = f"{end} after {number} steps, best score {best:.3g}"

    def determinism(self, env: Any) -> None:
        """Seed and actions decide everything to the last bit, whatever was done before and in any environment."""
        first = self.roll(env, self.seed)
        rule = f"reset(seed={self.seed}) and the same actions must give the same episode to the last bit"
        remedy = "draw everything random from self.np_random, and reset all state"
        _check_same(first, self.roll(env, self.seed), rule, f"when it is reset again: {remedy}")
        with closing(self.make()) as fresh:
            _check_same(first, self.roll(fresh, self.seed), rule, f"in a fresh environment: {remedy}")
        differs = self.reset(env, self.seed + 1).bits() != first[0]
        self.lines["starts"] = f"of seeds {self.seed} and {self.seed + 1} {'differ' if differs else 'are the same'}"

    def clipping(self, env: Any) -> None:
        """Beyond its limits an action does what it does at them."""
        stream = self.task.specification.action
        if not stream.low:
            self.lines["actions"] = "have no limits"
            return
        low, high = np.array(stream.low, stream.dtype), np.array(stream.high, stream.dtype)
        walk = self.actions(self.num_steps)
        beyond = walk + (high - low) * np.random.default_rng(0).choice([-2, 2], walk.shape).astype(stream.dtype)
        one, other = (self.roll(env, self.seed, actions) for actions in (beyond, np.clip(beyond, low, high)))
        rule = "an action beyond its limits must do what the nearest action within them does"
        _check_same(one, other, rule, f"otherwise: clip actions to {low.tolist()} and {high.tolist()} in step()")
        self.lines["actions"] = "are clipped to their limits"

    def expert(self, env: Any) -> None:
        """The expert answers `info["state"]` with finite actions, which its seed decides."""
        task, stream = self.task, self.task.specification.action
        if task.expert is None:
            return
        one, two = task.expert(self.seed), task.expert(self.seed)
        step, number = self.reset(env, self.seed), 0
        while not step.is_over and number < self.num_steps:
            state = step.info.get("state")
            _require(
                state is not None, "info must hold 'state', which the expert is shown: add it in reset() and step()"
            )
            state, number = step.info["state"], number + 1
            action = np.asarray(one(state))
            _require(
                action.shape == stream.shape and np.isfinite(action).all(),
                f"the expert must answer with {stream.shape} finite numbers, got {action}",
            )
            _require(
                np.array_equal(action, two(state)),
                f"two experts of seed {self.seed} must act alike, but differ in step {number}: draw everything random "
                "from the seed",
            )
            step = self.step(env, action)
        self.lines["expert"] = (
            f"score {step.info['score']:.3g} after {number} steps" + ", success" * step.info["success"]
        )

    def mirror(self, env: Any) -> None:
        """A mirror of a mirror shows the world itself, and what a mirror shows is possible."""
        if self.task.mirror is None:
            return
        actions, rows = self.actions(self.num_steps), list[Mapping[str, Any]]()
        step = self.reset(env, self.seed)
        for action in actions:
            rows.append(step.observation)
            if step.is_over:
                break
            step = self.step(env, action)
        shown = {s.name: np.stack([row[s.name] for row in rows]) for s in self.task.specification.observations}
        for stream in self.task.specification.streams:
            values = shown.get(stream.name, actions)
            mirror = self.task.mirror[stream.name]
            once = _mirrored(stream, mirror, values)
            twice = _mirrored(stream, mirror, once)
            worst = float(np.max(np.abs(twice.astype(np.float64) - values) / _scale(stream, values)))
            _require(
                worst <= SAME,
                f"a mirror must give everything back when it is applied twice, but mirror[{stream.name!r}] differs "
                f"by {worst:.2g} of the range: swap or change signs, nothing else",
            )
        self.lines["mirror"] = f"is its own inverse on {len(rows)} steps"

    def restore(self, env: Any) -> None:
        """A reset begins in the state that `restore` describes."""
        if self.task.restore is None:
            return
        first = self.reset(env, self.seed).observation
        self.roll(env, self.seed + 1)
        observation, _ = env.reset(seed=self.seed + 1, options=self.task.restore(first))
        for stream in self.task.specification.observations:
            difference = np.abs(np.subtract(observation[stream.name], first[stream.name], dtype=np.float64))
            worst = float(np.max(difference / _scale(stream, first[stream.name])))
            _require(
                stream.is_image or worst <= SAME,
                f"reset(options=restore(observation)) must begin with that observation, but {stream.name!r} differs by "
                f"{worst:.2g} of its range: set everything that the stream shows",
            )
        self.lines["restore"] = "begins in an observed state"

    def position(self, env: Any) -> None:
        """To command the position is to stay."""
        name, action = self.task.position, self.task.specification.action
        if name is None:
            return
        step, moved = self.reset(env, self.seed), 0.0
        for move in self.actions(self.num_steps // 2):
            step = step if step.is_over else self.step(env, move)
        if step.is_over:
            step = self.reset(env, self.seed)
        home = np.array(step.observation[name], action.dtype)
        for _ in range(self.num_steps):
            step = self.step(env, home)
            moved = max(moved, float(np.max(np.abs(step.observation[name] - home) / _scale(action, home))))
            _require(
                moved <= MAX_MOVE,
                f"a robot that is commanded its position {name!r} must stay there, but moved by {moved:.2g} of the "
                f"limits of the action, of which {MAX_MOVE} is allowed: name the stream that holds the robot's own "
                "position in the units of the action, or leave position out",
            )
            if step.is_over:
                break
        self.lines["position"] = f"commanded, it moved by at most {moved:.2g} of the limits"

    def pictures(self) -> None:
        """Pictures are uint8, and actions lie somewhere in them."""
        with closing(self.make(render_mode="rgb_array")) as env:
            env.reset(seed=self.seed)
            try:
                image: Any = env.render()
            except OSError as error:
                self.lines["pictures"] = f"cannot be made here: {error}"
                return
            is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
            _require(
                is_image and image.shape[2] == 3,
                f"render() must return an (H, W, 3) uint8 array with render_mode='rgb_array', got {_kind(image)}: "
                "return an image, or raise OSError if nothing can be rendered",
            )
            self.lines["pictures"] = f"{image.shape[1]} x {image.shape[0]} pixels"
            self._pixels(env.unwrapped)

    def _pixels(self, env: Any) -> None:
        actions = self.actions(self.num_steps)
        try:
            points = np.asarray(env.pixels(actions))
        except (AttributeError, ValueError):
            self.lines["pictures"] += ", in which actions are not drawn: there is no pixels(actions)"
            return
        _require(
            points.shape == (len(actions), 2) and np.isfinite(points).all(),
            f"pixels(actions) must return (T, 2) finite columns and rows for actions (T, Da), got {_kind(points)}",
        )

    def make(self, **options: Any) -> gymnasium.Env[Any, Any]:
        """An environment of the task."""
        env: Any = self.task.make(**options)
        _require(isinstance(env, gymnasium.Env), f"make() must return a gymnasium.Env, got {_kind(env)}")
        return env

    def actions(self, count: int) -> NDArray[Any]:
        """A random walk (T, Da) within the limits; gentler than independent draws, and it gets somewhere."""
        stream = self.task.specification.action
        low, high = (np.array(stream.low), np.array(stream.high)) if stream.low else (-0.5, 0.5)
        walk = np.cumsum(np.random.default_rng(self.seed).normal(0, 0.08, (count, *stream.shape)), axis=0)
        return (low + np.clip(0.5 + walk, 0, 1) * (high - low)).astype(stream.dtype)

    def roll(self, env: Any, seed: int, actions: NDArray[Any] | None = None) -> list[list[Any]]:
        """The bits of an episode, from its reset on."""
        step = self.reset(env, seed)
        bits = [step.bits()]
        for action in self.actions(self.num_steps) if actions is None else actions:
            if step.is_over:
                break
            step = self.step(env, action)
            bits.append(step.bits())
        return bits

    def reset(self, env: Any, seed: int) -> _Step:
        """Raises ValueError unless what comes is as promised."""
        step = _Step(*env.reset(seed=seed))
        self._promised(step, "reset()")
        return step

    def step(self, env: Any, action: NDArray[Any]) -> _Step:
        """Raises ValueError unless what comes is as promised."""
        observation, reward, terminated, truncated, info = env.step(action)
        step = _Step(observation, info, reward, terminated, truncated)
        self._promised(step, "step()")
        _require(
            isinstance(reward, (int, float)) and math.isfinite(reward),
            f"step() must return a finite float as reward, got {reward!r}: use float()",
        )
        _require(
            terminated or not info["success"],
            "an episode must be terminated by success, but info['success'] was True and terminated False: return "
            "terminated=True in that step",
        )
        return step

    def _promised(self, step: _Step, place: str) -> None:
        streams = {stream.name: stream for stream in self.task.specification.observations}
        for name in step.observation:
            _require(
                name in streams,
                f"{place} must give streams of the specification, got {name!r}: {nearest(name, streams)}",
            )
        for name, stream in streams.items():
            _require(
                name in step.observation, f"{place} must give every stream of the specification, {name!r} is missing"
            )
            _check_value(stream, step.observation[name], place)
        _check_outcome(step.info, place)


def _require(is_kept: Any, message: str) -> None:
    if not is_kept:
        raise ValueError(message)


def _check_value(stream: Stream, value: Any, place: str) -> None:
    what = f"{place} must give {stream.name!r}"
    is_right = isinstance(value, np.ndarray) and (value.shape, value.dtype.name) == (stream.shape, stream.dtype)
    _require(
        is_right, f"{what} as an array of {stream.dtype} of shape {stream.shape}, got {_kind(value)}: cast it there"
    )
    _require(value.dtype.kind != "f" or np.isfinite(value).all(), f"{what} as finite numbers, got {value}")
    if stream.low:
        low, high = np.array(stream.low, stream.dtype), np.array(stream.high, stream.dtype)
        for index in np.flatnonzero((value < low) | (value > high)):
            raise ValueError(
                f"{what} within its limits, but {stream.label(int(index))} is {value[index]} and not in "
                f"[{low[index]}, {high[index]}]: clip it there, or state wider limits"
            )


def _check_outcome(info: Mapping[str, Any], place: str) -> None:
    for name in ("success", "score"):
        _require(name in info, f"{place} must return an info that holds {name!r}, got {sorted(info)}")
    success, score = info["success"], info["score"]
    _require(isinstance(success, bool), f"info['success'] must be True or False, {place} gave {success!r}: use bool()")
    _require(
        isinstance(score, float) and 0 <= score <= 1,
        f"info['score'] must be a float in [0, 1], {place} gave {score!r}: scale it there",
    )


def _kind(value: Any) -> str:
    """What a value is, in a few words."""
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _check_same(one: list[list[Any]], other: list[list[Any]], rule: str, remedy: str) -> None:
    """Two episodes must be the same, bit by bit."""
    for number, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        names = [*(name for name, _ in ours[:-5]), "reward", "terminated", "truncated", "success", "score"]
        for name, a, b in zip(names, ours, theirs, strict=True):
            if a != b:
                raise ValueError(f"{rule}, but {name!r} differs in step {number} {remedy}")


def _scale(stream: Stream, values: NDArray[Any]) -> Any:
    """The range of each dimension; of a stream without limits the largest magnitude, and at least 1."""
    if stream.low:
        return np.subtract(stream.high, stream.low)
    return 255.0 if stream.is_image else max(1.0, float(np.abs(values).max()))


def _mirrored(stream: Stream, mirror: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any]) -> NDArray[Any]:
    """Rows (T, ...) in a mirror, which must be rows of the same stream."""
    rows, what = np.asarray(mirror(values)), f"mirror[{stream.name!r}]"
    _require(rows.shape == values.shape, f"{what} must keep the shape {values.shape}, got {rows.shape}")
    if stream.low:
        margin = SAME * _scale(stream, rows)
        outside = np.argwhere((rows < stream.low - margin) | (rows > stream.high + margin))
        for row, index in outside:
            raise ValueError(
                f"{what} must stay within the limits of the stream, but shows {stream.label(int(index))} at "
                f"{rows[row, index]}: mirror about the middle of the limits, or state limits that are symmetric"
            )
    return rows.astype(stream.dtype)
