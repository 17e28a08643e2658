"""The table of choices for each slot. A package of your own adds to it with `add_choice`; see docs/your_parts.md."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..envs.catalogue import TASKS
from ..specification import nearest
from .components.denoising import (
    BetaTimesConfig,
    CosineConfig,
    DDIMConfig,
    DDPMConfig,
    DiffusersSamplerConfig,
    DiffusersScheduleConfig,
    DPMSolver2MConfig,
    EDMWeightingConfig,
    EulerMaruyamaConfig,
    HeunConfig,
    KarrasSamplerConfig,
    KarrasScheduleConfig,
    LangevinConfig,
    LogNormalTimesConfig,
    MinSNRConfig,
    RectifiedFlowConfig,
    SNRConfig,
    UniformConfig,
    UniformTimesConfig,
)
from .components.encoders import LowdimEncoderConfig, ResNetEncoderConfig, ViTEncoderConfig
from .components.executions import EXECUTIONS
from .components.guidance import GUIDANCE
from .components.inputs import INPUTS
from .components.networks import DiTConfig, TransformerConfig, UNet1dConfig
from .components.policies import DenoisingConfig, DiffusionConfig, ProgressiveConfig, RegressionConfig
from .components.representations import AbsoluteConfig, DifferenceConfig, RelativeConfig
from .components.robots import ROBOTS


def require_choices(config: object, *slots: str, parent: str = "") -> None:
    """Check that each of these slots of `config` holds one of its choices, and so do the slots of that choice.

    Raises ValueError for a slot that holds a plain value.
    """
    for slot in slots:
        path, value = f"{parent}{slot}", getattr(config, slot)
        if not is_dataclass(value):
            is_name = str(value) in CHOICES[path]
            hint = f"write {path}={value}" if is_name else nearest(str(value), CHOICES[path])
            raise ValueError(f"{path} must be chosen as {path}=NAME, got {value!r}: {hint}")
        inner = [field.name for field in fields(value) if f"{path}/{field.name}" in CHOICES]
        require_choices(value, *inner, parent=f"{path}/")


def accept_none(config: object, slot: str) -> None:
    """Make an empty slot None, which Hydra writes as {}; otherwise check its choice, as `require_choices` does."""
    setattr(config, slot, getattr(config, slot) or None)
    if getattr(config, slot) is not None:
        require_choices(config, slot)


_SAMPLERS = {
    "ddim": DDIMConfig,
    "ddpm": DDPMConfig,
    "dpm_solver_2m": DPMSolver2MConfig,
    "heun": HeunConfig,
    "karras": KarrasSamplerConfig,
    "langevin": LangevinConfig,
    "euler_maruyama": EulerMaruyamaConfig,
    "diffusers": DiffusersSamplerConfig,
}

CHOICES: dict[str, dict[str, Any]] = {
    "policy": {"diffusion": DiffusionConfig, "regression": RegressionConfig},
    "policy/encoder": {"lowdim": LowdimEncoderConfig, "resnet": ResNetEncoderConfig, "vit": ViTEncoderConfig},
    "policy/network": {"unet1d": UNet1dConfig, "transformer": TransformerConfig, "dit": DiTConfig},
    "policy/representation": {"absolute": AbsoluteConfig, "relative": RelativeConfig, "difference": DifferenceConfig},
    "policy/schedule": {
        "cosine": CosineConfig,
        "rectified_flow": RectifiedFlowConfig,
        "karras": KarrasScheduleConfig,
        "diffusers": DiffusersScheduleConfig,
    },
    "policy/times": {"uniform": UniformTimesConfig, "log_normal": LogNormalTimesConfig, "beta": BetaTimesConfig},
    "policy/sampler": _SAMPLERS,
    "policy/objective": {"denoising": DenoisingConfig, "progressive": ProgressiveConfig},
    "policy/weighting": {
        "uniform": UniformConfig,
        "snr": SNRConfig,
        "min_snr": MinSNRConfig,
        "edm": EDMWeightingConfig,
    },
    "sampler": _SAMPLERS,
    "guidance": GUIDANCE,
    "execution": EXECUTIONS,
    "robot": ROBOTS,
    "input": INPUTS,
    "takeover": INPUTS,
}
"""Slot -> name -> the configuration of the choice.

A slot is a Hydra config group, and its path in a command's configuration.
"""

MANY = ("execution",)
"""Slots that may hold several choices at once, each under its name."""


def add_choice(slot: str, name: str, config: Any) -> None:
    """Add a choice: `slot=name` then chooses `config` on every command line and in every checkpoint.

    slot: "policy", "policy/encoder", "policy/network", "policy/representation", "policy/schedule", "policy/times",
    "policy/sampler", "policy/objective", "policy/weighting", "guidance", "execution", "robot", "input" or "task". name:
    lower-case letters, digits and underscores. config: a dataclass with a method `build` that makes the real object,
    like those in `configs.components`. For a task, the `Task` itself or its place, "package.module:CONSTANT".

    A reloaded module may add its choices again. Raises ValueError for an unknown slot, for a name that is taken, and
    for a configuration that does not fit the slot.
    """
    if slot not in (slots := (*CHOICES, "task")):
        raise ValueError(f"there is no slot {slot!r}: {nearest(slot, slots)}")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"{slot}: a name must be lower-case letters, digits and underscores, got {name!r}")
    table: dict[str, Any] = TASKS if slot == "task" else CHOICES[slot]
    (_check_task if slot == "task" else _check_config)(slot, name, config)
    shared = [slot for slot, options in CHOICES.items() if options is table]  # "sampler" and "policy/sampler"
    is_taken = name in table or any(name in names(slot) for slot in shared)
    if is_taken and (name not in table or _origin(table[name]) != _origin(config)):
        owner = _origin(table[name]) if name in table else "a preset of recede"
        raise ValueError(f"{slot}={name} is taken by {owner}: choose another name for {_origin(config)}")
    table[name] = config


def names(slot: str) -> list[str]:
    """The names of a slot's choices, including the presets that have a file in this folder."""
    presets = (Path(__file__).parent / slot).glob("*.yaml")
    return sorted({*CHOICES.get(slot, ()), *(path.stem for path in presets)})


def _check_config(slot: str, name: str, config: Any) -> None:
    if not isinstance(config, type) or not is_dataclass(config) or not callable(getattr(config, "build", None)):
        raise ValueError(f"{slot}={name} must be a dataclass with a method `build`, got {config!r}")
    for other, options in CHOICES.items():
        for other_name, option in options.items():  # a checkpoint looks up the name by the class
            if option is config and (other_name != name or options is not CHOICES[slot]):
                raise ValueError(
                    f"{slot}={name} needs a class of its own, but {config!r} is {other}={other_name} already"
                )


def _check_task(slot: str, name: str, config: Any) -> None:
    if isinstance(config, str) and re.fullmatch(r"[\w.]+:\w+", config):
        return
    from ..envs.task import Task  # gymnasium takes its time to load

    if isinstance(config, Task):
        if config.name != name:
            raise ValueError(f"{slot}={name} must be a task of that name, got {config.name!r}")
    else:
        raise ValueError(f"{slot}={name} must be a Task, or its place as package.module:CONSTANT, got {config!r}")


def _origin(choice: Any) -> str:
    """Where a choice is defined, as "package.module:Name". For a `Task`, where its environment is defined."""
    if isinstance(choice, str):
        return choice
    made = choice if isinstance(choice, type) else choice.make
    while isinstance(made, partial):
        made = made.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f"{made.__module__}:{made.__qualname__}"  # pyright: ignore[reportUnknownMemberType]
