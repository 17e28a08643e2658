"""Recede: diffusion policies for robot control. Train on demonstrations, evaluate in simulation, deploy to a robot.

The public names load on first use, which keeps importing the package fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints.opening import load_engine as load_engine
    from .checkpoints.opening import load_policy as load_policy
    from .configs.choices import add_choice as add_choice
    from .configs.training import TrainConfig as TrainConfig
    from .datasets.check import check_demonstrations as check_demonstrations
    from .datasets.store import DemonstrationStore as DemonstrationStore
    from .datasets.windows import Windows as Windows
    from .envs.catalogue import load_task as load_task
    from .evaluation.evaluate import evaluate as evaluate
    from .execution.check import check_execution as check_execution
    from .execution.receding import RecedingHorizon as RecedingHorizon
    from .policy.check import check_policy as check_policy
    from .policy.diffusion import DiffusionPolicy as DiffusionPolicy
    from .policy.engines.check import check_engine as check_engine
    from .policy.engines.eager import as_engine as as_engine
    from .recording.scripted import collect as collect
    from .specification import Horizons as Horizons
    from .specification import Specification as Specification
    from .specification import Stream as Stream
    from .training.loop import prepare as prepare
    from .training.loop import train as train
    from .version import __version__ as __version__

_HOMES = {
    "DemonstrationStore": ".datasets.store",
    "DiffusionPolicy": ".policy.diffusion",
    "Horizons": ".specification",
    "RecedingHorizon": ".execution.receding",
    "Specification": ".specification",
    "Stream": ".specification",
    "TrainConfig": ".configs.training",
    "Windows": ".datasets.windows",
    "__version__": ".version",
    "add_choice": ".configs.choices",
    "as_engine": ".policy.engines.eager",
    "check_demonstrations": ".datasets.check",
    "check_engine": ".policy.engines.check",
    "check_execution": ".execution.check",
    "check_policy": ".policy.check",
    "collect": ".recording.scripted",
    "evaluate": ".evaluation.evaluate",
    "load_engine": ".checkpoints.opening",
    "load_policy": ".checkpoints.opening",
    "load_task": ".envs.catalogue",
    "prepare": ".training.loop",
    "train": ".training.loop",
}

__all__ = [
    "DemonstrationStore",
    "DiffusionPolicy",
    "Horizons",
    "RecedingHorizon",
    "Specification",
    "Stream",
    "TrainConfig",
    "Windows",
    "__version__",
    "add_choice",
    "as_engine",
    "check_demonstrations",
    "check_engine",
    "check_execution",
    "check_policy",
    "collect",
    "evaluate",
    "load_engine",
    "load_policy",
    "load_task",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
