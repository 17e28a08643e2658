"""The configuration of `recede train` and of `recede demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .augmentation import AugmentationConfig
from .checks import not_negative, positive
from .choices import require_choices
from .components.policies import DiffusionConfig, HorizonsConfig
from .normalisation import normalisations
from .packages import CommandConfig


@dataclass(kw_only=True)
class TrainConfig(CommandConfig):
    """Learn a policy from demonstrations.

    dataset: a store of demonstrations. task: what they must be of, and what to evaluate in; a store of yours needs
    none, a replay buffer of others does. out: the run folder. horizons: steps seen, generated and executed. device: of
    torch, or auto for a GPU where there is one. init_from: a run or checkpoint folder whose weights to start with.
    teacher: a run or checkpoint folder whose policy the objective learns from, if it needs one.
    image_cache: where decoded images are held: on the device, mapped (from a file in the folder RECEDE_CACHE), or auto, on
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
    policy: Any = field(default_factory=DiffusionConfig)
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
    image_cache: str = "auto"
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
        require_choices(self, "policy")
        self.horizons.build()
        if self.evaluate_every and self.task is None:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs a task to evaluate in: give task=")


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
