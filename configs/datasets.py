"""The configurations of `recede collect`, `inspect` and `download`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .augmentation import AugmentationConfig
from .checks import LARGEST_SEED, MOST_EPISODES, PathName, check_randomise, condition, not_negative, pair, positive
from .packages import CommandConfig


@dataclass(kw_only=True)
class CollectConfig(CommandConfig):
    """Record demonstrations with a task's scripted expert. The same command resumes an interrupted recording."""

    task: str
    """Task to record."""
    out: PathName
    """Folder of the store. Failures of the expert go to a store beside it, with -failures in its name."""
    episodes: int = 100
    """Successful episodes to record."""
    first_seed: int = 0
    """Seed of the first episode; the following episodes use the following seeds."""
    randomise: list[str] = field(default_factory=list)
    """What differs in the world of each episode, by its seed: any of mass, friction, colour, camera and light."""
    images: str = "zstd"
    """Compression of images in a new store: zstd and png are lossless, jpeg is not."""

    def __post_init__(self) -> None:
        positive(self, "episodes", most=MOST_EPISODES)
        not_negative(self, "first_seed", most=LARGEST_SEED)
        check_randomise(self)


PICTURES = (".png", ".jpg", ".svg", ".pdf")
"""What the name of a picture may end in."""


@dataclass(kw_only=True)
class InspectConfig(CommandConfig):
    """Describe demonstrations: streams, ranges, warnings, a picture of every dimension over time, and a quality page.

    The page says what looks wrong in which episodes and what to do about it.
    """

    "Demonstrations"

    dataset: PathName
    """Folder of a demonstration store, or of a replay buffer of Diffusion Policy."""
    episodes: str | None = None
    """Which of its episodes, as in "outcome=success and operator!=script". null takes all."""
    task: str | None = None
    """Task that a replay buffer shows. A store needs none."""
    out: PathName | None = None
    """File of the picture. null is data/reach.png for data/reach.zarr, or runs/inspect/ if that folder is read-only.
The quality page has the same name with .html."""
    run: PathName | None = None
    """Run, checkpoint or exported folder of a policy whose error in each episode the page shows."""

    "Augmented images"

    augment: bool = False
    """Also draw the augmented images of training, into a picture beside the first."""
    crop: list[int] | None = None
    """Crop [height,width] in pixels. null is seven eighths of the image if no augmentation is set, else no crop."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes to draw."""
    seed: int = 0
    """Seed of the random changes."""

    def __post_init__(self) -> None:
        condition(self, "episodes")
        pair(self.crop)
        not_negative(self, "seed", most=LARGEST_SEED)
        if self.out is not None and not self.out.lower().endswith(PICTURES):
            raise ValueError(
                f"out must be the file of a picture, which ends in {', '.join(PICTURES)}, got {self.out!r}: give its "
                "whole name, as in out=inspect.png"
            )
        if not self.augment and (self.crop is not None or self.augmentation != AugmentationConfig()):
            raise ValueError("crop and augmentation need augment=true: add it, or leave them out")


@dataclass(kw_only=True)
class DownloadConfig(CommandConfig):
    """Download published demonstrations and check their digest."""

    name: str
    """Name of the demonstrations, such as pusht."""
    out: PathName | None = None
    """Folder of the store. null is data/NAME.zarr."""
    url: str | None = None
    """Address of a mirror. null is the publisher's."""
