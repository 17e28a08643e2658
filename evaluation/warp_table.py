"""Many worlds of a task on a table in MuJoCo Warp: physics, readings and judgements on one device, a CPU or a GPU.

Episodes begin on the CPU, from their seeds, as everywhere else. What follows is in single precision, and sums depend on
the order in which the threads of a GPU arrive, so episodes are not reproducible bit for bit.

Shapes: N worlds, Da size of the action.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..envs.arm import PoseArm
from ..envs.physics import mujoco
from ..envs.tabletop import TableTask
from ..envs.task import Task
from .device_arrays import DeviceArray

CONTACTS, CONSTRAINTS = 64, 256
"""The contacts and the rows of constraints that a world has room for."""
FARTHEST = 1e10
"""The largest position and speed of a simulation that has not diverged, as MuJoCo has it."""
DIVERGED = 1 << 30
"""The bit of `Reading.fault` that stands for divergence; the others are MuJoCo Warp's overflows."""
ROUGH = ("ITERATIONS", "LS_ITERATIONS")
"""Notes of MuJoCo Warp on a solution that is rough; MuJoCo does not warn of it."""
SHARED = ("qpos", "mocap_pos", "qvel", "ctrl", "overflow")
"""The arrays of MuJoCo Warp that are tensors of torch too."""
STATE = mujoco.mjtState.mjSTATE_INTEGRATION

Reset: TypeAlias = Callable[[TableTask, int], None]
"""(the environment, the index of a world) -> resets it to the state in which that world begins."""


class Reading(NamedTuple):
    """What a step of all worlds shows, on the device."""

    state: Mapping[str, Tensor]
    """Stream -> (N, ...)."""
    success: Tensor
    """(N,) bool."""
    score: Tensor
    """(N,), in [0, 1]."""
    fault: Tensor
    """(N,) int: 0 where the simulation has not failed since it began; see `failure`."""


class WarpTable:
    """So many worlds of a task on a table.

    device: of torch. contacts, constraints: what each world has room for.

    Raises ValueError if MuJoCo Warp lacks what the scene needs, and what `check_offered` raises.
    """

    def __init__(
        self,
        task: Task,
        count: int,
        device: torch.device,
        *,
        contacts: int = CONTACTS,
        constraints: int = CONSTRAINTS,
    ) -> None:
        self._env: Any = check_offered(task, device)
        self._count, self._device = count, torch.empty(0, device=device).device  # with its index
        self._warp, self._physics = packages()
        with self._warp.ScopedDevice(str(self._device)):  # a stream of its own, because torch's cannot be captured
            self._model = self._put_model(task.name)
            self._model.opt.warn_overflow = False  # `Reading.fault` says it
            self._model.opt.disableflags |= int(self._physics.DisableBit.NATIVECCD)  # boxes touch where MuJoCo says
            self._data = self._physics.make_data(self._env.model, nworld=count, nconmax=contacts, njmax=constraints)
            self._physics.step(self._model, self._data)  # compiles what is not in the cache
            self._graph = self._captured()
            self._warp.synchronize_device()
        shared = [DeviceArray(self._warp.to_torch(getattr(self._data, name))) for name in SHARED]
        self._positions, self._marks, self._velocities, self._controls, self._overflow = shared
        self._rough = sum(bit.value for bit in self._physics.OverflowType if bit.name in ROUGH)
        self._fixed: dict[str, DeviceArray] = {}
        self._whole = DeviceArray(torch.ones(count, device=self._device))

    def begin(self, reset: Reset) -> None:
        """Begin an episode in every world."""
        states = np.zeros((self._count, mujoco.mj_stateSize(self._env.model, STATE)))
        fixed, whole = list[Mapping[str, Any]](), list[Any]()
        for index in range(self._count):
            reset(self._env, index)
            streams, way = self._env.start(states[index])
            fixed.append(streams)
            whole.append(way)
        self._fixed = {name: self._uploaded([one[name] for one in fixed]) for name in fixed[0]}
        self._whole, uploaded = self._uploaded(whole), self._uploaded(states).tensor.float()
        self._overflow.tensor.zero_()
        with self._behind_torch():
            self._physics.set_state(self._model, self._data, self._warp.from_torch(uploaded), int(STATE))

    def advance(self, actions: Tensor) -> Reading:
        """Take a control step in every world with actions (N, Da)."""
        env = self._env
        self._controls.tensor.copy_(env.controls(self._positions, DeviceArray(actions)).tensor)
        with self._behind_torch():
            self._warp.capture_launch(self._graph)
        state = env.read(self._positions, self._marks, self._fixed)
        success, score = env.judge(state, self._velocities, self._whole)
        streams = {name: values.tensor for name, values in state.items()}
        return Reading(streams, success.tensor, score.tensor, self._fault())

    def failure(self, fault: int, step: int) -> FloatingPointError:
        """The error of a world that has a fault in a control step."""
        names = [bit.name for bit in self._physics.OverflowType if fault & bit.value]
        names += ["DIVERGED"] if fault & DIVERGED else []
        return FloatingPointError(
            f"the simulation failed at step {step} ({', '.join(names)}): roll the episode out with simulation=mujoco"
        )

    def _fault(self) -> Tensor:
        moving = torch.cat([self._positions.tensor, self._velocities.tensor], dim=1)
        has_diverged = ~(moving.abs() < FARTHEST).all(1)  # also if it is no number
        return (self._overflow.tensor & ~self._rough) | has_diverged * DIVERGED

    def _put_model(self, name: str) -> Any:
        try:
            return self._physics.put_model(self._env.model)
        except NotImplementedError as error:
            raise ValueError(
                f"simulation=warp does not offer task {name!r}, because MuJoCo Warp lacks what it needs ({error}): "
                "leave simulation out"
            ) from error

    def _captured(self) -> Any:
        """The graph of a control step: Python launches its 2000 kernels once only."""
        with self._warp.ScopedCapture() as capture:
            for _ in range(self._env.substeps):
                self._physics.step(self._model, self._data)
        return capture.graph

    def _behind_torch(self) -> Any:
        """Where Warp works in the order of torch's operations, without waiting for them."""
        if self._device.type == "cuda":
            return self._warp.ScopedStream(self._warp.stream_from_torch(self._device))
        return self._warp.ScopedDevice("cpu")

    def _uploaded(self, rows: Any) -> DeviceArray:
        return DeviceArray(torch.as_tensor(np.stack(rows), device=self._device))


def check_offered(task: Task, device: torch.device) -> TableTask:
    """An environment of a task that MuJoCo Warp can simulate on a device of torch.

    Raises ValueError, with the reason, if it cannot, and ImportError, with the remedy, if mujoco-warp is not installed.
    """
    env: Any = task.make()
    reason = ""
    if not isinstance(env, TableTask):
        reason = "it is no task on a table (envs.tabletop)"
    elif any(stream.is_image for stream in task.specification.observations):
        reason = "nothing renders on the device"
    elif issubclass(env.robot, PoseArm):
        reason = "its inverse kinematics (mink) run on the CPU"
    elif device.type not in ("cpu", "cuda"):
        raise ValueError(f"simulation=warp needs a CPU or an NVIDIA GPU, got device={device}: choose cpu or cuda")
    if reason:
        raise ValueError(f"simulation=warp does not offer task {task.name!r}, because {reason}: leave simulation out")
    packages()
    return env


def packages() -> tuple[Any, Any]:
    """The modules `warp` and `mujoco_warp`. Raises ImportError, with the remedy, if they are not installed."""
    try:
        warp = importlib.import_module("warp")
        warp.config.log_level = warp.LOG_ERROR  # it prints its devices, and that a machine has no GPU
        return warp, importlib.import_module("mujoco_warp")
    except ImportError as error:
        raise ImportError(f"simulation=warp needs MuJoCo Warp ({error}): pip install 'recede[warp]'") from error
