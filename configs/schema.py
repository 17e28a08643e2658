"""Run configurations as plain dataclasses, and the one table of what may be chosen in each of their slots.

The dataclasses hold plain values; `build` makes the real objects. Dimensions come from the data and the task, never
from here. Only Hydra's ConfigStore (`register`) and the checkpoints (`policy_config`) read the table.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from ..specification import Horizons, Specification, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..envs.task import Task
    from ..policy.interface import NoiseSchedule, Policy, Sampler
    from ..policy.normalizer import Normalizer


@dataclass(kw_only=True)
class UNet1dConfig:
    """The temporal U-Net; one entry of `channels` for each level, the finest first."""

    channels: list[int] = field(default_factory=lambda: [64, 128, 256])
    kernel_size: int = 5
    groups: int = 8
    time_size: int = 128

    def __post_init__(self) -> None:
        positive(self, "kernel_size", "groups", "time_size")

    def build(self, *, action_size: int, conditioning_size: int) -> nn.Module:
        """A network for chunks of `action_size` numbers a step."""
        from ..policy.networks.unet1d import UNet1d

        return UNet1d(
            action_size=action_size,
            conditioning_size=conditioning_size,
            channels=self.channels,
            kernel_size=self.kernel_size,
            groups=self.groups,
            time_size=self.time_size,
        )


@dataclass(kw_only=True)
class CosineConfig:
    """The squared-cosine noise schedule."""

    num_times: int = 100

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ..policy.schedule import cosine

        return cosine(self.num_times)


@dataclass(kw_only=True)
class DiffusersScheduleConfig:
    """A beta schedule of diffusers, by its name there."""

    beta_schedule: str = "linear"
    num_times: int = 100
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def build(self) -> NoiseSchedule:
        """The schedule."""
        from ..policy.schedule import from_diffusers

        return from_diffusers(self.beta_schedule, self.num_times, self.beta_start, self.beta_end)


@dataclass(kw_only=True)
class DDIMConfig:
    """DDIM in `num_steps` denoising steps; `eta` = 0 is deterministic, 1 draws all the noise of DDPM."""

    num_steps: int = 10
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 (DDIM) and 1 (DDPM), got {self.eta}")

    def build(self) -> Sampler:
        """The sampler."""
        from ..policy.sampling import ddim

        return partial(ddim, eta=self.eta)

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way."""
        return self.num_steps if self.eta else 0


@dataclass(kw_only=True)
class DDPMConfig:
    """Ancestral sampling in `num_steps` denoising steps."""

    num_steps: int = 100

    def build(self) -> Sampler:
        """The sampler."""
        from ..policy.sampling import ddpm

        return ddpm

    @property
    def num_draws(self) -> int:
        """Fresh noises on the way."""
        return self.num_steps


@dataclass(kw_only=True)
class DiffusersSamplerConfig:
    """Any scheduler of diffusers, by its class name there, with its own options."""

    name: str = "DPMSolverMultistepScheduler"
    num_steps: int = 10
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Sampler:
        """The sampler."""
        from ..policy.sampling import from_diffusers

        return from_diffusers(self.name, **self.options)

    @property
    def num_draws(self) -> int:
        """It draws for itself."""
        return 0


class PredictionType(Enum):
    """What the network predicts; the values name the constants of `policy.prediction`."""

    epsilon = "EPSILON"
    sample = "SAMPLE"
    v = "V"


@dataclass(kw_only=True)
class HorizonsConfig:
    """Steps seen, generated and executed."""

    observation: int = 2
    prediction: int = 16
    action: int = 8

    def build(self) -> Horizons:
        """The checked horizons."""
        return Horizons(self.observation, self.prediction, self.action)


@dataclass(kw_only=True)
class RegressionConfig:
    """Plain behaviour cloning with the same network."""

    network: Any = field(default_factory=UNet1dConfig)

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> Policy:
        """An untrained policy."""
        from ..policy.encoders.lowdim import LowdimEncoder
        from ..policy.regression import RegressionPolicy

        filled(self, "network", of="policy/")
        encoder = LowdimEncoder(specification, horizons)
        network = self.network.build(action_size=specification.action.size, conditioning_size=encoder.conditioning_size)
        return RegressionPolicy(specification, horizons, normalizer=normalizer, encoder=encoder, network=network)


@dataclass(kw_only=True)
class DiffusionConfig:
    """The diffusion policy. clip: bound of the estimate of x_0 at every denoising step, in normalised units."""

    network: Any = field(default_factory=UNet1dConfig)
    schedule: Any = field(default_factory=CosineConfig)
    sampler: Any = field(default_factory=DDIMConfig)
    prediction: PredictionType = PredictionType.epsilon
    clip: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "clip")

    def build(self, specification: Specification, horizons: Horizons, normalizer: Normalizer) -> Policy:
        """An untrained policy."""
        from ..policy import prediction
        from ..policy.diffusion import DiffusionPolicy
        from ..policy.encoders.lowdim import LowdimEncoder

        filled(self, "network", "schedule", "sampler", of="policy/")
        encoder = LowdimEncoder(specification, horizons)
        return DiffusionPolicy(
            specification,
            horizons,
            normalizer=normalizer,
            encoder=encoder,
            network=self.network.build(
                action_size=specification.action.size, conditioning_size=encoder.conditioning_size
            ),
            schedule=self.schedule.build(),
            prediction=getattr(prediction, self.prediction.value),
            sampler=self.sampler.build(),
            num_steps=self.sampler.num_steps,
            num_draws=self.sampler.num_draws,
            clip=self.clip,
        )


TASKS = {"pick_place": "recede.envs.pick_place:PICK_PLACE", "pusht": "recede.envs.pusht:PUSHT"}
"""Where each task is found; a task is imported only when it is used."""


def load_task(name: str) -> Task:
    """The task of that name, or the one at "package.module:CONSTANT", which is how you use your own.

    Raises ValueError for an unknown name, and where there is no task at that place.
    """
    from importlib import import_module

    from ..envs.task import Task

    if name not in TASKS and ":" not in name:
        raise ValueError(
            f"task must be one that recede knows, or package.module:CONSTANT, got {name!r}: {nearest(name, TASKS)}"
        )
    module, constant = TASKS.get(name, name).split(":", 1)
    found = getattr(import_module(module), constant, None)
    if not isinstance(found, Task):
        raise ValueError(f"task={name} must be a Task of recede.envs.task, but {module} has {found!r} as {constant!r}")
    return found


def positive(config: object, *names: str) -> None:
    """Raises ValueError unless every one of these fields is above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")


def not_negative(config: object, *names: str) -> None:
    """Raises ValueError unless every one of these fields is at least 0."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(config, name)}")


def filled(config: object, *slots: str, of: str = "") -> None:
    """Raises ValueError unless one of the `CHOICES` fills every one of these slots of `config`."""
    for slot in slots:
        if not is_dataclass(value := getattr(config, slot)):
            path = f"{of}{slot}"
            raise ValueError(
                f"{path} must be chosen as {path}=name, got {value!r}: {nearest(str(value), CHOICES[path])}"
            )


def device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one."""
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be auto or one that torch can use here, got {name!r}: {reason}") from None


@dataclass(kw_only=True)
class EvaluateConfig:
    """Measure a policy in closed loop.

    run: a run folder or a checkpoint folder. checkpoint: which of a run's, "last" or "best". task: to evaluate in,
    where it is not the one that it was trained for. episodes: how many, on the seeds from `first_seed` on. seed: of the
    policy's noise. workers: processes that step environments. parallel: episodes under way at once. videos: episodes
    to film. out: the folder of the results; beside the policy where it is not given.
    """

    run: str
    checkpoint: str = "last"
    episodes: int = 50
    first_seed: int = 100_000
    seed: int = 0
    task: str | None = None
    device: str = "auto"
    workers: int = 0
    parallel: int = 64
    videos: int = 3
    out: str | None = None

    def __post_init__(self) -> None:
        positive(self, "episodes", "parallel")
        not_negative(self, "first_seed", "seed", "workers", "videos")
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")


@dataclass(kw_only=True)
class TrainConfig:
    """Learn a policy from demonstrations.

    dataset: a store of demonstrations. task: what they must be of, and what to evaluate in; a store of yours needs
    none, a replay buffer of others does. out: the run folder. horizons: steps seen, generated and executed. device: of
    torch, or auto for a GPU where there is one. init_from: a run or checkpoint folder whose weights to start with.

    steps: updates of the weights, of `batch_size` windows with `draws` noises each. learning_rate: the highest, after
    `warmup` steps; it falls to 0 along a cosine. betas and weight_decay are those of AdamW. gradient_clip: the largest
    norm of a gradient. The averaged weights keep 1 - n^-`ema_power` of themselves in update n, at most `ema_maximum`.
    held_out: share of the episodes that is not trained on. mask_padding: leave steps beyond an episode's ends out of
    the loss.

    Every `log_every` steps the loss is noted (tensorboard: for TensorBoard too), every `save_every` the state is saved,
    every `validate_every` the held-out action error is measured, and every `evaluate_every` (0: never) the policy is
    rolled out in `evaluate_episodes` episodes.
    """

    dataset: str
    out: str
    policy: Any
    task: str | None = None
    horizons: HorizonsConfig = field(default_factory=HorizonsConfig)
    seed: int = 0
    device: str = "auto"
    steps: int = 4000
    batch_size: int = 256
    draws: int = 1
    learning_rate: float = 3e-4
    betas: list[float] = field(default_factory=lambda: [0.95, 0.999])
    weight_decay: float = 1e-6
    warmup: int = 200
    gradient_clip: float = 1.0
    ema_power: float = 0.75
    ema_maximum: float = 0.9999
    held_out: float = 0.02
    mask_padding: bool = False
    init_from: str | None = None
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 500
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size", "draws", "learning_rate", "gradient_clip")
        positive(self, "log_every", "validate_every", "save_every", "evaluate_episodes")
        not_negative(self, "seed", "weight_decay", "warmup", "evaluate_every")
        if len(self.betas) != 2:
            raise ValueError(
                f"betas must be two numbers, of the mean and of the square of the gradient, got {self.betas}"
            )
        filled(self, "policy")
        self.horizons.build()
        if self.evaluate_every and self.task is None:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs a task to evaluate in: give task=")


@dataclass(kw_only=True)
class CollectConfig:
    """Record a task's scripted expert into the store `out`: `episodes` successes, on the seeds from `first_seed` on.

    Failures of the expert go to a store beside it. The same command goes on after an interruption.
    """

    task: str
    out: str
    episodes: int = 100
    first_seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "episodes")
        not_negative(self, "first_seed")


@dataclass(kw_only=True)
class ReplayConfig:
    """Apply the recorded actions of `dataset` open loop in `task` and compare; `episodes` 0 stands for all of them."""

    task: str
    dataset: str
    episodes: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "episodes")


@dataclass(kw_only=True)
class InspectConfig:
    """Describe the store `dataset`; `task` is needed for a replay buffer of others. out: the picture."""

    dataset: str
    task: str | None = None
    out: str | None = None


@dataclass(kw_only=True)
class DownloadConfig:
    """Fetch published demonstrations; `name` says which. out: the store's folder. url: of a mirror."""

    name: str
    out: str | None = None
    url: str | None = None


@dataclass(kw_only=True)
class DemoConfig:
    """The whole path on the embedded task, in the folder `out`: record, train two policies, evaluate both, report.

    episodes: to record. steps and regression_steps: to train the diffusion and the regression policy, both at
    `learning_rate`. evaluate_episodes: to measure each of them.
    """

    out: str = "runs/demo"
    episodes: int = 150
    steps: int = 1000
    regression_steps: int = 400
    evaluate_episodes: int = 50
    seed: int = 0
    learning_rate: float = 1e-3
    device: str = "auto"

    def __post_init__(self) -> None:
        positive(self, "episodes", "steps", "regression_steps", "evaluate_episodes")


CHOICES: dict[str, dict[str, Any]] = {
    "policy": {"diffusion": DiffusionConfig, "regression": RegressionConfig},
    "policy/network": {"unet1d": UNet1dConfig},
    "policy/schedule": {"cosine": CosineConfig, "diffusers": DiffusersScheduleConfig},
    "policy/sampler": {"ddim": DDIMConfig, "ddpm": DDPMConfig, "diffusers": DiffusersSamplerConfig},
}
"""Slot -> name -> what fills it. A slot is a Hydra config group, and its path in the run configuration."""

RUNS = {
    "collect": CollectConfig,
    "demo": DemoConfig,
    "download": DownloadConfig,
    "evaluate": EvaluateConfig,
    "inspect": InspectConfig,
    "replay": ReplayConfig,
    "train": TrainConfig,
}
"""Command -> its configuration."""


def register() -> None:
    """Store the table in Hydra's ConfigStore; `configs/*.yaml` choose from it."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING as UNSET

    store = ConfigStore.instance()
    for command, config in RUNS.items():
        store.store(group="schema", name=command, node=config)
    for slot, options in CHOICES.items():
        inner = {path.removeprefix(f"{slot}/") for path in CHOICES if path.startswith(f"{slot}/")}
        for name, option in options.items():
            slots = {each: UNSET for each in inner if each in getattr(option, "__dataclass_fields__", {})}
            # What has slots of its own is chosen by a YAML file of its name, which lists their defaults.
            store.store(group="schema" if slots else slot, name=name, node=option(**slots) if slots else option)


def command_line(command: str, config: Any) -> str:
    """What to type for this configuration, as far as it differs from the defaults.

    >>> command_line("evaluate", EvaluateConfig(run="runs/my run", episodes=200))
    "recede evaluate 'run=runs/my run' episodes=200"
    """
    changed = [
        f"{each.name}={getattr(config, each.name)}"
        for each in fields(config)
        if each.default is MISSING or getattr(config, each.name) != each.default
    ]
    return shlex.join(["recede", command, *changed])


def describe(config: Any) -> Any:
    """A configuration as JSON; what fills a slot says which choice it is. `policy_config` is the inverse."""
    if isinstance(config, Enum):
        return config.name
    if not is_dataclass(config):
        return config
    chosen = [name for options in CHOICES.values() for name, option in options.items() if type(config) is option]
    plain = {each.name: describe(getattr(config, each.name)) for each in fields(config)}
    return ({"choice": chosen[0]} if chosen else {}) | plain


def policy_config(data: Mapping[str, Any], slot: str = "policy") -> Any:
    """The configuration that `describe` gave. Raises ValueError for what this version does not know."""
    data = dict(data)
    name = data.pop("choice", None)
    if name not in CHOICES[slot]:
        raise ValueError(f"{slot} must be one of {sorted(CHOICES[slot])}, got {name!r}")
    option = CHOICES[slot][name]
    for key, value in data.items():
        if f"{slot}/{key}" in CHOICES:
            data[key] = policy_config(value, f"{slot}/{key}")
    try:
        if "prediction" in data:
            data["prediction"] = PredictionType[data["prediction"]]
        return option(**data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{slot}={name} cannot have {error}") from None
