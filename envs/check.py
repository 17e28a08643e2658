"""Check a task: `check_task` tests every promise that `recede.envs.task` lists.

It makes, steps and renders environments, and changes nothing on disk.

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
from .check_worlds import check_worlds
from .gymnasium_adapter import box
from .promises import brief, kind, reset, unpacked
from .task import Task, check_picklable, state_of

MAX_MOVE = 0.05
"""Largest move of a robot that is commanded its own position, as a share of the limits of the action."""

PREVIEWS = 4
"""Steps that are previewed."""

LONGEST_PHASE = 60
"""Characters in the name of a phase."""

TOLERANCE = 1e-4
"""Differences up to this share of a stream's limits count as rounding."""


def check_task(task: Task, *, seed: int = 0, steps: int = 40) -> str:
    """Check every promise of `recede.envs.task`; returns a report to print.

    One episode runs to its end and the others for `steps` steps. The actions are random walks within their limits, or
    within one unit if there are no limits.

    seed: of the first episode; the next seed is used too.

    Raises ValueError for the first broken promise, with the value and the remedy. Errors of the environment are passed
    on.
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
        check.phase(env)
    check.batch()
    check.pictures()
    return "\n".join(f"{name:<19} {text}" for name, text in check.lines.items())


@dataclass
class _Step:
    """The result of one reset or step."""

    observation: Mapping[str, Any]
    info: Mapping[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated

    def bits(self) -> list[Any]:
        """Everything that two equal steps share, to the last bit."""
        arrays = [(name, value.tobytes()) for name, value in self.observation.items()]
        return [*arrays, self.reward, self.terminated, self.truncated, self.info["success"], self.info["score"]]


@dataclass
class _Check:
    """A task and the report on it; each method checks the promises about one thing."""

    task: Task
    seed: int
    num_steps: int
    lines: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def description(self) -> None:
        """Check the task without an environment."""
        task, names = self.task, {stream.name for stream in self.task.specification.streams}
        _require(task.max_steps >= 1, f"max_steps must be 1 or more, got {task.max_steps}")
        for attribute, streams in (("sources", task.sources), ("mirror", task.mirror)):
            missing = names - set(streams or names)
            unknown = set(streams or ()) - names
            _require(
                not missing and not unknown,
                f"{attribute} must have an entry for every stream and no others, {sorted(missing)} are missing and "
                f"{sorted(unknown)} are no streams",
            )
        check_picklable(task, "the task, which worker processes get")
        unpickled = pickle.loads(pickle.dumps(task))
        _require(unpickled.specification == task.specification, "a pickled task must have the same specification")
        streams = ", ".join(f"{s.name} {s.shape}" for s in task.specification.observations)
        self.lines[task.name] = f"{streams} -> action {task.specification.action.shape}"

    def spaces(self, env: Any) -> None:
        """The spaces match the streams, and the environment renders only on request."""
        _require(
            env.render_mode is None, f"make() must make an environment that renders nothing, got {env.render_mode!r}"
        )
        specification = self.task.specification
        streams_space = gymnasium.spaces.Dict({s.name: box(s) for s in specification.observations})
        for name, space, expected in (
            ("observation_space", env.observation_space, streams_space),
            ("action_space", env.action_space, box(specification.action)),
        ):
            _require(
                space == expected,
                f"{name} must be that of the streams, {expected}, got {space}: build it with "
                "recede.envs.gymnasium_adapter.box(stream)",
            )

    def episode(self, env: Any) -> None:
        """Run an episode to its end: observations and infos keep their promises, and it ends within `max_steps`."""
        step = self.reset(env, self.seed)
        first, copies = step.observation, {name: value.copy() for name, value in step.observation.items()}
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
        overwritten = [name for name, value in copies.items() if value.tobytes() != first[name].tobytes()]
        _require(
            not overwritten, f"observations must stay as they are, but later steps changed {overwritten}: return copies"
        )
        end = "success" if step.info["success"] else "terminated" if step.terminated else "truncated"
        self.lines["a random episode"] = f"{end} after {number} steps, best score {best:.3g}"

    def determinism(self, env: Any) -> None:
        """Seed and actions determine an episode to the last bit, in a used and in a fresh environment."""
        first = self.roll_out(env, self.seed)
        rule = f"reset(seed={self.seed}) and the same actions must give the same episode to the last bit"
        remedy = "draw everything random from self.np_random, and reset all state"
        _check_same(first, self.roll_out(env, self.seed), rule, f"when it is reset again: {remedy}")
        with closing(self.make()) as fresh:
            _check_same(first, self.roll_out(fresh, self.seed), rule, f"in a fresh environment: {remedy}")
        differs = self.reset(env, self.seed + 1).bits() != first[0]
        self.lines["starts"] = f"of seeds {self.seed} and {self.seed + 1} {'differ' if differs else 'are equal'}"

    def clipping(self, env: Any) -> None:
        """An action beyond its limits acts like the nearest one within them."""
        stream = self.task.specification.action
        if not stream.low:
            self.lines["actions"] = "have no limits"
            return
        low, high = stream.cast(stream.low), stream.cast(stream.high)
        walk, span = self.actions(self.num_steps), np.subtract(stream.high, stream.low)
        beyond = stream.cast(walk + span * np.random.default_rng(0).choice([-2, 2], walk.shape))
        unclipped, clipped = (self.roll_out(env, self.seed, a) for a in (beyond, np.clip(beyond, low, high)))
        rule = "an action beyond its limits must act like the nearest action within them"
        _check_same(
            unclipped, clipped, rule, f"otherwise: clip actions to {low.tolist()} and {high.tolist()} in step()"
        )
        self.lines["actions"] = "are clipped to their limits"

    def expert(self, env: Any) -> None:
        """The expert returns finite actions for `info["state"]`, and its seed determines them."""
        task, stream = self.task, self.task.specification.action
        if task.expert is None:
            return
        expert, twin = task.expert(self.seed), task.expert(self.seed)
        step, number = self.reset(env, self.seed), 0
        while not step.is_over and number < self.num_steps:
            state = step.info.get("state")
            _require(
                state is not None, "info must hold 'state', the observation of the expert: add it in reset() and step()"
            )
            state, number = step.info["state"], number + 1
            action = np.asarray(expert(state))
            _require(
                action.shape == stream.shape and np.isfinite(action).all(),
                f"the expert must return {stream.shape} finite numbers, got {action}",
            )
            _require(
                np.array_equal(action, twin(state)),
                f"two experts of seed {self.seed} must act alike, but differ in step {number}: use no randomness "
                "except that of the seed",
            )
            step = self.step(env, stream.cast(action))
        self.lines["expert"] = (
            f"score {step.info['score']:.3g} after {number} steps" + ", success" * step.info["success"]
        )

    def mirror(self, env: Any) -> None:
        """A mirror is its own inverse, and its images lie within the limits."""
        if self.task.mirror is None:
            return
        actions, rows = self.actions(self.num_steps), list[Mapping[str, Any]]()
        step = self.reset(env, self.seed)
        for action in actions:
            rows.append(step.observation)
            if step.is_over:
                break
            step = self.step(env, action)
        recorded = {s.name: np.stack([row[s.name] for row in rows]) for s in self.task.specification.observations}
        for stream in self.task.specification.streams:
            values = recorded.get(stream.name, actions)
            mirror = self.task.mirror[stream.name]
            once = _mirrored(stream, mirror, values)
            twice = _mirrored(stream, mirror, once)
            worst = float(np.max(np.abs(twice.astype(np.float64) - values) / _scale(stream, values)))
            _require(
                worst <= TOLERANCE,
                f"a mirror that is applied twice must change nothing, but mirror[{stream.name!r}] differs "
                f"by {worst:.2g} of the range: only swap dimensions or change signs",
            )
        self.lines["mirror"] = f"is its own inverse on {len(rows)} steps"

    def restore(self, env: Any) -> None:
        """A reset with the options of `restore` begins in the observed state."""
        if self.task.restore is None:
            return
        first = self.reset(env, self.seed).observation
        self.roll_out(env, self.seed + 1)
        observation, _ = env.reset(seed=self.seed + 1, options=self.task.restore(first))
        for stream in self.task.specification.observations:
            difference = np.abs(np.subtract(observation[stream.name], first[stream.name], dtype=np.float64))
            worst = float(np.max(difference / _scale(stream, first[stream.name])))
            _require(
                stream.is_image or worst <= TOLERANCE,
                f"reset(options=restore(observation)) must begin with that observation, but {stream.name!r} differs by "
                f"{worst:.2g} of its range: set everything that the stream depends on",
            )
        self.lines["restore"] = "begins in an observed state"

    def position(self, env: Any) -> None:
        """A robot that is commanded its position stays there."""
        name, action = self.task.position, self.task.specification.action
        if name is None:
            return
        step, moved = self.reset(env, self.seed), 0.0
        for move in self.actions(self.num_steps // 2):
            step = step if step.is_over else self.step(env, move)
        if step.is_over:
            step = self.reset(env, self.seed)
        home = action.cast(step.observation[name])
        for _ in range(self.num_steps):
            step = self.step(env, home)
            moved = max(
                moved, float(np.max(np.abs(step.observation[name] - home.astype(np.float64)) / _scale(action, home)))
            )
            _require(
                moved <= MAX_MOVE,
                f"a robot that is commanded its position {name!r} must stay there, but moved by {moved:.2g} of the "
                f"limits of the action, of which {MAX_MOVE} is allowed: name the stream that holds the robot's own "
                "position in the units of the action, or leave position out",
            )
            if step.is_over:
                break
        self.lines["position"] = f"when commanded, the robot moved by at most {moved:.2g} of the limits"

    def phase(self, env: Any) -> None:
        """Every state has a phase, whose name is short enough for a table."""
        if self.task.phase is None:
            return
        names, step = dict[str, None](), self.reset(env, self.seed)
        for action in self.actions(self.num_steps):
            name: Any = self.task.phase(state_of(step.observation, step.info))
            _require(
                isinstance(name, str) and 0 < len(name) <= LONGEST_PHASE,
                f"phase(state) must return a name of 1 to {LONGEST_PHASE} characters, got {brief(name)}: say in a few "
                "words what is being done",
            )
            names[name] = None
            if step.is_over:
                break
            step = self.step(env, action)
        self.lines["phases"] = ", ".join(names)

    def batch(self) -> None:
        """Every world of a batch equals an environment."""
        if self.task.make_batch is not None:
            actions = self.actions(self.num_steps)
            self.lines["batch"] = check_worlds(self.task.make_batch, self.make, actions, seed=self.seed)

    def pictures(self) -> None:
        """Images are uint8, and actions have finite pixels in them."""
        with closing(self.make(render_mode="rgb_array")) as env:
            env.reset(seed=self.seed)
            try:
                image: Any = env.render()
            except OSError as error:
                self.lines["pictures"] = f"cannot be rendered here: {error}"
                return
            is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
            _require(
                is_image and image.shape[2] == 3,
                f"render() must return an (H, W, 3) uint8 array with render_mode='rgb_array', got {kind(image)}: "
                "return an image, or raise OSError if nothing can be rendered",
            )
            self.lines["pictures"] = f"{image.shape[1]} x {image.shape[0]} pixels"
            self._pixels(env.unwrapped)
            self._pixels_in(env.unwrapped)
            self._preview(env, image.shape)

    def _preview(self, env: Any, shape: tuple[int, ...]) -> None:
        if getattr(env.unwrapped, "preview", None) is None:
            return
        actions = self.actions(PREVIEWS)
        without, step = self.roll_out(env, self.seed, actions), self.reset(env, self.seed)
        bits = [step.bits()]
        for number, action in enumerate(actions):
            if step.is_over:
                break
            image: Any = env.unwrapped.preview(action, number / PREVIEWS)
            _require(
                isinstance(image, np.ndarray) and (image.shape, image.dtype) == (shape, np.uint8),
                f"preview(action, share) must return an image as render() does, of shape {shape}, got {kind(image)}",
            )
            step = self.step(env, action)
            bits.append(step.bits())
        rule = "preview(action, share) must change nothing"
        _check_same(without, bits, rule, "after it: take the step in a copy of the state")
        self.lines["pictures"] += ", also between two steps"

    def _pixels(self, env: Any) -> None:
        actions = self.actions(self.num_steps)
        try:
            points = np.asarray(env.pixels(actions))
        except (AttributeError, ValueError):
            self.lines["pictures"] += ", in which actions are not drawn: there is no pixels(actions)"
            return
        _require(
            points.shape == (len(actions), 2) and np.isfinite(points).all(),
            f"pixels(actions) must return (T, 2) finite columns and rows for actions (T, Da), got {kind(points)}",
        )

    def _pixels_in(self, env: Any) -> None:
        """Actions have finite pixels in the images of each camera of which the environment knows them."""
        pixels_in, actions = getattr(env, "pixels_in", None), self.actions(self.num_steps)
        for stream in self.task.specification.observations:
            if pixels_in is None or not stream.is_image or (points := pixels_in(stream.name, actions)) is None:
                continue
            _require(
                np.shape(points) == (len(actions), 2) and np.isfinite(points).all(),
                f"pixels_in({stream.name!r}, actions) must return None, or (T, 2) finite columns and rows for actions "
                f"(T, Da), got {kind(points)}",
            )

    def make(self, **options: Any) -> gymnasium.Env[Any, Any]:
        """An environment of the task."""
        env: Any = self.task.make(**options)
        _require(isinstance(env, gymnasium.Env), f"make() must return a gymnasium.Env, got {kind(env)}")
        return env

    def actions(self, count: int) -> NDArray[Any]:
        """A random walk (T, Da) within the limits; it is smoother than independent draws and travels further."""
        stream = self.task.specification.action
        low, high = (np.array(stream.low), np.array(stream.high)) if stream.low else (-0.5, 0.5)
        walk = np.cumsum(np.random.default_rng(self.seed).normal(0, 0.08, (count, *stream.shape)), axis=0)
        return stream.cast(low + np.clip(0.5 + walk, 0, 1) * (high - low))

    def roll_out(self, env: Any, seed: int, actions: NDArray[Any] | None = None) -> list[list[Any]]:
        """The bits of every step of an episode, starting with its reset."""
        step = self.reset(env, seed)
        bits = [step.bits()]
        for action in self.actions(self.num_steps) if actions is None else actions:
            if step.is_over:
                break
            step = self.step(env, action)
            bits.append(step.bits())
        return bits

    def reset(self, env: Any, seed: int) -> _Step:
        """Reset and check the result. Raises ValueError for a broken promise."""
        step = _Step(*reset(env, seed=seed))
        self._check_step(step, "reset()")
        return step

    def step(self, env: Any, action: NDArray[Any]) -> _Step:
        """Step and check the result. Raises ValueError for a broken promise."""
        observation, reward, terminated, truncated, info = unpacked("step", env.step(action))
        step = _Step(observation, info, reward, terminated, truncated)
        self._check_step(step, "step()")
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

    def _check_step(self, step: _Step, place: str) -> None:
        streams = {stream.name: stream for stream in self.task.specification.observations}
        for name in step.observation:
            _require(
                name in streams,
                f"{place} must return streams of the specification, got {name!r}: {nearest(name, streams)}",
            )
        for name, stream in streams.items():
            _require(
                name in step.observation, f"{place} must return every stream of the specification, {name!r} is missing"
            )
            _check_value(stream, step.observation[name], place)
        _check_outcome(step.info, place)


def _require(is_kept: Any, message: str) -> None:
    if not is_kept:
        raise ValueError(message)


def _check_value(stream: Stream, value: Any, place: str) -> None:
    what = f"{place} must return {stream.name!r}"
    is_array = isinstance(value, np.ndarray) and (value.shape, value.dtype.name) == (stream.shape, stream.dtype)
    _require(
        is_array, f"{what} as an array of {stream.dtype} of shape {stream.shape}, got {kind(value)}: cast it there"
    )
    _require(value.dtype.kind != "f" or np.isfinite(value).all(), f"{what} as finite numbers, got {value}")
    if stream.low:
        low, high = stream.cast(stream.low), stream.cast(stream.high)
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


def _check_same(one: list[list[Any]], other: list[list[Any]], rule: str, remedy: str) -> None:
    """Raise ValueError unless two episodes are equal, bit by bit."""
    for number, (step, other_step) in enumerate(zip(one, other, strict=False)):
        names = [*(name for name, _ in step[:-5]), "reward", "terminated", "truncated", "success", "score"]
        for name, a, b in zip(names, step, other_step, strict=True):
            if a != b:
                raise ValueError(f"{rule}, but {name!r} differs in step {number} {remedy}")


def _scale(stream: Stream, values: NDArray[Any]) -> Any:
    """The range of each dimension. Without limits it is the largest magnitude, and at least 1."""
    if stream.low:
        return np.subtract(stream.high, stream.low)
    return 255.0 if stream.is_image else max(1.0, float(np.abs(values).max()))


def _mirrored(stream: Stream, mirror: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any]) -> NDArray[Any]:
    """Mirror rows (T, ...). Raises ValueError if their shape changes or they leave the limits."""
    rows, what = np.asarray(mirror(values)), f"mirror[{stream.name!r}]"
    _require(rows.shape == values.shape, f"{what} must keep the shape {values.shape}, got {rows.shape}")
    if stream.low:
        margin = TOLERANCE * _scale(stream, rows)
        outside = np.argwhere((rows < stream.low - margin) | (rows > stream.high + margin))
        for row, index in outside:
            raise ValueError(
                f"{what} must stay within the limits of the stream, but maps {stream.label(int(index))} to "
                f"{rows[row, index]}: mirror about the middle of the limits, or state symmetric limits"
            )
    return stream.cast(rows)
