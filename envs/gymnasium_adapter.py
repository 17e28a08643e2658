"""Wrap any gymnasium environment as the environment of a task: the way in for your own simulation.

A `Specification` describes what a policy observes and commands. Two functions turn the results of the environment into
observations, and into success and score:

>>> from recede.specification import Specification, Stream
>>> pendulum = Specification(
...     observations=(Stream("pendulum", (3,), units=("1", "1", "rad/s"), low=(-1, -1, -8), high=(1, 1, 8)),),
...     action=Stream("action", (1,), units="N m", low=-2, high=2),
...     control_dt=0.05,
... )
>>> env = GymnasiumAdapter(
...     gymnasium.make("Pendulum-v1"),
...     pendulum,
...     observe=lambda raw, info: {"pendulum": raw},
...     judge=lambda raw, reward, terminated, info: (bool(raw[0] > 0.99), float(raw[0] + 1) / 2),
...     max_steps=200,
... )
>>> observation, info = env.reset(seed=100_000)
>>> observation["pendulum"].shape, info["success"]
((3,), False)

Use functions at the top of a module instead of lambdas: worker processes need to pickle the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification, Stream, nearest
from .promises import PromiseError, check_observation, kind, outcome, reset, unpacked

Observe: TypeAlias = Callable[[Any, dict[str, Any]], Mapping[str, ArrayLike]]
"""(raw observation, info) -> {stream name: one step of the stream}."""

Judge: TypeAlias = Callable[[Any, float, bool, dict[str, Any]], tuple[bool, float]]
"""(raw observation, reward, terminated, info) -> success, and the score of this step in [0, 1].

It is also called after a reset, with a reward of 0."""


def box(stream: Stream) -> gymnasium.spaces.Box:
    """The space of one step. Without limits, integers and booleans have those of their dtype and floats have none."""
    dtype: Any = np.dtype(stream.dtype)
    if stream.low:
        return gymnasium.spaces.Box(stream.cast(stream.low), stream.cast(stream.high), dtype=dtype)
    if dtype.kind == "f":
        return gymnasium.spaces.Box(-np.inf, np.inf, stream.shape, dtype)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return gymnasium.spaces.Box(low, high, stream.shape, dtype)


class GymnasiumAdapter(gymnasium.Env[Any, Any]):
    """Makes an environment keep the promises of `recede.envs.task`.

    Observations are checked (names, shapes, kinds of number, finite), copied, and cast to the dtypes of the streams.
    Actions are rounded to the dtype of their stream (`Stream.cast`) and clipped to its limits. An episode is terminated
    by success or by the inner environment, and truncated after `max_steps` steps or by the inner environment. The inner
    `info` is passed on; its "state", which an expert gets, is the observation unless the inner environment has a
    dictionary of that name. The inner environment is always reset with a seed; if none is given, one is drawn from
    `np_random`. If the inner environment has a `preview`, the adapter has it too.

    env: the inner environment, made with the desired render mode and without a shorter time limit.
    pixels: from actions (T, Da) to where they point in the rendered image, (T, 2) columns and rows. pixels_in: from the
        name of a stream of images and actions to where they point there, or to None if its camera moves.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        specification: Specification,
        *,
        observe: Observe,
        judge: Judge,
        max_steps: int,
        pixels: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        pixels_in: Callable[[str, NDArray[Any]], NDArray[Any] | None] | None = None,
    ) -> None:
        self.env, self.specification, self.max_steps = env, specification, max_steps
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / specification.control_dt}
        self.render_mode = env.render_mode
        self.observation_space = gymnasium.spaces.Dict({s.name: box(s) for s in specification.observations})
        self.action_space = self._action_box = box(specification.action)
        self._observe, self._judge, self._pixels, self._pixels_in = observe, judge, pixels, pixels_in
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode; `options` are passed to the inner environment.

        Raises ValueError if `observe` returns other streams or shapes than those of the specification.
        """
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        raw, info = reset(self.env, seed=seed, options=options)
        self._steps = 0
        observation = self._observation(raw, info)
        return observation, _with_state(self._info(raw, 0.0, False, info), observation)

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Apply `action` (Da,), clipped to the limits of its stream, for one control step.

        Raises ValueError for an action of another shape or with NaN or infinity, and if `observe` returns other streams
        or shapes than those of the specification.
        """
        action = self._clipped(action)
        raw, reward, terminated, truncated, info = unpacked("step", self.env.step(action), culprit=self.env.step)
        self._steps += 1
        info = self._info(raw, float(reward), bool(terminated), info)
        terminated = bool(terminated) or info["success"]
        truncated = (bool(truncated) or self._steps >= self.max_steps) and not terminated
        observation = self._observation(raw, info)
        return observation, float(reward), terminated, truncated, _with_state(info, observation)

    def render(self) -> Any:
        """Render the inner environment."""
        return self.env.render()

    def pixels(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Where the actions (T, Da) point in the image: (T, 2) columns and rows. Raises ValueError without `pixels`."""
        if self._pixels is None:
            raise ValueError(
                "actions cannot be drawn, because the adapter does not know where they point: give it pixels=..."
            )
        return self._pixels(actions)

    def pixels_in(self, stream: str, actions: NDArray[Any]) -> NDArray[Any] | None:
        """Where the actions (T, Da) point in the images of a stream: (T, 2) columns and rows; None if it is unknown."""
        return None if self._pixels_in is None else self._pixels_in(stream, actions)

    @property
    def preview(self) -> Callable[[ArrayLike, float], Any] | None:
        """The `preview` of the inner environment, if it has one."""
        inner = getattr(self.env, "preview", None)
        return None if inner is None else lambda action, share: inner(self._clipped(action), share)

    def close(self) -> None:
        """Close the inner environment."""
        self.env.close()

    def _clipped(self, action: ArrayLike) -> NDArray[Any]:
        limits, action = self._action_box, self.specification.action.cast(action)
        if action.shape != limits.shape or not np.isfinite(action).all():
            raise ValueError(f"an action must be {limits.shape} finite numbers, got {action}")
        return np.clip(action, limits.low, limits.high)

    def _observation(self, raw: Any, info: dict[str, Any]) -> dict[str, NDArray[Any]]:
        observation = self._observe(raw, info)
        check_observation(self.specification, observation, "observe", culprit=self._observe)
        streams = {stream.name for stream in self.specification.observations}
        for name in observation:
            if name not in streams:
                raise ValueError(
                    f"observe must return streams of the specification, got {name!r}: {nearest(name, streams)}"
                )
        return self._cast(observation)

    def _cast(self, observation: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        return {s.name: s.cast(observation[s.name]) for s in self.specification.observations}

    def _info(self, raw: Any, reward: float, terminated: bool, info: dict[str, Any]) -> dict[str, Any]:
        judged: Any = self._judge(raw, reward, terminated, info)
        if not isinstance(judged, tuple | list) or len(judged) != 2:
            raise PromiseError(f"judge must return (success, score), got {kind(judged)}", culprit=self._judge)
        success, score = outcome(dict(zip(("success", "score"), judged, strict=True)), "judge", culprit=self._judge)
        return {**info, "success": success, "score": score}


def _with_state(info: dict[str, Any], observation: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return info if isinstance(info.get("state"), Mapping) else {**info, "state": observation}
