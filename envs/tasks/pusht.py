"""Push-T (Chi et al. 2023, section V.B): push a T-shaped block onto its outline with a round agent.

The physics, the coverage and the initial states are those of gym-pusht's `gym_pusht/PushT-v0` (the extra `pusht`),
which is imported when an environment is made. The board is 512 pixels wide; x points right and y down.

The tasks' `sources` read the published human demonstrations (`pusht_cchi_v7_replay.zarr`). Their key `keypoint` is not
used: if the agent touches the block, it holds the keypoints one physics step (0.01 s) after the state, up to 2 px away.
The demonstrators stop at a coverage of 0.86 to 0.97 (median 0.90): only 7 of the 206 recordings exceed the 0.95 of
success.

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

from ...specification import Specification, Stream
from ..gymnasium_adapter import GymnasiumAdapter
from ..task import Observation, Task

BOARD = 512
"""Side length of the board in pixels, the unit of every position."""

SUCCESS_COVERAGE = 0.95
"""Success is a covered share of the outline above this."""

MAX_STEPS = 300
"""Control steps until an episode is truncated."""

IMAGE_SIZE = 96
"""Side length in pixels of the observed image, as in the published demonstrations."""

CENTRE_OF_GRAVITY = np.array([0.0, 45.0])
"""Centre of gravity of the block, in its own frame (px)."""

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
"""The nine points of the block in the published demonstrations, in the block's frame (px); fitted to them."""

Reading: TypeAlias = tuple[Stream, Callable[[NDArray[Any]], NDArray[Any]]]
"""A stream, and the function from states (T, 5), recorded or simulated, to its rows (T, D)."""


def agent_position(states: NDArray[Any]) -> NDArray[Any]:
    """Position of the agent, (T, 2) px."""
    return states[:, :2]


def block_keypoints(states: NDArray[Any]) -> NDArray[Any]:
    """The nine `KEYPOINTS` of the block, (T, 18) px: x and y of each in turn."""
    states = np.asarray(states, dtype=np.float64)
    return (_rotated(KEYPOINTS, states[:, 4]) + states[:, None, 2:4]).reshape(-1, KEYPOINTS.size)


def block_offset(states: NDArray[Any]) -> NDArray[Any]:
    """The nine `KEYPOINTS` relative to the agent, (T, 18) px: it pushes by a few pixels on a board of 512."""
    return block_keypoints(states) - np.tile(np.asarray(states, dtype=np.float64)[:, :2], len(KEYPOINTS))


def fitted_pose(points: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares fit of the block's positions (T, 2) in px and angles (T,) in rad to rows of `KEYPOINTS` (T, 18).

    The position has the origin of the points.
    """
    observed = np.asarray(points, dtype=np.float64).reshape(-1, *KEYPOINTS.shape)
    middle, own_middle = observed.mean(axis=1), KEYPOINTS.mean(axis=0)
    x, y = np.moveaxis(observed - middle[:, None], -1, 0)
    own_x, own_y = (KEYPOINTS - own_middle).T
    angle = np.arctan2(y @ own_x - x @ own_y, x @ own_x + y @ own_y)
    return middle - _rotated(own_middle[None], angle)[:, 0], angle


def mirrored_points(points: NDArray[Any]) -> NDArray[np.float64]:
    """Mirror positions or differences (T, 2 n) in px at the diagonal x + y = 512, without the offset of positions.

    The diagonal is the axis of the outlined T, so the mirror maps the outline to itself.
    """
    return -np.asarray(points, dtype=np.float64).reshape(len(points), -1, 2)[..., ::-1].reshape(len(points), -1)


def _mirrored_positions(rows: NDArray[Any]) -> NDArray[np.float64]:
    return BOARD + mirrored_points(rows)


def _mirrored_block(origin: float, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Mirror the block, not each point: the block's own axis maps the block to itself, but swaps its points."""
    position, angle = fitted_pose(rows)
    keypoints = _rotated(KEYPOINTS, np.pi / 2 - angle) + (origin + mirrored_points(position))[:, None]
    return keypoints.reshape(len(rows), -1)


def _mirrored_image(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[:, ::-1, ::-1].swapaxes(1, 2)


def _rotated(points: NDArray[Any], angles: NDArray[Any]) -> NDArray[Any]:
    """Points (K, 2), rotated by each angle (T,): (T, K, 2)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = points.T
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)


def _restore(observation: Observation) -> dict[str, Any]:
    """The `options` of a reset to the observed state."""
    (block,), (angle,) = fitted_pose(observation["block_keypoints"][None])
    # gym-pusht places the block unrotated, then rotates it about its centre of gravity, which moves it.
    rotated = _rotated(CENTRE_OF_GRAVITY[None], np.array([angle]))[0, 0]
    return {"reset_to_state": np.array([*observation["agent_position"], *(block - CENTRE_OF_GRAVITY + rotated), angle])}


class _PushT(gymnasium.Wrapper[Any, Any, Any, Any]):
    """gym-pusht's environment, which also renders faster, returns the coverage after a reset, and can be copied.

    A copy replays the episode: a pickled pymunk space moves differently, but the simulation is bitwise deterministic.
    """

    def __init__(self, render_mode: str | None, render_size: int, has_image: bool) -> None:
        super().__init__(_make_gym_pusht(render_mode))
        self.render_size, self.has_image = render_size, has_image
        self._start: dict[str, Any] | None = None  # arguments of the last reset, with its seed
        self._actions: list[NDArray[np.float32]] = []
        self._ahead: Any = None  # an environment whose state is set to ours, for previews

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._start, self._actions = {"seed": seed, "options": options}, []
        info = {**info, "coverage": self.unwrapped._get_coverage()}  # type: ignore[attr-defined]
        return observation, info | self._image()

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._actions.append(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | self._image()

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The image (H, W, 3), or None without a render mode."""
        return None if self.render_mode is None else self._picture(self.render_size)

    def preview(self, action: NDArray[np.float32], share: float) -> NDArray[np.uint8]:
        """The image after a share of a control step with `action` (2,), which is not taken."""
        ours: Any = self.unwrapped
        if self._ahead is None:
            self._ahead = _make_gym_pusht(None)
            self._ahead.reset(seed=0)
        ahead = self._ahead
        ahead.goal_pose = ours.goal_pose
        for body, other in ((ahead.agent, ours.agent), (ahead.block, ours.block)):
            body.angle = other.angle  # about the centre of gravity, which moves the position
            body.position = other.position
            body.velocity, body.angular_velocity = other.velocity, other.angular_velocity
            ahead.space.reindex_shapes_for_body(body)
        # As gym-pusht's step: the agent is accelerated towards the action.
        for _ in range(round(share / (ahead.dt * ahead.control_hz))):
            gap = np.subtract(action, ahead.agent.position)
            acceleration = ahead.k_p * gap - ahead.k_v * np.array(ahead.agent.velocity)
            ahead.agent.velocity = tuple(ahead.agent.velocity + acceleration * ahead.dt)
            ahead.space.step(ahead.dt)
        return self._picture(self.render_size, ahead)

    def _image(self) -> dict[str, Any]:
        return {"image": self._picture(IMAGE_SIZE)} if self.has_image else {}

    def _picture(self, size: int, env: Any = None) -> NDArray[np.uint8]:
        """gym-pusht's image (size, size, 3) of an environment, ours by default, without the mark at the action."""
        import cv2

        env = env or self.unwrapped
        surface = env._draw()
        # Reading the surface's memory (BGRA) avoids the transposed copy that gym-pusht makes.
        drawn = np.frombuffer(surface.get_buffer(), np.uint8).reshape(BOARD, BOARD, 4)
        resized = cv2.resize(drawn, (size, size))
        return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGRA2RGB), dtype=np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return _replayed, ((self.render_mode, self.render_size, self.has_image), self._start, self._actions)


def _replayed(arguments: tuple[Any, ...], start: dict[str, Any] | None, actions: list[NDArray[np.float32]]) -> _PushT:
    env = _PushT(*arguments)
    if start is not None:
        env.reset(**start)
    for action in actions:
        env.step(action)
    return env


def _make_gym_pusht(render_mode: str | None) -> gymnasium.Env[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "pkg_resources is deprecated"
            )  # raised by pygame, which gym-pusht imports
            importlib.import_module("gym_pusht.envs")
    except ImportError as error:
        raise ImportError(
            f"Push-T needs the package gym-pusht ({error}): pip install 'recede[pusht]', "
            "and on Debian also apt-get install libgl1 libglib2.0-0"
        ) from error
    # Without gymnasium's wrappers: the adapter counts the steps.
    env: Any = gymnasium.make("gym_pusht/PushT-v0", render_mode=render_mode, disable_env_checker=True).unwrapped
    env._get_coverage = partial(_coverage, env)
    return env


def _coverage(env: Any) -> float:
    """Share of the outline that the block covers.

    gym-pusht sums the areas of the block's two parts in the order of a set, which changes from block to block, and so
    does the last bit of the sum; here the order is fixed.
    """
    to_shapely = importlib.import_module("gym_pusht.envs.pusht").pymunk_to_shapely
    outline = to_shapely(env.get_goal_pose_body(env.goal_pose), env._block_shapes)
    return outline.intersection(to_shapely(env.block, env._block_shapes)).area / outline.area


def _observe(
    readings: tuple[Reading, ...], state: NDArray[np.float64], info: dict[str, Any]
) -> dict[str, NDArray[Any]]:
    images = {"image": info["image"]} if "image" in info else {}
    return {stream.name: rows(state[None])[0] for stream, rows in readings} | images


def _judge(state: object, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[bool, float]:
    coverage = float(info["coverage"])
    return coverage > SUCCESS_COVERAGE, min(coverage / SUCCESS_COVERAGE, 1.0)


def _pixels(render_size: int, actions: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(actions, dtype=np.float64) * (render_size / BOARD)


def _pixels_in(stream: str, actions: NDArray[Any]) -> NDArray[np.float64]:
    """In the images of the only camera."""
    del stream
    return _pixels(IMAGE_SIZE, actions)


def _make(
    specification: Specification,
    readings: tuple[Reading, ...],
    render_mode: str | None = None,
    *,
    render_size: int = 480,
) -> GymnasiumAdapter:
    """Make Push-T with observations from some readings of its state.

    render_mode: None or "rgb_array". render_size: side length of the square image, in pixels.

    Raises ImportError, with the remedy, if gym-pusht is not installed.
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
    return GymnasiumAdapter(
        _PushT(render_mode, render_size, any(stream.is_image for stream in specification.observations)),
        specification,
        observe=partial(_observe, readings),
        judge=_judge,
        max_steps=MAX_STEPS,
        pixels=partial(_pixels, render_size),
        pixels_in=_pixels_in,
    )


def _unchanged(rows: NDArray[Any]) -> NDArray[Any]:
    return rows


def _task(name: str, *readings: Reading, has_image: bool) -> Task:
    action = Stream("action", (2,), units="px", labels=("x", "y"), low=0, high=BOARD, kinds="position")
    image = (Stream("image", (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8"),) if has_image else ()
    specification = Specification((*(stream for stream, _ in readings), *image), action, control_dt=0.1)
    sources = {"action": ("action", _unchanged), **{stream.name: ("state", rows) for stream, rows in readings}}
    return Task(
        name=name,
        specification=specification,
        max_steps=MAX_STEPS,
        make=partial(_make, specification, readings),
        sources=sources | {stream.name: ("img", _unchanged) for stream in image},
        restore=None if has_image else _restore,
        mirror={stream.name: MIRROR[stream.name] for stream in specification.streams},
        position="agent_position",
    )


MIRROR = {
    "action": _mirrored_positions,
    "agent_position": _mirrored_positions,
    "block_keypoints": partial(_mirrored_block, BOARD),
    "block_offset": partial(_mirrored_block, 0),
    "image": _mirrored_image,
}
"""Stream name -> its mirror at the board's diagonal, which maps board, block and outline to themselves."""

# The agent stays on the board, because its controller does not overshoot. The block can be squeezed through the edge,
# but only as far as the agent can push it: none of its points gets more than 256 px beyond the edge.
_FAR = BOARD + 256
_AGENT: Reading = (
    Stream("agent_position", (2,), units="px", labels=("x", "y"), low=0, high=BOARD, kinds="position"),
    agent_position,
)
_KEYPOINTS: Reading = (
    Stream("block_keypoints", (18,), "float32", "px", tuple(f"{a}{i}" for i in range(9) for a in "xy"), -256, _FAR),
    block_keypoints,
)
_OFFSET: Reading = (
    Stream("block_offset", (18,), "float32", "px", tuple(f"{a}{i}" for i in range(9) for a in "xy"), -_FAR, _FAR),
    block_offset,
)

PUSHT = _task("pusht", _AGENT, _KEYPOINTS, _OFFSET, has_image=False)
PUSHT_IMAGE = _task("pusht_image", _AGENT, has_image=True)
