"""The configurations of the commands on demonstrations: `recede collect`, `inspect` and `download`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .augmentation import AugmentationConfig
from .checks import not_negative, pair, positive
from .packages import CommandConfig


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
class DownloadConfig(CommandConfig):
    """Fetch published demonstrations; `name` says which. out: the store's folder. url: of a mirror."""

    name: str
    out: str | None = None
    url: str | None = None
