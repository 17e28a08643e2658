"""Shared by the tasks on a table: reset, step, images, and the streams of cubes, marks and the robot.

A task is a file in `tasks/`: a scene, an `MJCF` file that includes `table.xml` first and the robot last, and a subclass
of `TableTask` that says what is drawn from a seed, how far there is to go, and what success is. The free bodies of a
scene are its cubes and blocks and its mocap bodies are its marks; each has a stream of its name, and so has every slide
joint.

All readings are functions of arrays with any leading axes (...), so they judge one world or many at once.

Shapes: K cubes and blocks, M marks, T positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification, Stream
from .gantry import Gantry
from .gymnasium_adapter import box
from .manipulator import Array, Manipulator, limited
from .physics import (
    Cameras,
    batch_module,
    check_physics,
    mujoco,
    num_processors,
    position_indices,
    velocity_indices,
)
from .table_streams import IMAGE_SIZE, Things, specification, with_cameras
from .table_worlds import table_worlds
from .task import Expert, Observation, Task
from .vector import BatchOf

CUBE_HALF = 0.02
"""Half the side of a cube (m)."""
WITHDRAWN = 0.06
"""Height (m) of the gripper at which its fingertips clear a cube on the table, by nearly 1 cm."""
STILL = np.array([0.01, 0.01, 0.01, 0.5, 0.5, 0.5])
"""Speeds along (m/s) and about (rad/s) the axes below which a cube is at rest."""


def plane(points: Array) -> tuple[Any, Any]:
    """X and y (...,) of points (..., n). Those of one point are numbers, which numpy handles fastest."""
    return points[..., 0][()], points[..., 1][()]


def distance(one: Array, other: Array) -> Any:
    """The distance in the plane between points (..., n): (...,)."""
    (x, y), (other_x, other_y) = plane(one), plane(other)
    return np.hypot(other_x - x, other_y - y)


def holds(gripper: Array, cube: Array) -> bool:
    """Whether the fingers are closed on a cube (n,) or a peg, both 0.04 m wide."""
    return distance(gripper, cube) < 0.015 and abs(gripper[2] - cube[2]) < 0.035 and 0.034 < gripper[-1] < 0.046


def draw_apart(
    random: np.random.Generator, low: Sequence[float], high: Sequence[float], *, gap: float, count: int = 2
) -> Array:
    """Draw points (count, n) between `low` and `high`, of which no two are closer to each other than `gap` (m)."""
    while True:
        points = random.uniform(low, high, (count, len(low)))
        steps = points[:, None] - points
        if np.linalg.norm(steps[np.triu_indices(count, 1)], axis=-1).min() >= gap:
            return points


def cube_at(place: ArrayLike, yaw: float) -> Array:
    """The stream (5,) of a cube on the table at `place` (2,) (m) with a yaw (rad)."""
    return np.array([*np.asarray(place), CUBE_HALF, np.cos(4 * yaw), np.sin(4 * yaw)])


class TableTask(gymnasium.Env[Any, Any]):
    """A task on a table.

    A task fills the class attributes, `draw`, `remaining`, `is_solved` and `sentence`. Score: 1 on success, else 0.9
    times the share of the way (`remaining`) that has been covered since the reset. Dense reward: the increase of the
    score, so the rewards of an episode sum to its last score. Sparse reward: 1 on success, else 0.

    With `options={"state": observation}` the episode starts at rest in an observed state. `info["state"]` holds every
    stream of `streams`, whatever is observed, and `info["sentence"]` says what the episode asks for.

    render_mode: None or "rgb_array".
    render_size: side length of the square image, in pixels.
    specification: the observations: `streams`, which is the default, or those of `with_cameras`, whose images are
        rendered at every step.
    reward: "dense" or "sparse".
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    scene: ClassVar[str]
    """The name of the MJCF file in `tasks/`."""
    robot: ClassVar[type[Manipulator]] = Gantry
    """What moves the things."""
    things: ClassVar[Things]
    """What the scene holds beside the robot."""
    streams: ClassVar[Specification]
    """The `specification` of robot and things."""
    max_steps: ClassVar[int] = 200

    def __init_subclass__(cls) -> None:
        cls.streams = specification(cls.robot, cls.things)

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """A state to start in: every stream of `streams` but those that follow from the others."""
        raise NotImplementedError

    def remaining(self, state: Observation) -> Array:
        """The way (m) that is left to go in states with any leading axes: (...,)."""
        raise NotImplementedError

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """Whether states (..., n) with velocities (..., nv) are successes: (...,) bool."""
        raise NotImplementedError

    def sentence(self, state: Observation) -> str:
        """What the episode of a state asks for."""
        raise NotImplementedError

    def __init__(
        self,
        render_mode: str | None = None,
        *,
        render_size: int = 480,
        specification: Specification | None = None,
        reward: str = "dense",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if reward not in ("dense", "sparse"):
            raise ValueError(f"reward must be 'dense' or 'sparse', got {reward!r}")
        self._is_sparse = reward == "sparse"
        self.render_mode, self.render_size, self.specification = render_mode, render_size, specification or self.streams
        self.action_space = self._limits = box(self.streams.action)
        self.observation_space = gymnasium.spaces.Dict({s.name: box(s) for s in self.specification.observations})
        self._model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("tasks") / self.scene))
        self._cameras = Cameras(self._model, max_size=max(render_size, IMAGE_SIZE))
        self._data, self._ahead = mujoco.MjData(self._model), mujoco.MjData(self._model)
        self.substeps = round(self.streams.control_dt / self._model.opt.timestep)
        shapes = {stream.name: stream.shape for stream in self.streams.observations}
        bodies = [self._model.body(index) for index in range(self._model.nbody)]
        free = self._model.jnt_type == mujoco.mjtJoint.mjJNT_FREE
        self._cubes = [self._model.joint(int(index)).name for index in np.flatnonzero(free)]
        labels = {stream.name: stream.labels for stream in self.streams.observations}
        self._turns = np.array([4 if "cos_4_yaw" in labels[name] else 1 for name in self._cubes])
        hinged = [self._model.joint(int(index)).name for index in np.flatnonzero(~free)]
        self._robot = self.robot(self._model)
        self._slides = [name for name in hinged if name not in self.robot.joints]
        self._marks = {body.name: shapes[body.name][0] for body in bodies if body.mocapid[0] >= 0}
        self._cube = position_indices(self._model, self._cubes)  # of each: position, quaternion w-x-y-z
        self._slide = position_indices(self._model, self._slides)
        self._cube_velocity = velocity_indices(self._model, self._cubes)  # of each: linear, angular
        streams = self.streams.observations
        derived = {stream.name for stream in (*self.robot.observations[1:], streams[-1])}
        self._placed = [stream.name for stream in streams if stream.name not in derived]  # what a state must hold
        self._sizes = {**dict.fromkeys(self._cubes, 3), **self._marks}
        self._low, self._high = (np.concatenate([getattr(box(s), end) for s in streams]) for end in ("low", "high"))
        ends = np.cumsum([0, *(stream.shape[0] for stream in streams)]).tolist()
        self._parts = {s.name: slice(*pair) for s, pair in zip(streams, pairwise(ends), strict=True)}
        model, head = self._model, self._model.vis.headlight
        usual = {"light": model.light_diffuse, "ambient": head.ambient, "headlight": head.diffuse}
        usual |= {"camera": model.cam_pos, "mass": model.body_mass, "inertia": model.body_inertia}
        usual |= {"friction": model.geom_friction, "colour": model.mat_rgba[:, :3]}
        self._usual = {name: values.copy() for name, values in usual.items()}
        self._fixed: dict[str, Array] = {}
        self._steps, self._score = 0, 0.0
        self._whole: Array | None = None  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start an episode; `options` are described at the class.

        Raises ValueError for an unknown option, or a state that lacks a stream.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := options.keys() - {"state"}:
            raise ValueError(f"the only option of reset is 'state', got {sorted(unknown)}")
        self._set_state(options["state"] if "state" in options else self.draw(self.np_random))
        state = self._state()
        self._whole = np.maximum(self.remaining(state), 1e-6, dtype=np.float64)
        info = self._info(state, self._whole)
        self._steps, self._score = 0, info["score"]
        return self._observe(state), info

    def step(self, action: ArrayLike) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Move towards `action` (Da,), clipped to the limits of its stream, for one control step.

        Raises ValueError for an action of another shape or with NaN or infinity, FloatingPointError if the physics
        diverge, and gymnasium's ResetNeeded before the first reset.
        """
        if self._whole is None:
            raise gymnasium.error.ResetNeeded("reset the environment before its first step")
        stream, action = self.streams.action, self.streams.action.cast(action)
        if action.shape != stream.shape or np.count_nonzero(np.isfinite(action)) < stream.size:
            raise ValueError(
                f"an action must be {stream.size} finite numbers ({', '.join(stream.labels)}), got {action}"
            )
        self._data.ctrl[:] = self.controls(self._data.qpos, action)
        mujoco.mj_step(self._model, self._data, nstep=self.substeps)
        self._steps += 1
        check_physics(self._data, self._steps)
        state = self._state()
        info = self._info(state, self._whole)
        gain, self._score = info["score"] - self._score, info["score"]
        reward = float(info["success"]) if self._is_sparse else gain
        truncated = self._steps >= self.max_steps and not info["success"]
        return self._observe(state), reward, info["success"], truncated, info

    def render(self) -> Any:
        """The scene as an (H, W, 3) uint8 image, or None without a render mode.

        Raises OSError if EGL is missing; everything else works without it.
        """
        if self.render_mode is None:
            return None
        return self._cameras.picture(self._data, "scene", self.render_size, is_shaded=True)

    def preview(self, action: ArrayLike, share: float) -> NDArray[np.uint8]:
        """A quick image of the scene after a share of a control step with `action` (Da,), which is not taken."""
        mujoco.mj_copyData(self._ahead, self._model, self._data)
        self._ahead.ctrl[:] = self.controls(self._data.qpos, self.streams.action.cast(action))
        if (substeps := round(share * self.substeps)) > 0:
            mujoco.mj_step(self._model, self._ahead, nstep=substeps)
        return self._cameras.picture(self._ahead, "scene", self.render_size, is_shaded=True, is_quick=True)

    def pixels(self, actions: ArrayLike) -> NDArray[np.float64]:
        """Positions of the hand after `actions` (T, Da) in the image: (T, 2) columns and rows."""
        return self._cameras.pixels("scene", self._robot.points(np.asarray(actions)), self.render_size)

    def pixels_in(self, stream: str, actions: ArrayLike) -> NDArray[np.float64] | None:
        """The same in the images of a stream, which show the scene; None for a camera on the robot, which moves."""
        return None if stream in self.robot.cameras else self.pixels(actions) * (IMAGE_SIZE / self.render_size)

    def disturb(self, kind: str, severity: float, random: np.random.Generator) -> None:
        """Push the hands (N) in the next step; or move the cameras (m), or change light, masses, frictions or colours
        by a share, from the next reset on.
        """
        model = self._model
        if kind == "push":
            angle = random.uniform(-np.pi, np.pi)
            pushed = [model.body(name).id for name in self.robot.hands.values()]
            self._data.xfrc_applied[pushed, :2] = severity * np.array([np.cos(angle), np.sin(angle)])
        elif kind == "camera":
            steps = random.standard_normal((model.ncam, 3))
            model.cam_pos[:] = self._usual["camera"] + severity * steps / np.linalg.norm(steps, axis=1, keepdims=True)
        elif kind == "mass":
            loose = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
            share = 1 + severity * random.uniform(-1, 1, len(loose))
            model.body_mass[loose] = share * self._usual["mass"][loose]
            model.body_inertia[loose] = share[:, None] * self._usual["inertia"][loose]
            mujoco.mj_setConst(model, self._ahead)
        elif kind == "friction":
            shares = 1 + severity * random.uniform(-1, 1, (model.ngeom, 1))
            model.geom_friction[:] = shares * self._usual["friction"]
        elif kind == "colour":
            shift = severity * random.uniform(-1, 1, (model.nmat, 3))
            model.mat_rgba[:, :3] = np.clip(self._usual["colour"] + shift, 0, 1)
        else:
            share = 1 + severity * random.uniform(-1, 1)
            model.light_diffuse[:] = share * self._usual["light"]
            model.vis.headlight.ambient[:] = share * self._usual["ambient"]
            model.vis.headlight.diffuse[:] = share * self._usual["headlight"]

    def close(self) -> None:
        """Close the renderers; a later `render` opens new ones."""
        self._cameras.close()

    @property
    def model(self) -> Any:
        """The model of MuJoCo."""
        return self._model

    def controls(self, positions: Array, actions: Array) -> Array:
        """The controls (..., Du) of actions (..., Da), within the limits of their stream, at positions (..., nq)."""
        return self._robot.controls(positions, limited(actions, self._limits.low, self._limits.high))

    def simulations(self, count: int) -> Any:
        """So many simulations of the model in a `mujoco.batch.Batch`, which steps them on all processors."""
        return batch_module().Batch(self._model, count, min(count, num_processors()))

    def start(self, row: Array) -> tuple[Observation, Array]:
        """Write the state of the simulation to a row of `simulations`; returns what stays, and the way at the reset."""
        assert self._whole is not None, "it has been reset"
        mujoco.mj_getState(self._model, self._data, row, mujoco.mjtState.mjSTATE_INTEGRATION)
        return self._fixed, self._whole

    def images(self, poses: Mapping[str, Array], model: Any = None) -> dict[str, NDArray[np.uint8]]:
        """The images that are observed where the fields `POSES` of the data have these values.

        model: its light and colours are shown; None for those of this environment.
        """
        for name, values in poses.items():
            getattr(self._ahead, name)[:] = values
        return self._images(self._ahead, model)

    def read(self, positions: Array, marks: Array, fixed: Observation) -> dict[str, NDArray[np.float32]]:
        """Every stream, from positions (..., nq), mocap positions (..., M, 3) and the streams that stay as they are."""
        poses = positions[..., self._cube].reshape(*positions.shape[:-1], len(self._cubes), 7)
        w, x, y, z = poses[..., 3:4], poses[..., 4:5], poses[..., 5:6], poses[..., 6:]
        yaw = self._turns[:, None] * np.arctan2(w * z + x * y, 0.5 - (y * y + z * z))
        cubes = np.concatenate([poses[..., :3], np.cos(yaw), np.sin(yaw)], axis=-1)
        values = {**self._robot.read(positions), **fixed}
        values |= {name: cubes[..., index, :] for index, name in enumerate(self._cubes)}
        values |= {name: positions[..., [place]] for name, place in zip(self._slides, self._slide, strict=True)}
        values |= {name: marks[..., index, :size] for index, (name, size) in enumerate(self._marks.items())}
        hands = [values[hand] for hand in self.robot.hands]
        offsets = [values[name][..., :size] - hand[..., :size] for hand in hands for name, size in self._sizes.items()]
        row = np.concatenate([*(values[name] for name in self._parts if name != "offset"), *offsets], axis=-1)
        row = limited(row.astype(np.float32), self._low, self._high)
        return {name: row[..., part] for name, part in self._parts.items()}

    def judge(self, state: Observation, velocities: Array, whole: Array) -> tuple[Array, Array]:
        """Success (...,) and score (...,) of states with velocities (..., nv); whole: `remaining` at their resets."""
        success = self.is_solved(state, velocities)
        progress = np.minimum(np.maximum(1 - self.remaining(state) / whole, 0.0), 1.0)
        return success, np.maximum(success, 0.9 * progress)

    def rests(self, velocities: Array) -> Array:
        """Whether each cube is at rest: (..., K)."""
        parts = velocities[..., self._cube_velocity].reshape(*velocities.shape[:-1], len(self._cubes), 6)
        return np.all(np.abs(parts) < STILL, axis=-1)

    def speed(self, state: Observation, velocities: Array) -> Array:
        """The speed of the hand (m/s): (...,)."""
        return self._robot.speed(state, velocities)

    def _set_state(self, state: Observation) -> None:
        if missing := [name for name in self._placed if name not in state]:
            raise ValueError(f"a state must hold the streams {tuple(self._placed)}, {missing} are missing")
        values = {name: np.asarray(state[name], dtype=np.float64) for name in self._placed}
        robot, data = {(first := self.robot.observations[0].name): values.pop(first)}, self._data
        cubes = [values.pop(name) for name in self._cubes]
        mujoco.mj_resetData(self._model, data)
        self._robot.set(data, robot)
        for cube, place, turns in zip(cubes, self._cube.reshape(-1, 7), self._turns, strict=True):
            half_yaw = np.arctan2(cube[4], cube[3]) / (2 * turns)
            data.qpos[place] = [*cube[:3], np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw)]
        for name, place in zip(self._slides, self._slide, strict=True):
            data.qpos[place] = values.pop(name)[0]
        for index, (name, size) in enumerate(self._marks.items()):
            data.mocap_pos[index, :size] = values.pop(name)
        self._fixed = values
        mujoco.mj_forward(self._model, data)

    def _observe(self, state: Observation) -> dict[str, Array]:
        values = {**state, **self._images(self._data)}
        return {stream.name: values[stream.name] for stream in self.specification.observations}

    def _images(self, data: Any, model: Any = None) -> dict[str, NDArray[np.uint8]]:
        names, cameras = (s.name for s in self.specification.observations if s.is_image), self.robot.cameras
        return {name: self._cameras.picture(data, cameras.get(name, name), IMAGE_SIZE, model=model) for name in names}

    def _state(self) -> dict[str, NDArray[np.float32]]:
        return self.read(self._data.qpos, self._data.mocap_pos, self._fixed)

    def _info(self, state: Observation, whole: Array) -> dict[str, Any]:
        success, score = self.judge(state, self._data.qvel, whole)
        return {"success": bool(success), "score": float(score), "state": state, "sentence": self.sentence(state)}


def table_tasks(
    name: str,
    made: type[TableTask],
    expert: Callable[[int], Expert],
    phase: Callable[[Observation], str],
    *,
    has_mirror: bool = True,
) -> tuple[Task, Task]:
    """The task `name`, and `name_image` with the cameras instead of what they show.

    has_mirror: whether the task is the same in the mirror at y = 0.
    """
    streams = made.streams
    gymnasium.register(f"recede/{made.__name__}-v0", entry_point=f"{made.__module__}:{made.__name__}")
    task = Task(
        name=name,
        specification=streams,
        max_steps=made.max_steps,
        make=made,
        expert=expert,
        restore=_restore,
        mirror={stream.name: _mirror(stream) for stream in streams.streams} if has_mirror else None,
        position=made.robot.position,
        make_batch=BatchOf(table_worlds, made),
        phase=phase,
    )
    images = with_cameras(made.robot, made.things)
    make = partial(made, specification=images)
    batch = BatchOf(table_worlds, make)
    return task, replace(
        task, name=f"{name}_image", specification=images, make=make, restore=None, mirror=None, make_batch=batch
    )


def _restore(state: Observation) -> dict[str, Any]:
    return {"state": state}


def _mirror(stream: Stream) -> Callable[[Array], Array]:
    """The mirror of a stream at y = 0: coordinates along y, and angles about x and z, change their signs."""
    changed = re.compile(r"(^|_)y$|^(?!cos_).*(yaw|roll|pan)$")
    signs = [-1 if changed.search(label) else 1 for label in stream.labels]
    return partial(np.multiply, np.array(signs, dtype=stream.dtype))
