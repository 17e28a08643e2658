"""The embedded task: a gantry gripper carries a cube round a wall into a marked target, either way round.

The wall stands across the straight way and is too tall for the gripper to lift anything over it. Both ways round it
are equally long, so demonstrations that take either are multimodal, and the mean of the two meets the wall.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification, Stream
from .experts import PickPlaceExpert
from .task import Observation, Task


def _offscreen_backend() -> str:
    """MuJoCo looks for its renderer while it is imported, and the import fails where a named one cannot be loaded."""
    try:
        ctypes.CDLL(ctypes.util.find_library("EGL") or "libEGL.so.1")
    except OSError:
        return "disable"
    return "egl"


if sys.platform == "linux" and "MUJOCO_GL" not in os.environ:
    os.environ["MUJOCO_GL"] = _offscreen_backend()

import mujoco  # noqa: E402  (after the choice of its renderer)

CUBE_HALF = 0.02
TARGET_TOLERANCE = 0.02
"""Metres from the target's centre within which the whole cube lies on the mark (radius 0.05), whatever its yaw."""
WITHDRAWN = 0.06
"""Height (m) of the gripper from which its fingertips clear a cube that lies on the table, by nearly a centimetre."""
WALL_CORNER = 0.14
"""|y| (m) at which the centre of the cube clears either end of the wall."""

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
"""`gripper` is the point between the fingertips; a cube repeats every 90 degrees, so its yaw is given as the cosine and
sine of four times the angle; the action is the gripper state to move to."""

MAX_STEPS = 200


def remaining_way(cube: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]) -> float:
    """Metres of the shortest way from `cube` (x, y) to `target` (x, y) on the table, round the wall where it stands between.

    >>> remaining_way(np.array([0.1, 0.0]), np.array([0.2, 0.0]))
    0.1
    >>> float(np.round(remaining_way(np.array([-0.2, 0.0]), np.array([0.2, 0.0])), 3))  # 0.4 through the wall
    0.488
    """
    straight = float(np.linalg.norm(target - cube))
    if cube[0] * target[0] >= 0:
        return straight
    crossing = cube[1] + (target[1] - cube[1]) * cube[0] / (cube[0] - target[0])
    if abs(crossing) >= WALL_CORNER:
        return straight
    corners = np.array([[0.0, WALL_CORNER], [0.0, -WALL_CORNER]])
    ways = np.linalg.norm(corners - cube, axis=1) + np.linalg.norm(corners - target, axis=1)
    return float(ways.min())


class PickPlace(gymnasium.Env[dict[str, NDArray[np.float32]], NDArray[np.float32]]):
    """Carry the cube round the wall and release it on the target.

    Success: the centre of the cube is within 2 cm of the target's (the whole cube on the mark), it rests on the table,
    and the gripper has withdrawn above it. Score: 1 on success, else 0.9 times the share of the shortest way (`remaining_way`) that
    the cube has come since the reset. Reward: the increase of the score, so that rewards add up to the last score.

    An episode starts with the cube and the open gripper on the start side of the wall, all drawn from the seed, or
    with `options={"state": observation}` in an observed state.

    render_mode: None or "rgb_array". render_size: pixels of a side of the square image.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (gymnasium's)

    def __init__(self, render_mode: str | None = None, *, render_size: int = 480) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self.render_size = render_size
        self.observation_space = gymnasium.spaces.Dict({s.name: _box(s) for s in SPECIFICATION.observations})
        self.action_space = _box(SPECIFICATION.action)
        self._model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_suffix(".xml")))
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = render_size
        self._data = mujoco.MjData(self._model)
        self._substeps = round(SPECIFICATION.control_dt / self._model.opt.timestep)
        joints = ("x", "y", "z", "yaw", "left_finger", "right_finger")
        self._axes = np.array([self._model.joint(name).qposadr[0] for name in joints])
        self._cube = int(self._model.joint("cube").qposadr[0])
        self._cube_dof = int(self._model.joint("cube").dofadr[0])
        self._renderer: Any = None
        self._steps = 0
        self._whole_way = 0.0  # until the first reset
        self._score = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Start an episode. options: `{"state": observation}` starts from an observation instead of a random draw."""
        super().reset(seed=seed)
        unknown = set(options or {}) - {"state"}
        if unknown:
            raise ValueError(f"reset knows the option 'state' only, got {sorted(unknown)}")
        self._set_state(options["state"] if options else self._draw())
        self._steps, self._score = 0, 0.0
        observation = self._observe()
        self._whole_way = max(remaining_way(observation["cube"][:2], observation["target"]), 1e-6)
        return observation, self._info(observation)

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Move towards `action` for one control step; see `SPECIFICATION.action`, to whose limits it is clipped.

        Raises ValueError for an action that is no finite vector of 5, FloatingPointError where the physics diverge,
        and gymnasium's ResetNeeded before the first reset.
        """
        target = np.asarray(action, dtype=np.float64)
        if target.shape != self.action_space.shape or not np.isfinite(target).all():
            raise ValueError(f"an action must hold 5 finite numbers (x, y, z, yaw, opening), got {action!r}")
        if not self._whole_way:
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        self._data.ctrl[:] = np.clip(target, self.action_space.low, self.action_space.high)
        mujoco.mj_step(self._model, self._data, nstep=self._substeps)
        self._check_physics()
        self._steps += 1
        previous, observation = self._score, self._observe()
        info = self._info(observation)
        self._score = info["score"]
        truncated = self._steps >= MAX_STEPS and not info["success"]
        return observation, self._score - previous, info["success"], truncated, info

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The scene as a (H, W, 3) uint8 image, or None without a render mode.

        Raises OSError where no off-screen renderer can be opened; everything else works without one.
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = self._open_renderer()
        self._renderer.update_scene(self._data, camera="scene")
        return self._renderer.render()

    def pixels(self, actions: ArrayLike) -> NDArray[np.float64]:
        """Where in the image the positions of `actions` (T, >= 3) lie: (T, 2) columns and rows, from the top left corner."""
        camera = self._model.camera("scene")
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, camera.quat)
        x, y, z = ((np.asarray(actions, dtype=np.float64)[:, :3] - camera.pos) @ matrix.reshape(3, 3)).T
        focal = (
            0.5 * self.render_size / np.tan(np.deg2rad(float(camera.fovy[0])) / 2)
        )  # pixels; the camera looks along -z
        return self.render_size / 2 + focal * np.stack([x, -y], axis=1) / -z[:, None]

    def close(self) -> None:
        """Free the renderer; a later `render` opens another."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_renderer": None}  # a graphics context belongs to one process

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        random = self.np_random
        gripper = random.uniform((-0.16, -0.03, 0.07, -0.2, 0.06), (-0.12, 0.03, 0.085, 0.2, 0.08))
        x, y, yaw = random.uniform((-0.22, -0.05, -0.6), (-0.17, 0.05, 0.6))
        target = random.uniform((0.14, -0.03), (0.2, 0.03))
        return {
            "gripper": gripper,
            "cube": np.array([x, y, CUBE_HALF, np.cos(4 * yaw), np.sin(4 * yaw)]),
            "target": target,
        }

    def _set_state(self, state: Observation) -> None:
        missing = self.observation_space.spaces.keys() - state.keys()
        if missing:
            raise ValueError(f"a state must hold every observation stream, this one lacks {sorted(missing)}")
        gripper, cube, target = (np.asarray(state[name], dtype=np.float64) for name in ("gripper", "cube", "target"))
        mujoco.mj_resetData(self._model, self._data)
        half_yaw = np.arctan2(cube[4], cube[3]) / 8
        self._data.qpos[self._cube : self._cube + 7] = (*cube[:3], np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw))
        self._data.qpos[self._axes] = (*gripper[:4], gripper[4] / 2, gripper[4] / 2)
        self._data.ctrl[:] = gripper
        self._data.mocap_pos[0, :2] = target
        mujoco.mj_forward(self._model, self._data)

    def _observe(self) -> dict[str, NDArray[np.float32]]:
        axes = self._data.qpos[self._axes]
        cube = self._data.qpos[self._cube : self._cube + 7]
        w, x, y, z = cube[3:]
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        values = {
            "gripper": [*axes[:4], axes[4] + axes[5]],
            "cube": [*cube[:3], np.cos(4 * yaw), np.sin(4 * yaw)],
            "target": self._data.mocap_pos[0, :2],
        }
        spaces = self.observation_space.spaces
        return {
            name: np.clip(np.asarray(value, dtype=np.float32), spaces[name].low, spaces[name].high)
            for name, value in values.items()
        }

    def _info(self, observation: Observation) -> dict[str, Any]:
        gripper, cube, target = (observation[name] for name in ("gripper", "cube", "target"))
        is_on_mark = np.linalg.norm(cube[:2] - target) <= TARGET_TOLERANCE
        success = bool(is_on_mark and gripper[2] >= WITHDRAWN and self._is_at_rest(float(cube[2])))
        way = remaining_way(cube[:2], target)
        score = 1.0 if success else 0.9 * float(np.clip(1 - way / self._whole_way, 0.0, 1.0))
        return {"success": success, "score": score}

    def _is_at_rest(self, height: float) -> bool:
        velocity = self._data.qvel[self._cube_dof : self._cube_dof + 6]
        is_still = np.linalg.norm(velocity[:3]) < 0.01 and np.linalg.norm(velocity[3:]) < 0.5  # m/s, rad/s
        return bool(abs(height - CUBE_HALF) < 0.003 and is_still)

    def _check_physics(self) -> None:
        # MuJoCo answers divergence by resetting the simulation, and only this counter tells.
        counts = self._data.warning.number
        if counts.any():
            raised = [mujoco.mjtWarning(i).name for i in np.flatnonzero(counts)]
            raise FloatingPointError(
                f"the simulation diverged at step {self._steps} ({', '.join(raised)}): this episode is void, reset the "
                f"environment"
            )

    def _open_renderer(self) -> Any:
        try:
            return mujoco.Renderer(self._model, self.render_size, self.render_size)
        except Exception as error:  # every backend fails in its own way
            raise OSError(
                f"rendering needs EGL, which could not be opened ({error}): install the Debian packages libegl1 and "
                f"libgl1-mesa-dri (apt-get install libegl1 libgl1-mesa-dri)"
            ) from error


def _box(stream: Stream) -> gymnasium.spaces.Box:
    dtype: Any = np.dtype(stream.dtype)
    return gymnasium.spaces.Box(np.array(stream.low, dtype), np.array(stream.high, dtype), dtype=dtype)


def _restore(state: Observation) -> dict[str, Any]:
    return {"state": state}


PICK_PLACE = Task(
    name="pick_place",
    specification=SPECIFICATION,
    max_steps=MAX_STEPS,
    make=PickPlace,
    expert=PickPlaceExpert,
    restore=_restore,
)

gymnasium.register("recede/PickPlace-v0", entry_point=f"{__name__}:PickPlace")
