"""The configurations of `recede collect`, `inspect`, `view`, `edit`, `convert` and `download`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..datasets.facts import OUTCOMES
from ..specification import nearest
from .augmentation import AugmentationConfig
from .checks import (
    LARGEST_SEED,
    MOST_EPISODES,
    PathName,
    PathNames,
    check_cluster,
    check_image_size,
    check_randomise,
    condition,
    not_negative,
    one_or_several,
    pair,
    positive,
    read_shares,
    step_condition,
)
from .notation import typed
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
    """Compression of images in a new store: zstd and png are lossless, jpeg and h264 are not."""
    cluster: str | None = None
    """Ray cluster whose CPUs run the expert: local (this machine), HOST:PORT, or auto for that of RAY_ADDRESS. null
runs it in this process."""
    workers: int = 0
    """With cluster=, its processes that run the expert. 0 is one for each of its CPUs."""

    def __post_init__(self) -> None:
        positive(self, "episodes", most=MOST_EPISODES)
        not_negative(self, "first_seed", most=LARGEST_SEED)
        not_negative(self, "workers", most=1000)
        check_cluster(self.cluster)
        if self.workers and self.cluster is None:
            raise ValueError(f"workers={self.workers} is for cluster=: give that, or leave it out")
        check_randomise(self)


MOST_SAMPLES = 1000
"""Most chunks that a page shows in a step."""

MOST_MB = 1000.0
"""Largest page, MB: a browser needs several times as much memory."""

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
class ViewConfig(CommandConfig):
    """See demonstrations in a browser: every stream and camera on one time line, and what a policy would do there.

    It serves a page to this machine until Ctrl-C, or writes a page that can be sent to somebody.
    """

    "Demonstrations"

    source: PathName
    """Folder of a demonstration store, or of a replay buffer of Diffusion Policy; or a run, a checkpoint or an exported
folder, whose policy then shows what it would do in every step."""
    dataset: PathName | None = None
    """For a policy, the demonstrations to see. null takes those that it was trained on."""
    episodes: str | None = None
    """Which episodes, as in "outcome=success and operator!=script". null takes all; of a page to send, the first 3."""
    task: str | None = None
    """Task whose scene the page shows, and which a replay buffer needs. null takes the one that the policy or the
episodes name, if it comes with recede."""
    scene: bool = True
    """Whether the simulation of the task shows the scene."""

    "Policy"

    checkpoint: str = "last"
    """Checkpoint of a run: last or best."""
    samples: int = 16
    """Chunks that are sampled in a step."""
    seed: int = 0
    """Seed of their noise, which is the same in every step."""
    text_encoder: PathName | None = None
    """Folder of the text encoder, if it was moved since the training."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""

    "Page"

    port: int = 8771
    """TCP port of the page, which only this machine can reach. 0 takes a free one."""
    out: PathName | None = None
    """File of a page to send, as page.html, which needs no network and no other file. null serves the page instead."""
    most_mb: float = 20.0
    """Largest page to send, in MB."""

    def __post_init__(self) -> None:
        condition(self, "episodes")
        positive(self, "samples", most=MOST_SAMPLES)
        positive(self, "most_mb", most=MOST_MB)
        not_negative(self, "seed", most=LARGEST_SEED)
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        if self.out is not None and not self.out.lower().endswith(".html"):
            raise ValueError(
                f"out must be the file of a page, which ends in .html, got {self.out!r}: give its whole name"
            )


@dataclass(kw_only=True)
class RelabelConfig:
    """Facts to note of episodes instead of those that they have."""

    outcome: str | None = None
    """success, failure or unknown. null keeps it, as in the following keys."""
    task: str | None = None
    """The task."""
    sentence: str | None = None
    """What was to be done, in words."""
    operator: str | None = None
    """Who or what drove."""
    episodes: str | None = None
    """Which episodes get these facts, a condition on what they have now. null relabels all that are chosen."""

    def __post_init__(self) -> None:
        condition(self, "episodes")
        if self.outcome not in (None, *OUTCOMES):
            raise ValueError(
                f"relabel.outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}: "
                + nearest(self.outcome, OUTCOMES)
            )
        if self.episodes is not None and not self.labels:
            raise ValueError(
                "relabel.episodes chooses who gets a fact, and there is none: add relabel.outcome=, task= ..."
            )

    @property
    def labels(self) -> dict[str, str]:
        """The facts to note, by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "episodes"}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(kw_only=True)
class EditConfig(CommandConfig):
    """Make a new demonstration store of one or several, which stay as they are. Every stream is read back and compared.

    The keys apply in this order to each source, and then the sources follow one another. The same command goes on with
    an interrupted copy.
    """

    "Stores"

    source: PathNames
    """Folder of a demonstration store, or several as [a,b]: their episodes in turn."""
    out: PathNames
    """Folder of the new store, which must not exist. It grows as NAME.unfinished.zarr and is renamed when complete.
With split, the folders of all new stores, as [a,b]."""
    split: str | None = None
    """How the episodes are divided among several new stores: shares, as [0.9,0.1], drawn by the seed; or a condition as
for episodes, which those in the first of two stores fulfil. null makes one store."""
    seed: int = 0
    """Seed of the shares."""
    task: str | None = None
    """Task that replay buffers of Diffusion Policy show. Stores need none."""

    "Episodes"

    episodes: str | None = None
    """Which episodes to keep, as in "outcome=success and operator!=script"; "not (...)" drops some. null keeps all."""
    trim_idle: bool = False
    """Cut off the idle ends that `recede inspect` names: nothing moves for a second or longer."""
    steps: str | None = None
    """Which steps to keep, as in "step>=20 and gripper.x<0.1": by step, left (the steps after it), seconds and
dimensions of vectors. Each run of such steps becomes an episode. null keeps all."""
    relabel: RelabelConfig = field(default_factory=RelabelConfig)
    """Facts to note of the episodes."""

    "Streams"

    rename: dict[str, Any] = field(default_factory=dict)
    """New names of observation streams, as {old: new}."""
    observe: list[str] | None = None
    """Observation streams to keep, by their new names. null keeps all."""
    resize: dict[str, Any] = field(default_factory=dict)
    """New sizes of images in pixels, as {front: [96,96]}: stream, height and width."""
    images: str | None = None
    """Compression of images: zstd and png are lossless, jpeg and h264 are not. null is that of the first source, and
png if that would lose again."""

    def __post_init__(self) -> None:
        self.source, self.out = one_or_several("source", self.source), one_or_several("out", self.out)
        condition(self, "episodes")
        step_condition(self, "steps")
        self._check_split()
        if self.observe is not None and not self.observe:
            raise ValueError("observe must name a stream or more, got []: leave it out to keep all")
        for name, new in self.rename.items():
            if not isinstance(new, str):
                raise ValueError(
                    f"rename.{name} must be the new name of a stream, got {new!r}: write rename={{old: new}}"
                )
        for name, size in self.resize.items():
            check_image_size(f"resize.{name}", size)

    def _check_split(self) -> None:
        not_negative(self, "seed", most=LARGEST_SEED)
        shares = self.shares
        if self.seed and shares is None:
            raise ValueError("seed draws the shares of split=[0.9,0.1]: leave it out, or give shares")
        if shares is None:
            condition(self, "split")
        count = len(shares) if shares is not None else 1 if self.split is None else 2
        if len(self.outs) != count:
            raise ValueError(
                f"out must name {count} for split={typed(self.split)}, got {typed(self.out)}: write "
                "split=[0.9,0.1] out=[train.zarr,test.zarr], or one store without split"
            )

    @property
    def shares(self) -> list[float] | None:
        """The shares of the new stores; None if there is one, or if a condition divides the episodes.

        Raises ValueError unless they are numbers above 0 that sum to 1.
        """
        return None if self.split is None or not self.split.startswith("[") else read_shares("split", self.split)

    @property
    def sources(self) -> list[str]:
        """The folders, in turn."""
        return self.source if isinstance(self.source, list) else [self.source]

    @property
    def outs(self) -> list[str]:
        """The folders of the new stores, in turn."""
        return self.out if isinstance(self.out, list) else [self.out]


WRITTEN = ("lerobot",)
"""The formats of other libraries that are written."""


@dataclass(kw_only=True)
class ConvertConfig(CommandConfig):
    """Make a demonstration store of a data set in the format of another library, or the reverse.

    Every stream is read back and compared. Without `out` the data set is described, and a mapping is proposed: a file
    that says which column is which stream, in which units, and what the action means. The same command goes on with an
    interrupted conversion.

    With `to` the source is a store, and out a data set of that format, which is written whole or not at all.
    """

    source: PathName
    """File or folder of the data set, whose format is recognised; with to, a store."""
    out: PathName | None = None
    """Folder of the new store, which must not exist. null describes the source and proposes a mapping."""
    to: str | None = None
    """Format of out, for a source that is a store: lerobot (v3.0). null makes a store."""
    video: bool = False
    """With to, whether images become H.264 videos, which are lossy. false keeps them as PNG, which is lossless."""
    mapping: PathName | None = None
    """File of the mapping. Without out, the proposal is written to it if it does not exist. null is the proposal."""
    rate: float | None = None
    """Steps a second (Hz), for a mapping that is proposed. null is that of the data set."""
    episodes: str | None = None
    """Which episodes to convert, as in "outcome=success". null converts all."""
    images: str = "png"
    """Compression of images: zstd and png are lossless, jpeg and h264 are not."""
    verify: bool = False
    """Compare an earlier conversion in out with its source, and write nothing."""

    def __post_init__(self) -> None:
        condition(self, "episodes")
        positive(self, "rate", most=10_000)
        if self.verify and self.out is None:
            raise ValueError("verify=true compares a store with its source: give the store as out=")
        if self.verify and self.images != "png":
            raise ValueError(f"verify=true writes no images, got images={self.images}: leave it out")
        if self.to is None:
            if self.video:
                raise ValueError("video=true is for a data set of another library: add to=lerobot, or leave it out")
            return
        if self.to not in WRITTEN:
            raise ValueError(f"to must be one of {', '.join(WRITTEN)}, got {self.to!r}: {nearest(self.to, WRITTEN)}")
        if self.out is None:
            raise ValueError(f"to={self.to} writes a data set: give its folder as out=")
        for name, unset in {"mapping": None, "rate": None, "images": "png"}.items():
            if getattr(self, name) != unset:
                raise ValueError(f"{name} is for making a store: leave it out with to={self.to}")


@dataclass(kw_only=True)
class DownloadConfig(CommandConfig):
    """Download published demonstrations and check their digest."""

    name: str
    """Name of the demonstrations, such as pusht."""
    out: PathName | None = None
    """Folder of the store. null is data/NAME.zarr."""
    url: str | None = None
    """Address of a mirror. null is the publisher's."""
