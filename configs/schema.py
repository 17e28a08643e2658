"""Run configurations as plain dataclasses, one for each command, and how they become objects and text.

What policies are made of, and the one table of what may be chosen in each slot, is in `components`; only Hydra's
ConfigStore (`register`) and the checkpoints (`policy_config`) read that table.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from ..policy.engines.interface import FORMATS
from ..specification import nearest
from .checks import known_engine, not_negative, pair, positive
from .components import CHOICES, MANY, HorizonsConfig, filled
from .deployment import ControlConfig
from .encoders import AugmentationConfig
from .executions import RecedingConfig, check_executions
from .normalisation import normalisations
from .packages import CommandConfig
from .serving import ServeConfig

if TYPE_CHECKING:
    import torch


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
class EvaluateConfig(CommandConfig):
    """Measure a policy in closed loop.

    run: a run folder or a checkpoint folder. checkpoint: which of a run's, "last" or "best"; the best was chosen on
    seeds from 50,000 on, and is not measured on those. task: to evaluate in, if not the one that it was trained for.
    episodes: how many, on the seeds from `first_seed` on. seed: of the policy's noise. workers: processes that step
    environments. parallel: episodes under way at once. videos: episodes to film. out: the folder of the results; beside
    the policy where it is not given. sampler: to denoise with, where it is not the one that the policy was trained to
    have. execution: how chunks follow one another. delay_ms: from the request of a chunk to its arrival, in which the
    robot goes on; rounded up to whole control steps. engine: what runs the policy: eager (PyTorch, the default),
    cuda_graph, onnx, openvino, openvino_fp32, or auto for the fastest here.

    run may be a folder of `recede export` too, which has its sampler and its engine already.

    Several of these, execution=[receding,rtc] delay_ms=[0,200], are all measured, each pair in a folder of its own.
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
    sampler: Any = None
    execution: dict[str, Any] = field(default_factory=lambda: {"receding": RecedingConfig()})
    delay_ms: Any = 0
    engine: str | None = None

    def __post_init__(self) -> None:
        known_engine(self.engine)
        check_executions(self.execution)
        self.delays  # noqa: B018 - it raises
        positive(self, "episodes", "parallel")
        not_negative(self, "first_seed", "seed", "workers", "videos")
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")

    @property
    def pairs(self) -> list[EvaluateConfig]:
        """Of every execution and every delay the configuration of its own."""
        changes = [
            {"execution": {name: each}, "delay_ms": ms} for name, each in self.execution.items() for ms in self.delays
        ]
        return [replace(self, **change) for change in changes]  # pyright: ignore[reportReturnType]

    @property
    def delays(self) -> list[float]:
        """The delays in milliseconds, of which one may stand alone. Raises ValueError for others than numbers >= 0."""
        values = self.delay_ms if isinstance(self.delay_ms, list) else [self.delay_ms]
        if not values or not all(isinstance(value, int | float) and 0 <= value < math.inf for value in values):
            raise ValueError(f"delay_ms must be milliseconds of at least 0, or a list of them, got {self.delay_ms}")
        return [float(value) for value in values]


@dataclass(kw_only=True)
class TrainConfig(CommandConfig):
    """Learn a policy from demonstrations.

    dataset: a store of demonstrations. task: what they must be of, and what to evaluate in; a store of yours needs
    none, a replay buffer of others does. out: the run folder. horizons: steps seen, generated and executed. device: of
    torch, or auto for a GPU where there is one. init_from: a run or checkpoint folder whose weights to start with.
    teacher: a run or checkpoint folder whose policy the objective learns from, if it needs one.
    frames: where decoded images are held: on the device, mapped (from a file in the folder RECEDE_CACHE), or auto, on
    the device where they fit there. augmentation: of images, by up to `rotation` degrees, and by shares of
    `brightness`, `contrast` and `saturation`; crops are those of the encoder, at random places.

    precision: fp32, or bf16 where networks are multiplied in half the bits, the weights staying as they are: it is for
    images, on processors that have it (NVIDIA's since 2020, Intel's with AMX).
    steps: updates of the weights, of `batch_size` windows with `draws` noises each. learning_rate: the highest, after
    `warmup` steps; it falls to 0 along a cosine. betas and weight_decay are those of AdamW. gradient_clip: the largest
    norm of a gradient. The averaged weights keep 1 - n^-`ema_power` of themselves in update n, at most `ema_maximum`.
    held_out: share of the episodes that is not trained on, 0.02 unless it is given. split_seed: chooses them, 0 unless
    it is given, so that trainings of different `seed` learn from the same episodes. If init_from was trained on the
    first episodes of this dataset, or on all of them, those that it held out stay held out, and neither may differ.
    normalisation: of each stream that needs another than the usual one: normalisation.STREAM.kind, .tail and .floor, as
    in `configs.normalisation`. mirror: train also on what a mirror shows of the others,
    where the task stays the same in it. mask_padding: leave steps beyond an episode's ends out of
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
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    seed: int = 0
    device: str = "auto"
    steps: int = 3000
    batch_size: int = 256
    draws: int = 1
    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.95, 0.999])
    weight_decay: float = 1e-6
    warmup: int = 200
    gradient_clip: float = 1.0
    ema_power: float = 0.75
    ema_maximum: float = 0.9999
    held_out: float | None = None
    split_seed: int | None = None
    normalisation: dict[str, Any] = field(default_factory=dict)
    mirror: bool = False
    mask_padding: bool = False
    init_from: str | None = None
    teacher: str | None = None
    frames: str = "auto"
    precision: str = "fp32"
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
        if self.split_seed is not None:
            not_negative(self, "split_seed")
        self.normalisation = dict[str, Any](normalisations(self.normalisation))
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if len(self.betas) != 2:
            raise ValueError(
                f"betas must be two numbers, of the mean and of the square of the gradient, got {self.betas}"
            )
        filled(self, "policy")
        self.horizons.build()
        if self.evaluate_every and self.task is None:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs a task to evaluate in: give task=")


@dataclass(kw_only=True)
class CollectConfig(CommandConfig):
    """Record a task's scripted expert into the store `out`: `episodes` successes, on the seeds from `first_seed` on.

    Failures of the expert go to a store beside it. The same command goes on after an interruption. images: how those of
    a new store are compressed: zstd, png, or jpeg, which alone changes them.
    """

    task: str
    out: str
    episodes: int = 100
    first_seed: int = 0
    images: str = "zstd"

    def __post_init__(self) -> None:
        positive(self, "episodes")
        not_negative(self, "first_seed")


@dataclass(kw_only=True)
class ReplayConfig(CommandConfig):
    """Apply the recorded actions of `dataset` open loop in `task` and compare; `episodes` 0 stands for all of them."""

    task: str
    dataset: str
    episodes: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "episodes")


@dataclass(kw_only=True)
class InspectConfig(CommandConfig):
    """Describe the store `dataset`; `task` is needed for a replay buffer of others.

    out: the picture; by default it lies beside the store, `data/reach.png` of `data/reach.zarr`, or in `runs/inspect/`
    if the store's folder cannot be written.
    augment: also draw, into a picture beside that one, what a policy sees in training whose encoder has this `crop`,
    [height, width], with this `augmentation`; where neither is given, a crop of seven eighths of the images.
    seed: of its random changes.
    """

    dataset: str
    task: str | None = None
    out: str | None = None
    augment: bool = False
    crop: list[int] | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        pair(self.crop)
        not_negative(self, "seed")
        if not self.augment and (self.crop is not None or self.augmentation != AugmentationConfig()):
            raise ValueError("crop and augmentation say what augment=true draws: give it too, or leave them out")


@dataclass(kw_only=True)
class CompareConfig(CommandConfig):
    """Put many evaluations into one table.

    results: a folder, of which every `evaluation.json` in it and below is taken, or a file that `lines` wrote.
    out: a markdown file to write the table to.
    lines: a file, results.jsonl, to add the evaluations to, a line each; one of the same path is replaced.
    """

    results: str
    out: str | None = None
    lines: str | None = None

    def __post_init__(self) -> None:
        if self.lines is not None and not self.lines.endswith(".jsonl"):
            raise ValueError(f"lines={self.lines} must end in .jsonl, a file with a line of JSON for an evaluation")


@dataclass(kw_only=True)
class DownloadConfig(CommandConfig):
    """Fetch published demonstrations; `name` says which. out: the store's folder. url: of a mirror."""

    name: str
    out: str | None = None
    url: str | None = None


@dataclass(kw_only=True)
class ImportCheckpointConfig(CommandConfig):
    """Make a checkpoint of a policy that another implementation has trained.

    source: a file with the state dict of a policy for vectors of the reference implementation, of safetensors or torch,
    or a folder of LeRobot's, whose policies may see images too. out: the checkpoint folder. task: what it was trained
    for, and streams: the task's observations in the order in which they lie side by side there, where there is more
    than one of a kind. Without a task the control period, control_dt, is needed, in seconds.

    horizons and policy: as it was trained; a folder of LeRobot contains them. The weights show the network, except for
    policy/network=transformer policy.network.num_heads=N if a transformer does not have 4 heads.

    The policy acts as it did there. LeRobot's settings name its sampler. A state dict does not: it is sampled as the
    reference implementation does by default, by DDPM in 100 steps. If it was sampled by DDIM, add
    policy/sampler=reference_ddim policy.sampler.num_steps=N. Both visit the levels of spacing=leading, and DDIM keeps
    the epsilon of the network, as diffusers does.
    """

    source: str
    out: str
    policy: Any
    task: str | None = None
    streams: list[str] = field(default_factory=list)
    control_dt: float | None = None
    horizons: HorizonsConfig = field(default_factory=HorizonsConfig)

    def __post_init__(self) -> None:
        filled(self, "policy")
        self.horizons.build()


@dataclass(kw_only=True)
class DemoConfig(CommandConfig):
    """The whole path on the embedded task, in the folder `out`: record, train two policies, evaluate both, report.

    episodes: to record. steps and regression_steps: to train the diffusion and the regression policy.
    evaluate_episodes: to measure each of them.
    """

    out: str = "runs/demo"
    episodes: int = 150
    steps: int = 1000
    regression_steps: int = 400
    evaluate_episodes: int = 50
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        positive(self, "episodes", "steps", "regression_steps", "evaluate_episodes")


@dataclass(kw_only=True)
class ExportConfig(CommandConfig):
    """Make a folder of a trained policy that predicts without PyTorch, by `recede.load_engine`.

    run: a run folder or a checkpoint folder. out: the folder to write, which must not be there yet. engine: onnx,
    openvino (in the precision that it chooses on the machine where it runs) or openvino_fp32, or auto for the fastest
    of them here. An engine whose chunks are not those of PyTorch is excluded. checkpoint: which of a run's, "last" or
    "best". sampler: to denoise with, where it is not the one that the policy was trained to have; the folder keeps it.
    dataset: demonstrations whose observations the engines are compared on; without them these are drawn from the ranges
    of the normalizer. task: what the dataset is of, for a replay buffer of others.
    """

    run: str
    out: str
    engine: str = "auto"
    checkpoint: str = "last"
    sampler: Any = None
    dataset: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in (*FORMATS, "auto"):
            raise ValueError(
                f"engine must be one that needs no PyTorch, or auto, got {self.engine!r}: "
                + nearest(self.engine, (*FORMATS, "auto"))
            )
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if self.task is not None and self.dataset is None:
            raise ValueError("task says what the dataset is of: give dataset= too, or leave it out")


RUNS = {
    "collect": CollectConfig,
    "compare": CompareConfig,
    "control": ControlConfig,
    "demo": DemoConfig,
    "download": DownloadConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "import-checkpoint": ImportCheckpointConfig,
    "inspect": InspectConfig,
    "replay": ReplayConfig,
    "serve": ServeConfig,
    "train": TrainConfig,
}
"""Command -> its configuration."""


def register() -> None:
    """Store the table in Hydra's ConfigStore; `configs/*.yaml` choose from it.

    Raises ValueError if the default of a slot is not in its table.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    for command, config in RUNS.items():
        node = OmegaConf.structured(config)
        for slot in CHOICES:
            if slot in node and not OmegaConf.is_missing(node, slot):  # what is chosen would be added to the default
                node[slot] = {} if slot in MANY else None
        if "normalisation" in node:  # its keys are the streams of a dataset
            OmegaConf.set_struct(node.normalisation, value=False)
        store.store(group="schema", name=command, node=node)
    for slot, options in CHOICES.items():
        inner = [path.removeprefix(f"{slot}/") for path in CHOICES if path.startswith(f"{slot}/")]
        for name, option in options.items():
            if slots := [each.name for each in fields(option) if each.name in inner]:
                _register_with_slots(slot, name, slots)
            else:
                store.store(group=slot, name=name, node=option, package=f"{slot}.{name}" if slot in MANY else None)


def _register_with_slots(slot: str, name: str, slots: list[str]) -> None:
    """Store a choice that has slots of its own, and which choice fills each of them by default.

    The dataclass says which: the type of a slot's default is looked up in the table. A default with values that differ
    from those of its type is a choice of its own, which another choice for the slot replaces with all its values.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING as UNSET
    from omegaconf import OmegaConf

    store, option = ConfigStore.instance(), CHOICES[slot][name]
    node, chosen = OmegaConf.structured(option), list[Any]()
    for each in slots:
        node[each] = UNSET
        value, path = default_of(option.__dataclass_fields__[each]), f"{slot}/{each}"
        known = [choice for choice, kind in CHOICES[path].items() if type(value) is kind]
        if not known and value is not MISSING:
            raise ValueError(f"{slot}={name}: the default of {each}, {value!r}, must be added to the table of {path}")
        chosen.append({each: UNSET if value is MISSING else known[0]})
        if known and changed(value):
            chosen[-1] = {each: f"default-of-{name}"}  # a name that `add_choice` gives to nothing
            store.store(group=path, name=f"default-of-{name}", node=value)
    store.store(group=f"schema/{slot}", name=name, node=node)
    store.store(group=slot, name=name, node={"defaults": [f"/schema/{slot}/{name}@_here_", *chosen, "_self_"]})


def command_line(command: str, config: Any) -> str:
    """What to type for this configuration, as far as it differs from the defaults.

    >>> command_line("evaluate", EvaluateConfig(run="runs/my run", episodes=200))
    "recede evaluate 'run=runs/my run' episodes=200"
    """
    arguments = (argument for each in changed(config).items() for argument in _arguments(*each))
    return shlex.join(["recede", command, *arguments])


def changed(config: Any) -> dict[str, Any]:
    """The values of a configuration that differ from its defaults."""
    values = {each.name: (getattr(config, each.name), default_of(each)) for each in fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def default_of(field: Any) -> Any:
    """The default of a field of a configuration, or MISSING if a value must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _arguments(key: str, value: Any) -> list[str]:
    """`key=value`; for what has values of its own these, after the name of what fills a slot."""
    if key in MANY:
        options = (_arguments(f"{key}.{name}", option) for name, option in value.items())
        return [f"{key}=[{','.join(value)}]", *(argument for option in options for argument in option)]
    if not is_dataclass(value):
        return [f"{key}={'null' if value is None else describe(value)}"]
    slot = key.replace(".", "/")
    named = [f"{slot}={name}" for name, option in CHOICES.get(slot, {}).items() if type(value) is option]
    parts = (_arguments(f"{key}.{each.name}", getattr(value, each.name)) for each in fields(value))
    return named + [argument for part in parts for argument in part]


def describe(config: Any) -> Any:
    """A configuration as JSON; what fills a slot says which choice it is. `policy_config` is the inverse."""
    if isinstance(config, Mapping):
        return {name: describe(value) for name, value in config.items()}  # pyright: ignore[reportUnknownVariableType]
    if not is_dataclass(config):
        return config
    chosen = [name for options in CHOICES.values() for name, option in options.items() if type(config) is option]
    plain = {each.name: describe(getattr(config, each.name)) for each in fields(config)}
    return ({"choice": chosen[0]} if chosen else {}) | plain


class UnknownChoice(ValueError):
    """A checkpoint or an exported folder names a choice that is in no table: the package that adds it is missing."""


def policy_config(data: Mapping[str, Any], slot: str = "policy") -> Any:
    """The configuration that `describe` gave.

    Raises UnknownChoice for a choice that is in no table, and ValueError for values that the choice does not have.
    """
    data = dict(data)
    name = data.pop("choice", None)
    if name not in CHOICES[slot]:
        raise UnknownChoice(
            f"{slot} must be one of {sorted(CHOICES[slot])}, got {name!r}: add imports=[the package that adds it], or "
            "in Python import it first"
        )
    option = CHOICES[slot][name]
    for key, value in data.items():
        if f"{slot}/{key}" in CHOICES:
            data[key] = policy_config(value, f"{slot}/{key}")
    try:
        return option(**data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{slot}={name} cannot have {error}") from None
