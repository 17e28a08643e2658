"""Shared by all MuJoCo tasks: the import, indices of named joints, a check for divergence, and cameras.

Shapes: T positions, H and W pixels.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib
import os
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUICK = {"offsamples": 0, "shadowsize": 384, "numslices": 16, "numstacks": 8, "numquads": 1}
"""How a quick image is drawn: without smoothing, with a small shadow map and few triangles. As MJCF names them."""

POSES = (
    *("geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir"),
)
"""What an image shows of a simulation: these fields of its data."""

REQUESTED = os.environ.get("MUJOCO_GL", "")
"""The renderer that the user asked for; empty leaves the choice to us."""


def _import_mujoco() -> tuple[Any, str]:
    """MuJoCo, and why it cannot render; empty if it may.

    It imports the libraries of its renderer, and each of them raises errors of its own. Tasks of vectors need none, so
    MuJoCo is then imported without a renderer.
    """
    if sys.platform == "linux" and not REQUESTED:
        try:
            ctypes.CDLL(ctypes.util.find_library("EGL") or "libEGL.so.1")
        except OSError as error:
            os.environ["MUJOCO_GL"] = "disable"
            return importlib.import_module("mujoco"), str(error)
        os.environ["MUJOCO_GL"] = "egl"
    variables = dict(os.environ)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a renderer that may not be needed
            return importlib.import_module("mujoco"), ""
    except Exception as error:
        os.environ["MUJOCO_GL"] = "disable"
        try:
            return importlib.import_module("mujoco"), f"{type(error).__name__}: {error}"
        finally:
            os.environ.clear()
            os.environ.update(variables)


mujoco, _fault = _import_mujoco()
_faults = [_fault] if _fault else []
"""Why nothing can be rendered in this process. MuJoCo ends a process that tries again after a fatal error."""


def position_indices(model: Any, joints: Sequence[str]) -> NDArray[np.int64]:
    """Indices of the joints in `qpos`, in order: 1 for a hinge or slide, 4 for a ball, 7 for a free joint.

    A free joint has a position and a quaternion w-x-y-z.
    """
    return _indices(model.joint(name).qposadr[0] + np.arange(len(model.joint(name).qpos0)) for name in joints)


def velocity_indices(model: Any, joints: Sequence[str]) -> NDArray[np.int64]:
    """Indices of the joints in `qvel`, in order: 1 for a hinge or slide, 3 for a ball, 6 for a free joint.

    A free joint has a linear and an angular velocity.
    """
    return _indices(model.joint(name).dofadr[0] + np.arange(len(model.joint(name).damping)) for name in joints)


def check_physics(data: Any, step: int) -> None:
    """Raise FloatingPointError if the simulation has diverged or run out of memory since its last reset.

    When it diverges, MuJoCo silently resets the simulation; only its warning counters show it. step: the control step,
    for the message.
    """
    counts = data.warning.number
    if np.count_nonzero(counts):
        raise failure(counts, step)


def failure(counts: NDArray[Any], step: int) -> FloatingPointError:
    """The error of a simulation whose warning counters are `counts`."""
    names = ", ".join(mujoco.mjtWarning(int(index)).name for index in np.flatnonzero(counts))
    return FloatingPointError(f"the simulation failed at step {step} ({names}): reset the environment")


def batch_module() -> Any:
    """`mujoco.batch`; None if this MuJoCo has none, which a warning says once."""
    try:
        return importlib.import_module("mujoco.batch")
    except ModuleNotFoundError:
        _say_that_there_is_no_batch()
        return None


def num_processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Cameras:
    """Square images from the named cameras of a model. A copy or a pickled copy opens its own renderers.

    max_size: side length of the largest image, in pixels.
    """

    def __init__(self, model: Any, *, max_size: int) -> None:
        model.vis.global_.offwidth = model.vis.global_.offheight = max_size
        self._model = model
        self._renderers: dict[tuple[int, bool], Any] = {}  # image size, is_quick -> renderer

    def picture(
        self,
        data: Any,
        camera: str,
        size: int,
        *,
        model: Any = None,
        is_shaded: bool = False,
        is_quick: bool = False,
    ) -> NDArray[np.uint8]:
        """The image of a camera, (size, size, 3) uint8. Without a GPU, shadows take most of the time.

        model: its light and colours are shown; None for those of the model of the cameras. is_quick: with rougher edges
        and shadows, in a fifth of the time.

        Raises OSError, with the remedy, if this machine cannot render.
        """
        if (size, is_quick) not in self._renderers:
            self._renderers[size, is_quick] = _open_renderer(self._model, size, is_quick=is_quick)
        renderer = self._renderers[size, is_quick]
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = is_shaded
        model, view = self._model if model is None else model, mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        shown = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, view, shown, renderer.scene)
        return renderer.render()

    def pixels(self, camera: str, positions: ArrayLike, size: int) -> NDArray[np.float64]:
        """Project positions (T, 3) in m into the image of a camera: (T, 2) columns and rows."""
        pose = self._model.camera(camera)
        axes = np.empty(9)
        mujoco.mju_quat2Mat(axes, pose.quat)
        right, up, behind = ((np.asarray(positions, np.float64) - pose.pos) @ axes.reshape(3, 3)).T
        focal = size / 2 / np.tan(np.deg2rad(pose.fovy[0]) / 2)
        return size / 2 + focal * np.stack([right, -up], axis=1) / -behind[:, None]

    def close(self) -> None:
        """Close the renderers; a later `picture` opens new ones."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_renderers": {}}  # a graphics context cannot be shared


def _indices(parts: Any) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *parts])


@functools.cache
def _say_that_there_is_no_batch() -> None:
    remedy = "install mujoco 4 to step them in a batch"
    warnings.warn(f"MuJoCo {mujoco.__version__} steps environments one after the other: {remedy}", stacklevel=2)


def _open_renderer(model: Any, size: int, *, is_quick: bool) -> Any:
    try:
        if _faults:
            raise OSError(_faults[0])
        with warnings.catch_warnings(action="ignore"), _quickly(model.vis.quality) if is_quick else nullcontext():
            return mujoco.Renderer(model, size, size)  # an error follows a warning
    except Exception as error:  # each graphics library raises errors of its own
        if isinstance(error, mujoco.FatalError):
            _faults.append(str(error))
        install = "on Debian, apt-get install libegl1 libgl1-mesa-dri"
        if not REQUESTED:
            raise OSError(f"rendering needs EGL, which cannot be opened here ({error}): {install}") from error
        remedy = install if REQUESTED.lower() == "egl" else "unset it to use EGL"
        raise OSError(f"MUJOCO_GL={REQUESTED} was asked for, and fails here ({error}): {remedy}") from error


@contextmanager
def _quickly(quality: Any) -> Generator[None]:
    """Let a renderer that is opened meanwhile draw quick images. quality: of its model."""
    usual = {name: getattr(quality, name) for name in QUICK}
    try:
        _set(quality, QUICK)
        yield
    finally:
        _set(quality, usual)


def _set(quality: Any, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        setattr(quality, name, value)
