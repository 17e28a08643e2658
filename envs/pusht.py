"""Push-T (Chi et al. 2023, section V.B): push a T-shaped block onto its outline with a round agent.

The physics, the coverage and the initial states are those of gym-pusht's `gym_pusht/PushT-v0` (the extra `pusht`),
which is imported when an environment is made. The board is 512 pixels wide; x points right and y down.

The published human demonstrations (`pusht_cchi_v7_replay.zarr`) are read through the tasks' `sources`. Their key
`keypoint` is not used: where the agent touches the block it holds the keypoints of another moment, one physics step
(0.01 s) after the state and up to 2 px from it. The demonstrators stop where they are content, at a coverage of 0.86 to
0.97 (median 0.90): only 7 of the 206 recordings end beyond the 0.95 of success.

Shapes: T steps; a state is (agent x, agent y, block x, block y, block angle), in pixels and radians.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..specification import Specification, Stream
from .gymnasium_adapter import GymnasiumAdapter
from .task import Observation, Task

BOARD = 512
"""Pixels of a side of the board, in which every position is given."""

SUCCESS_COVERAGE = 0.95
"""Share of the outline that the block must cover; more than that is success."""

MAX_STEPS = 300

CENTRE_OF_GRAVITY = np.array([0.0, 45.0])
"""Of the block, in its own frame (px)."""

KEYPOINTS = np.array(
    [
        [9.269787, 90.040974],
        [-60.983472, -1.186730],
        [60.912756, -1.393364],
        [-0.270503, 25.543625],
        [-14.064928, 122.815853],
        [39.002738, 32.857404],
        [-39.966414, 32.729655],
        [-16.824344, 62.863179],
        [23.541461, -1.700288],
    ]
)
"""The nine points of the block, in its own frame (px), that the published demonstrations hold, found from them."""

Reading: TypeAlias = tuple[Stream, Callable[[NDArray[Any]], NDArray[Any]]]
"""A stream, and how states (T, 5) become its rows (T, D): recorded states and the environment's alike."""


def agent_position(states: NDArray[Any]) -> NDArray[Any]:
    """(T, 2) px."""
    return states[:, :2]


def block_position(states: NDArray[Any]) -> NDArray[Any]:
    """(T, 2) px, of the middle of the bar's outer edge."""
    return states[:, 2:4]


def block_angle(states: NDArray[Any]) -> NDArray[Any]:
    """(T, 2): the angle's cosine and sine, which do not jump where it wraps."""
    return np.stack([np.cos(states[:, 4]), np.sin(states[:, 4])], axis=1)


def block_keypoints(states: NDArray[Any]) -> NDArray[Any]:
    """(T, 18) px: x and y of the nine `KEYPOINTS` in turn."""
    states = np.asarray(states, dtype=np.float64)
    return (_rotated(KEYPOINTS, states[:, 4]) + states[:, None, 2:4]).reshape(-1, KEYPOINTS.size)


def block_offset(states: NDArray[Any]) -> NDArray[Any]:
    """(T, 18) px: the nine `KEYPOINTS` as seen from the agent, which pushes by a few pixels of a board of 512."""
    return block_keypoints(states) - np.tile(np.asarray(states, dtype=np.float64)[:, :2], len(KEYPOINTS))


def pose_from_position(observation: Observation) -> tuple[NDArray[Any], float]:
    """The block's position (2,) in px and angle in rad, from the streams `block_position` and `block_angle`."""
    cos, sin = observation["block_angle"].astype(np.float64)
    return observation["block_position"].astype(np.float64), float(np.arctan2(sin, cos))


def pose_from_keypoints(observation: Observation) -> tuple[NDArray[Any], float]:
    """The block's position (2,) in px and angle in rad that fit the stream `block_keypoints` best (least squares)."""
    found = observation["block_keypoints"].astype(np.float64).reshape(KEYPOINTS.shape)
    middle, own_middle = found.mean(axis=0), KEYPOINTS.mean(axis=0)
    x, y = (found - middle).T
    own_x, own_y = (KEYPOINTS - own_middle).T
    angle = float(np.arctan2(own_x @ y - own_y @ x, own_x @ x + own_y @ y))
    return middle - _rotated(own_middle[None], np.array([angle]))[0, 0], angle


def _rotated(points: NDArray[Any], angles: NDArray[Any]) -> NDArray[Any]:
    """Points (K, 2) turned by each angle (T,): (T, K, 2)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = points.T
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)


def _restore(pose: Callable[[Observation], tuple[NDArray[Any], float]], observation: Observation) -> dict[str, Any]:
    """The `options` of a reset to an observed state."""
    block, angle = pose(observation)
    # gym-pusht puts the block there unturned, then turns it about its centre of gravity, which moves it.
    turned = _rotated(CENTRE_OF_GRAVITY[None], np.array([angle]))[0, 0]
    return {"reset_to_state": np.array([*observation["agent_position"], *(block - CENTRE_OF_GRAVITY + turned), angle])}


class _PushT(gymnasium.Wrapper[Any, Any, Any, Any]):
    """gym-pusht's environment, drawn faster, with the coverage also after a reset, and copied by playing it again.

    pymunk can pickle its space, but the copy moves differently; and the simulation is bitwise deterministic.
    """

    def __init__(self, render_mode: str | None, render_size: int) -> None:
        super().__init__(_make_gym_pusht(render_mode))
        self.render_size = render_size
        self._start: dict[str, Any] | None = None  # the arguments of the last reset, a seed among them, and since then
        self._actions: list[NDArray[np.float32]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._start, self._actions = {"seed": seed, "options": options}, []
        return observation, {**info, "coverage": self.unwrapped._get_coverage()}  # type: ignore[attr-defined]

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._actions.append(action)
        return self.env.step(action)

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """(H, W, 3), or None without a render mode: gym-pusht's image of that size, without its mark at the action."""
        if self.render_mode is None:
            return None
        import cv2

        surface = self.unwrapped._draw()  # type: ignore[attr-defined]
        # Reading the surface's own memory (blue first, and a fourth byte) saves gym-pusht's transposed copy of it.
        drawn = np.frombuffer(surface.get_buffer(), np.uint8).reshape(BOARD, BOARD, 4)
        resized = cv2.resize(drawn, (self.render_size, self.render_size))
        return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGRA2RGB), dtype=np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return _played, (self.render_mode, self.render_size, self._start, self._actions)


def _played(
    render_mode: str | None, render_size: int, start: dict[str, Any] | None, actions: list[NDArray[np.float32]]
) -> _PushT:
    env = _PushT(render_mode, render_size)
    if start is not None:
        env.reset(**start)
    for action in actions:
        env.step(action)
    return env


def _make_gym_pusht(render_mode: str | None) -> gymnasium.Env[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # by pygame, which gym-pusht imports
            importlib.import_module("gym_pusht.envs")
    except ImportError as error:
        raise ImportError(
            f"Push-T needs the package gym-pusht ({error}): pip install 'recede[pusht]', "
            "and on Debian also apt-get install libgl1 libglib2.0-0"
        ) from error
    # Without gymnasium's wrappers around it: the adapter counts the steps.
    return gymnasium.make("gym_pusht/PushT-v0", render_mode=render_mode, disable_env_checker=True).unwrapped


def _observe(
    readings: tuple[Reading, ...], state: NDArray[np.float64], info: dict[str, Any]
) -> dict[str, NDArray[Any]]:
    return {stream.name: rows(state[None])[0] for stream, rows in readings}


def _judge(state: object, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[bool, float]:
    coverage = float(info["coverage"])
    return coverage > SUCCESS_COVERAGE, min(coverage / SUCCESS_COVERAGE, 1.0)


def _pixels(render_size: int, actions: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(actions, dtype=np.float64) * (render_size / BOARD)


def _make(
    specification: Specification,
    readings: tuple[Reading, ...],
    render_mode: str | None = None,
    *,
    render_size: int = 480,
) -> GymnasiumAdapter:
    """Push-T, seen through some readings of its state.

    render_mode: None or "rgb_array". render_size: pixels of a side of the square image.

    Raises ImportError with the remedy where gym-pusht is not installed.
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
    return GymnasiumAdapter(
        _PushT(render_mode, render_size),
        specification,
        observe=partial(_observe, readings),
        judge=_judge,
        max_steps=MAX_STEPS,
        pixels=partial(_pixels, render_size),
    )


def _unchanged(rows: NDArray[Any]) -> NDArray[Any]:
    return rows


def _task(name: str, pose: Callable[[Observation], tuple[NDArray[Any], float]], *readings: Reading) -> Task:
    action = Stream("action", (2,), units="px", labels=("x", "y"), low=0, high=BOARD)
    specification = Specification(tuple(stream for stream, _ in readings), action, control_dt=0.1)
    return Task(
        name=name,
        specification=specification,
        max_steps=MAX_STEPS,
        make=partial(_make, specification, readings),
        sources={"action": ("action", _unchanged), **{stream.name: ("state", rows) for stream, rows in readings}},
        restore=partial(_restore, pose),
    )


# The agent stays on the board, for its controller does not overshoot. The block can be squeezed through the edge, but
# only as far as the agent can push it: no point of it gets further than 256 px beyond.
_FAR = BOARD + 256
_AGENT: Reading = (
    Stream("agent_position", (2,), units="px", labels=("x", "y"), low=0, high=BOARD),
    agent_position,
)
_POSITION: Reading = (
    Stream("block_position", (2,), units="px", labels=("x", "y"), low=-256, high=_FAR),
    block_position,
)
_ANGLE: Reading = (
    Stream("block_angle", (2,), units="1", labels=("cos", "sin"), low=-1, high=1),
    block_angle,
)
_KEYPOINTS: Reading = (
    Stream("block_keypoints", (18,), "float32", "px", tuple(f"{a}{i}" for i in range(9) for a in "xy"), -256, _FAR),
    block_keypoints,
)
_OFFSET: Reading = (
    Stream("block_offset", (18,), "float32", "px", tuple(f"{a}{i}" for i in range(9) for a in "xy"), -_FAR, _FAR),
    block_offset,
)

PUSHT = _task("pusht", pose_from_keypoints, _AGENT, _KEYPOINTS, _OFFSET)
PUSHT_POSE = _task("pusht_pose", pose_from_position, _AGENT, _POSITION, _ANGLE)
