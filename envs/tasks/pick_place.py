"""The built-in task: a gantry gripper carries a cube around a wall onto a marked target, by either side.

The wall blocks the straight path and is too tall to lift the cube over it. Both paths around it are equally long, so
demonstrations are multimodal, and the mean of the two paths hits the wall. The scene is `pick_place.xml`: x points from
the start side (x < 0) across the wall (x = 0), y along the wall, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...specification import Specification, Stream
from ..experts.pick_place import PickPlaceExpert
from ..gymnasium_adapter import box
from ..physics import Cameras, check_physics, mujoco, position_indices, velocity_indices
from ..task import Observation, Task

CUBE_HALF = 0.02
"""Half the side of the cube (m)."""
TARGET_TOLERANCE = 0.03
"""Largest distance (m) from the target's centre at which the whole cube is on the mark (radius 0.06), at any yaw."""
WITHDRAWN = 0.06
"""Height (m) of the gripper at which its fingertips clear a cube on the table, by nearly 1 cm."""
WALL_CORNER = 0.13
"""|y| (m) at which the centre of the cube clears an end of the wall."""
MAX_STEPS = 200

SPECIFICATION = Specification(
    observations=(
        Stream(
            "gripper",
            (5,),
            units=("m", "m", "m", "rad", "m"),
            labels=("x", "y", "z", "yaw", "opening"),
            low=(-0.3, -0.3, -0.05, -1.5, -0.02),
            high=(0.3, 0.3, 0.2, 1.5, 0.1),
        ),
        Stream(
            "cube",
            (5,),
            units=("m", "m", "m", "1", "1"),
            labels=("x", "y", "z", "cos_4_yaw", "sin_4_yaw"),
            low=(-0.5, -0.5, -0.1, -1, -1),
            high=(0.5, 0.5, 0.5, 1, 1),
        ),
        Stream("target", (2,), units="m", labels=("x", "y"), low=-0.3, high=0.3),
        Stream(
            "offset", (5,), units="m", labels=("cube_x", "cube_y", "cube_z", "target_x", "target_y"), low=-0.8, high=0.8
        ),
    ),
    action=Stream(
        "action",
        (5,),
        units=("m", "m", "m", "rad", "m"),
        labels=("x", "y", "z", "yaw", "opening"),
        low=(-0.26, -0.22, 0.016, -1.2, 0.0),
        high=(0.26, 0.22, 0.09, 1.2, 0.08),
    ),
    control_dt=0.1,
)
"""The observations and the action with the poses of cube and target.

`gripper` is the point between the fingertips, their yaw, and the distance between them. The action is the gripper state
to move to. A cube looks the same every 90 degrees, so `cube` holds the cosine and sine of four times its yaw. `offset`
is the position of cube and target relative to the gripper: a grasp needs millimetres, and the table measures half a
metre.
"""

IMAGE_SIZE = 96
"""Side length of the camera images, in pixels."""

IMAGE_SPECIFICATION = Specification(
    observations=(
        SPECIFICATION.observations[0],
        *(Stream(camera, (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8") for camera in ("scene", "wrist")),
    ),
    action=SPECIFICATION.action,
    control_dt=SPECIFICATION.control_dt,
)
"""The gripper state and the images of two cameras, which show the cube and the target."""

STATE = ("gripper", "cube", "target")
"""The streams that determine a state at rest; `offset` follows from them."""


def remaining_distance(cube: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]) -> float:
    """Length (m) of the shortest path from `cube` (x, y) to `target` (x, y), around the wall if it is between them.

    >>> round(remaining_distance(np.array([0.1, 0.0]), np.array([0.2, 0.0])), 3)
    0.1
    >>> round(remaining_distance(np.array([-0.2, 0.0]), np.array([0.2, 0.0])), 3)  # around the wall
    0.477
    """
    straight = float(np.hypot(*(target - cube)))
    if cube[0] * target[0] >= 0:
        return straight
    crossing = cube[1] + (target[1] - cube[1]) * cube[0] / (cube[0] - target[0])
    if abs(crossing) >= WALL_CORNER:
        return straight
    corners = np.array([[0.0, WALL_CORNER], [0.0, -WALL_CORNER]])
    return float(min(np.hypot(*(corner - cube)) + np.hypot(*(corner - target)) for corner in corners))


class PickPlace(gymnasium.Env[Any, Any]):
    """Carry the cube around the wall and release it on the target.

    Success: the centre of the cube is within 3 cm of the target's (the whole cube is on the mark), the cube rests on
    the table, and the gripper has withdrawn above it. Score: 1 on success, else 0.9 times the share of the shortest
    path (`remaining_distance`) that the cube has covered since the reset. Reward: the increase of the score, so the
    rewards of an episode sum to its last score.

    At a reset the cube and the gripper above it are on the start side of the wall and the target is behind it, all
    drawn from the seed. With `options={"state": observation}` the episode starts at rest in an observed state.

    `info["state"]` holds every stream of `SPECIFICATION`, whatever is observed.

    render_mode: None or "rgb_array".
    render_size: side length of the square image, in pixels.
    specification: the observations, `SPECIFICATION` or `IMAGE_SPECIFICATION`, whose images are rendered at every step.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": round(1 / SPECIFICATION.control_dt),
    }

    def __init__(
        self,
        render_mode: str | None = None,
        *,
        render_size: int = 480,
        specification: Specification = SPECIFICATION,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.render_mode, self.render_size, self.specification = render_mode, render_size, specification
        self._limits = {stream.name: box(stream) for stream in SPECIFICATION.streams}
        self.action_space = self._limits["action"]
        self.observation_space = gymnasium.spaces.Dict({s.name: box(s) for s in specification.observations})
        self._model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_suffix(".xml")))
        self._cameras = Cameras(self._model, max_size=max(render_size, IMAGE_SIZE))
        self._data, self._ahead = mujoco.MjData(self._model), mujoco.MjData(self._model)
        self._substeps = round(SPECIFICATION.control_dt / self._model.opt.timestep)
        joints = ("x", "y", "z", "yaw", "left_finger", "right_finger")
        self._axes = position_indices(self._model, joints)
        self._cube = position_indices(self._model, ["cube"])  # position, quaternion w-x-y-z
        self._cube_velocity = velocity_indices(self._model, ["cube"])  # linear, angular
        self._steps, self._score = 0, 0.0
        self._whole_distance: float | None = None  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode; `options` are described at the class.

        Raises ValueError for an unknown option, or a state that lacks a stream.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := options.keys() - {"state"}:
            raise ValueError(f"the only option of reset is 'state', got {sorted(unknown)}")
        self._set_state(options["state"] if "state" in options else self._draw())
        state = self._state()
        self._whole_distance = max(remaining_distance(state["cube"][:2], state["target"]), 1e-6)
        info = self._info(state, self._whole_distance)
        self._steps, self._score = 0, info["score"]
        return self._observe(state), info

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Move towards `action` (5,), clipped to the limits of `SPECIFICATION.action`, for one control step.

        Raises ValueError for an action of another shape or with NaN or infinity, FloatingPointError if the physics
        diverge, and gymnasium's ResetNeeded before the first reset.
        """
        if self._whole_distance is None:
            raise gymnasium.error.ResetNeeded("reset the environment before its first step")
        limits, action = self._limits["action"], SPECIFICATION.action.cast(action)
        if action.shape != limits.shape or not np.isfinite(action).all():
            raise ValueError(f"an action must be 5 finite numbers (x, y, z, yaw, opening), got {action}")
        self._data.ctrl[:] = np.clip(action, limits.low, limits.high)
        mujoco.mj_step(self._model, self._data, nstep=self._substeps)
        self._steps += 1
        check_physics(self._data, self._steps)
        state = self._state()
        info = self._info(state, self._whole_distance)
        reward, self._score = info["score"] - self._score, info["score"]
        truncated = self._steps >= MAX_STEPS and not info["success"]
        return self._observe(state), reward, info["success"], truncated, info

    def render(self) -> Any:
        """The scene as an (H, W, 3) uint8 image, or None without a render mode.

        Raises OSError if EGL is missing; everything else works without it.
        """
        if self.render_mode is None:
            return None
        return self._cameras.picture(self._data, "scene", self.render_size, is_shaded=True)

    def preview(self, action: ArrayLike, share: float) -> NDArray[np.uint8]:
        """A quick image of the scene after a share of a control step with `action` (5,), which is not taken."""
        limits = self._limits["action"]
        mujoco.mj_copyData(self._ahead, self._model, self._data)
        self._ahead.ctrl[:] = np.clip(SPECIFICATION.action.cast(action), limits.low, limits.high)
        if (substeps := round(share * self._substeps)) > 0:
            mujoco.mj_step(self._model, self._ahead, nstep=substeps)
        return self._cameras.picture(self._ahead, "scene", self.render_size, is_shaded=True, is_quick=True)

    def pixels(self, actions: ArrayLike) -> NDArray[np.float64]:
        """Positions of `actions` (T, 5) in the image: (T, 2) columns and rows."""
        return self._cameras.pixels("scene", np.asarray(actions)[:, :3], self.render_size)

    def close(self) -> None:
        """Close the renderers; a later `render` opens new ones."""
        self._cameras.close()

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        random = self.np_random
        # Anywhere above the start side and at any opening, so that recovery from a missed grasp is demonstrated too.
        gripper = random.uniform((-0.24, -0.08, 0.056, -0.4, 0.0), (-0.12, 0.08, 0.085, 0.4, 0.08))
        # Within 35 degrees of the axes, so that the faces to grasp are unambiguous.
        x, y, yaw = random.uniform((-0.24, -0.05, -0.6), (-0.19, 0.05, 0.6))
        target = random.uniform((0.14, -0.03), (0.2, 0.03))
        cube = np.array([x, y, CUBE_HALF, np.cos(4 * yaw), np.sin(4 * yaw)])
        return {"gripper": gripper, "cube": cube, "target": target}

    def _set_state(self, state: Observation) -> None:
        if missing := [name for name in STATE if name not in state]:
            raise ValueError(f"a state must hold the streams {STATE}, {missing} are missing")
        gripper, cube, target = (np.asarray(state[name], dtype=np.float64) for name in STATE)
        half_yaw = np.arctan2(cube[4], cube[3]) / 8
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self._axes] = [*gripper[:4], gripper[4] / 2, gripper[4] / 2]
        self._data.qpos[self._cube] = [*cube[:3], np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw)]
        self._data.ctrl[:] = gripper
        self._data.mocap_pos[0, :2] = target
        mujoco.mj_forward(self._model, self._data)

    def _observe(self, state: Observation) -> dict[str, NDArray[Any]]:
        return {
            stream.name: self._cameras.picture(self._data, stream.name, IMAGE_SIZE)
            if stream.is_image
            else state[stream.name]
            for stream in self.specification.observations
        }

    def _state(self) -> dict[str, NDArray[np.float32]]:
        *gripper, left, right = self._data.qpos[self._axes]
        *position, w, x, y, z = self._data.qpos[self._cube]
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        target = self._data.mocap_pos[0, :2]
        values = {
            "gripper": [*gripper, left + right],
            "cube": [*position, np.cos(4 * yaw), np.sin(4 * yaw)],
            "target": target,
            "offset": [*np.subtract(position, gripper[:3]), *np.subtract(target, gripper[:2])],
        }
        limits = self._limits
        return {n: np.clip(np.array(v, np.float32), limits[n].low, limits[n].high) for n, v in values.items()}

    def _info(self, state: Observation, whole_distance: float) -> dict[str, Any]:
        gripper, cube, target = (state[name] for name in ("gripper", "cube", "target"))
        is_on_mark = np.hypot(*(cube[:2] - target)) <= TARGET_TOLERANCE
        success = bool(is_on_mark and gripper[2] >= WITHDRAWN and self._is_at_rest(float(cube[2])))
        progress = np.clip(1 - remaining_distance(cube[:2], target) / whole_distance, 0.0, 1.0)
        return {"success": success, "score": 1.0 if success else 0.9 * float(progress), "state": state}

    def _is_at_rest(self, height: float) -> bool:
        velocity = self._data.qvel[self._cube_velocity]
        is_still = np.abs(velocity[:3]).max() < 0.01 and np.abs(velocity[3:]).max() < 0.5  # m/s, rad/s
        return bool(abs(height - CUBE_HALF) < 0.003 and is_still)


def _restore(state: Observation) -> dict[str, Any]:
    return {"state": state}


def _mirror(stream: Stream) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The mirror of a stream at y = 0: coordinates along y and angles about z change their signs."""
    signs = [-1 if label.endswith("y") or ("yaw" in label and "cos" not in label) else 1 for label in stream.labels]
    return partial(np.multiply, np.array(signs, dtype=stream.dtype))


PICK_PLACE = Task(
    name="pick_place",
    specification=SPECIFICATION,
    max_steps=MAX_STEPS,
    make=PickPlace,
    expert=PickPlaceExpert,
    restore=_restore,
    mirror={stream.name: _mirror(stream) for stream in SPECIFICATION.streams},
    position="gripper",
)

PICK_PLACE_IMAGE = Task(
    name="pick_place_image",
    specification=IMAGE_SPECIFICATION,
    max_steps=MAX_STEPS,
    make=partial(PickPlace, specification=IMAGE_SPECIFICATION),
    expert=PickPlaceExpert,
    position="gripper",
)

gymnasium.register("recede/PickPlace-v0", entry_point=f"{__name__}:PickPlace")
