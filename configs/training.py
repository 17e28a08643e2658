"""The configurations of `recede train` and `recede demo`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .augmentation import AugmentationConfig
from .checks import (
    LARGEST_SEED,
    MOST_EPISODES,
    MOST_UPDATES,
    PathName,
    PathNames,
    condition,
    not_negative,
    one_or_several,
    positive,
    share,
)
from .choices import require_choices
from .components.policies import DiffusionConfig, HorizonsConfig
from .normalisation import normalisations
from .packages import CommandConfig

BY_CONTENT = ("dataset", "episodes", "init_from", "teacher")
"""Fields of a training that name data or weights: these count, and their names do not."""

FREE = (
    *("out", "imports", "data", "device", "image_cache", "tensorboard"),
    *("capture", "compile", "accumulate", "gradient_checkpointing"),
    *("log_every", "save_every", "validate_every", "evaluate_every", "evaluate_episodes"),
)
"""Fields that do not decide what a training learns. Every command that resumes a run may give others.

All other fields must stay as they are, except `steps`.
"""


@dataclass(kw_only=True)
class TrainConfig(CommandConfig):
    """Train a policy on demonstrations. The same command resumes an interrupted training."""

    "Data"

    dataset: PathNames
    """Folder of a demonstration store, or of a replay buffer of Diffusion Policy; or several as [a,b], which must have
the same streams."""
    weights: list[float] | None = None
    """For each of several datasets, its share of the windows that are drawn: with [1,2] every third is of the first,
however many windows each has. null draws every window equally often."""
    missing: str | None = None
    """mask trains on several datasets of which some lack an observation: where it is absent, the policy learns that it
is, and nothing from it. null refuses such datasets."""
    episodes: str | None = None
    """Which of its episodes, as in "outcome=success and operator!=script"; of each, if there are several datasets. null
takes all."""
    only: str | None = None
    """interventions trains only on windows whose executed steps a person led, as with `recede control takeover=`, and
on the whole of episodes that do not note who led. null takes all."""
    data: str = "same"
    """What a resumed run accepts: same, the episodes that it has; or grown, also episodes added behind them."""
    task: str | None = None
    """Task of the demonstrations, also used for evaluation: a name, package.module:CONSTANT or gymnasium:ID, see
docs/your_task.md. Required for replay buffers; a store describes itself."""
    observe: list[str] | None = None
    """Observation streams that the policy sees. null is all of the dataset."""
    text_encoder: PathName | None = None
    """Folder of CLIP, SigLIP or T5 from Hugging Face. The policy then also observes the sentence of each episode. null
leaves sentences out."""
    horizons: HorizonsConfig = field(default_factory=HorizonsConfig)
    """Numbers of control steps that the policy sees, generates and executes."""
    held_out: float | None = None
    """Share of the episodes held out for validation. null is 0.02, or the held_out of init_from on the same dataset."""
    split_seed: int | None = None
    """Seed that chooses the held-out episodes. null is 0, or the split_seed of init_from on the same dataset."""
    normalisation: dict[str, Any] = field(default_factory=dict)
    """Exceptions for single streams: normalisation.STREAM.kind=range, quantiles, deviation or identity; .tail=0.01, the
share beyond either quantile; .floor, the largest range that counts as still, in the unit of the stream; .groups.NAME,
the kind of normalisation of dimensions with this label or of this kind."""
    mirror: bool = False
    """Also train on the mirror image of every episode, for tasks that are symmetric."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes to training images. Random crops belong to the encoder: policy.encoder.crop."""
    image_cache: str = "auto"
    """Where decoded images are kept: device, mapped (a file in RECEDE_CACHE), or auto (device if they fit)."""

    "Policy"

    policy: Any = field(default_factory=DiffusionConfig)
    """Kind of policy."""
    init_from: PathName | None = None
    """Run or checkpoint folder whose weights training starts from. null starts from random weights."""
    teacher: PathName | None = None
    """Run or checkpoint folder of the policy that the objective learns from, if the objective needs one."""

    "Optimisation"

    steps: int | None = None
    """Number of weight updates. null is chosen from the data. More than a run has done continue it: the learning rate
rises in warmup updates from where it was, 0 after a finished training, to learning_rate, and falls along a cosine to 0
at the new last update."""
    batch_size: int | None = None
    """Windows of demonstrations in each update. null is chosen from the data."""
    accumulate: int = 1
    """Passes in which each process computes its share of a batch: more need less memory and more time."""
    gradient_checkpointing: bool = False
    """Compute the blocks of the image encoders again in the backward pass: less memory and more time."""
    draws: int = 1
    """Noises drawn for each window; its observation is encoded once."""
    optimizer: str = "adamw"
    """adamw; or muon, whose updates of weight matrices are orthogonal: fewer are needed, and each takes longer."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after warmup. It then falls to 0 along a cosine."""
    warmup: int = 200
    """Updates in which the learning rate rises linearly from 0."""
    betas: list[float] = field(default_factory=lambda: [0.95, 0.999])
    """AdamW: decay rates of the means of the gradient and of its square."""
    weight_decay: float = 1e-6
    """Weight decay of weight matrices."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; a longer gradient is scaled down to it."""
    ema_power: float = 0.75
    """Averaged weights keep 1 - n^-ema_power of themselves in update n."""
    ema_maximum: float | None = None
    """Largest share of themselves that the averaged weights keep in an update. null is chosen from the steps."""
    mask_padding: bool = False
    """Leave steps beyond the ends of an episode out of the loss."""
    precision: str | None = "fp32"
    """fp32, or bf16 for matrix products in 16 bits (NVIDIA since 2020, Intel with AMX). Weights stay in fp32. null is
    bf16 where that is fast, else fp32."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""
    capture: bool = True
    """Compute loss and gradients as a CUDA graph, if there is a GPU. false is slower; it is for parts that no graph can
hold."""
    compile: bool = False
    """Compute loss and gradients by code of torch.compile, which takes minutes to compile. Where that fails, training
says so and goes on without it."""
    seed: int = 0
    """Seed of initial weights, batches and noise."""

    "Validation and saving"

    out: PathName
    """Run folder, for checkpoints, metrics and the configuration."""
    log_every: int = 50
    """Updates between two entries of the training loss in the metrics."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard."""
    save_every: int = 500
    """Updates between two checkpoints."""
    validate_every: int = 500
    """Updates between two measurements on held-out episodes: action error and, in denoising, variational bound."""
    evaluate_every: int = 0
    """Updates between two evaluations in the task, which choose the best checkpoint. 0 means never."""
    evaluate_episodes: int = 20
    """Episodes of each such evaluation."""

    @property
    def datasets(self) -> list[str]:
        """The datasets, one or several."""
        return self.dataset if isinstance(self.dataset, list) else [self.dataset]

    @property
    def place(self) -> str:
        """The datasets in words, for messages."""
        return " and ".join(self.datasets)

    def __post_init__(self) -> None:
        self.dataset, self.weights = _weighted(self.dataset, self.weights)
        positive(self, "steps", "log_every", "validate_every", "save_every", most=MOST_UPDATES)
        not_negative(self, "warmup", "evaluate_every", most=MOST_UPDATES)
        positive(self, "batch_size", "evaluate_episodes", most=MOST_EPISODES)
        positive(self, "draws", "accumulate", most=1000)
        positive(self, "learning_rate", most=1e38)  # one that is too large is named as soon as training diverges
        positive(self, "gradient_clip", most=1e10)
        not_negative(self, "weight_decay", most=1000)
        positive(self, "ema_power", most=10)
        not_negative(self, "seed", most=LARGEST_SEED)
        if self.missing not in (None, "mask"):
            raise ValueError(f"missing must be mask or null, got {self.missing!r}")
        if self.missing is not None and len(self.datasets) == 1:
            raise ValueError("missing=mask needs several datasets, of which one lacks a stream, got one: leave it out")
        condition(self, "episodes")
        if self.observe is not None and not self.observe:
            raise ValueError("observe must name a stream or more, got []: leave it out to see all of the dataset")
        not_negative(self, "split_seed", most=LARGEST_SEED)
        share(self, "ema_maximum", "held_out")
        self.normalisation = dict[str, Any](normalisations(self.normalisation))
        if self.only not in (None, "interventions"):
            raise ValueError(f"only must be interventions or null, got {self.only!r}")
        if self.data not in ("same", "grown"):
            raise ValueError(f"data must be same or grown, got {self.data!r}")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer must be adamw or muon, got {self.optimizer!r}")
        if self.precision not in ("fp32", "bf16", None):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"betas must be two numbers below 1, of the mean and of the square of the gradient, got {self.betas}"
            )
        require_choices(self, "policy")
        if self.compile and self.gradient_checkpointing:
            raise ValueError(
                "compile=true and gradient_checkpointing=true exclude each other, because the compiler decides itself "
                "what to compute again: leave out one of them"
            )
        if self.augmentation.words and self.text_encoder is None:
            raise ValueError(
                f"augmentation.words={self.augmentation.words} is noise on embedded sentences, and none are observed: "
                "give text_encoder=, or leave it out"
            )
        if self.evaluate_every and self.task is None:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs a task to evaluate in: give task=")


def _weighted(dataset: Any, weights: list[float] | None) -> tuple[Any, list[float] | None]:
    """Datasets and their weights; a list of one is that one, without a weight.

    Raises ValueError unless the datasets are a text or a list of different ones, each with a weight if any has one.
    """
    dataset = one_or_several("dataset", dataset, remedy="give it a larger weight instead")
    datasets = dataset if isinstance(dataset, list) else [dataset]
    if weights is not None and len(weights) != len(datasets):
        raise ValueError(f"weights must be one for each of {len(datasets)} datasets, got {weights}")
    if weights is not None and not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"weights must be numbers above 0, got {weights}: leave out a dataset that is not to be drawn")
    return dataset, weights if len(datasets) > 1 else None


@dataclass(kw_only=True)
class DemoConfig(CommandConfig):
    """Record demonstrations of pick_place, train a diffusion and a regression policy, evaluate both, and report."""

    out: PathName = "runs/demo"
    """Folder for the demonstrations, the runs and the report."""
    episodes: int = 150
    """Demonstrations to record."""
    steps: int = 2000
    """Weight updates of the diffusion policy."""
    regression_steps: int = 800
    """Weight updates of the regression policy."""
    evaluate_episodes: int = 50
    """Episodes to evaluate each policy in."""
    seed: int = 0
    """Seed of both trainings."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        positive(self, "episodes", "evaluate_episodes", most=MOST_EPISODES)
        positive(self, "steps", "regression_steps", most=MOST_UPDATES)
        not_negative(self, "seed", most=LARGEST_SEED)
