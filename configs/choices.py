"""The one table of what may be chosen for each slot, and how a package of yours adds to it; see docs/your_parts.md."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..envs.catalogue import TASKS
from ..specification import nearest
from .components.denoising import (
    CosineConfig,
    DDIMConfig,
    DDPMConfig,
    DiffusersSamplerConfig,
    DiffusersScheduleConfig,
    DPMSolver2MConfig,
    EDMWeightingConfig,
    HeunConfig,
    MinSNRConfig,
    RectifiedFlowConfig,
    SNRConfig,
    UniformConfig,
)
from .components.encoders import LowdimEncoderConfig, ResNetEncoderConfig, ViTEncoderConfig
from .components.executions import EXECUTIONS
from .components.networks import DiTConfig, TransformerConfig, UNet1dConfig
from .components.policies import DenoisingConfig, DiffusionConfig, RegressionConfig
from .components.robots import ROBOTS


def require_choices(config: object, *slots: str, parent: str = "") -> None:
    """Check that one of the `CHOICES` fills each of these slots of `config`, and each slot of what fills it.

    Raises ValueError for a slot that holds a plain value.
    """
    for slot in slots:
        path, value = f"{parent}{slot}", getattr(config, slot)
        if not is_dataclass(value):
            raise ValueError(
                f"{path} must be chosen as {path}=name, got {value!r}: {nearest(str(value), CHOICES[path])}"
            )
        inner = [each.name for each in fields(value) if f"{path}/{each.name}" in CHOICES]
        require_choices(value, *inner, parent=f"{path}/")


_SAMPLERS = {
    "ddim": DDIMConfig,
    "ddpm": DDPMConfig,
    "dpm_solver_2m": DPMSolver2MConfig,
    "heun": HeunConfig,
    "diffusers": DiffusersSamplerConfig,
}

CHOICES: dict[str, dict[str, Any]] = {
    "policy": {"diffusion": DiffusionConfig, "regression": RegressionConfig},
    "policy/encoder": {"lowdim": LowdimEncoderConfig, "resnet": ResNetEncoderConfig, "vit": ViTEncoderConfig},
    "policy/network": {"unet1d": UNet1dConfig, "transformer": TransformerConfig, "dit": DiTConfig},
    "policy/schedule": {
        "cosine": CosineConfig,
        "rectified_flow": RectifiedFlowConfig,
        "diffusers": DiffusersScheduleConfig,
    },
    "policy/sampler": _SAMPLERS,
    "policy/objective": {"denoising": DenoisingConfig},
    "policy/weighting": {
        "uniform": UniformConfig,
        "snr": SNRConfig,
        "min_snr": MinSNRConfig,
        "edm": EDMWeightingConfig,
    },
    "sampler": _SAMPLERS,
    "execution": EXECUTIONS,
    "robot": ROBOTS,
}
"""Slot -> name -> what fills it. A slot is a Hydra config group, and its path in the run configuration.

In the slots of `MANY` there may be several, each under its name.
"""

MANY = ("execution",)


def add_choice(slot: str, name: str, config: Any) -> None:
    """Make `config` what `slot=name` chooses, on every command line and in every checkpoint.

    slot: "policy", "policy/encoder", "policy/network", "policy/schedule", "policy/sampler", "policy/objective",
    "policy/weighting", "execution", "robot" or "task". name: lower-case letters, digits and underscores. config: a
    dataclass whose `build` makes the real object, as those in `configs.components`; of a task its place,
    "package.module:CONSTANT", or the `Task` itself.

    Adding the same again changes nothing but the object, so that a module can be reloaded. Raises ValueError for a slot
    that does not exist, a name that is taken, and what cannot fill the slot.
    """
    if slot not in (slots := (*CHOICES, "task")):
        raise ValueError(f"slot must be one that recede has, got {slot!r}: {nearest(slot, slots)}")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"{slot}: a name must be lower-case letters, digits and underscores, got {name!r}")
    table: dict[str, Any] = TASKS if slot == "task" else CHOICES[slot]
    (_check_task if slot == "task" else _check_config)(slot, name, config)
    shared = [each for each, options in CHOICES.items() if options is table]  # "sampler" and "policy/sampler"
    is_taken = name in table or any(name in names(each) for each in shared)
    if is_taken and (name not in table or _origin(table[name]) != _origin(config)):
        known = _origin(table[name]) if name in table else "a preset of recede"
        raise ValueError(f"{slot}={name} is taken by {known}: choose another name for {_origin(config)}")
    table[name] = config


def names(slot: str) -> list[str]:
    """What may fill a slot: the table's, and the presets of them that have a file in this folder."""
    presets = (Path(__file__).parent / slot).glob("*.yaml")
    return sorted({*CHOICES.get(slot, ()), *(path.stem for path in presets)})


def _check_config(slot: str, name: str, config: Any) -> None:
    if not isinstance(config, type) or not is_dataclass(config) or not callable(getattr(config, "build", None)):
        raise ValueError(f"{slot}={name} must be a dataclass with a method `build`, got {config!r}")
    for other, options in CHOICES.items():
        for known, option in options.items():
            if option is config and (known != name or options is not CHOICES[slot]):  # checkpoints note the name alone
                raise ValueError(f"{slot}={name} must be a class of its own, but {config!r} is {other}={known} already")


def _check_task(slot: str, name: str, config: Any) -> None:
    if isinstance(config, str) and re.fullmatch(r"[\w.]+:\w+", config):
        return
    from ..envs.task import Task  # gymnasium takes its time to load

    if isinstance(config, Task):
        if config.name != name:
            raise ValueError(f"{slot}={name} must be a task of that name, got one whose name is {config.name!r}")
    else:
        raise ValueError(f"{slot}={name} must be a Task, or its place as package.module:CONSTANT, got {config!r}")


def _origin(choice: Any) -> str:
    """Where a choice is defined, as "package.module:Name"; of a `Task` itself, where its environment is."""
    if isinstance(choice, str):
        return choice
    made = choice if isinstance(choice, type) else choice.make
    while isinstance(made, partial):
        made = made.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f"{made.__module__}:{made.__qualname__}"  # pyright: ignore[reportUnknownMemberType]
