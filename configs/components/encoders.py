"""How images and vectors are encoded, and changed in training: plain values whose `build` makes the objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...specification import Horizons, Specification
from ..checks import check_sizes, pair, positive

if TYPE_CHECKING:
    from ...policy.encoders.observation import MakeCamera, ObservationEncoder


@dataclass(kw_only=True)
class LowdimEncoderConfig:
    """Vector streams side by side, as they are or through an MLP; `mlp` lists the sizes of its layers."""

    mlp: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_sizes("mlp", self.mlp)

    def build(self, specification: Specification, horizons: Horizons) -> ObservationEncoder:
        """An encoder of every observation stream. Raises ValueError where one is an image."""
        from ...policy.encoders.observation import ObservationEncoder

        return ObservationEncoder(specification, horizons, hidden=self.mlp)

    def start(self, encoder: ObservationEncoder) -> None:
        """There is nothing to begin with."""


@dataclass(kw_only=True)
class CameraEncoderConfig(ABC):
    """What all encoders of images share."""

    features: int = 64
    crop: list[int] | None = None
    shared: bool = False
    weights: str | None = None
    frozen: bool = False
    mlp: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        positive(self, "features")
        check_sizes("mlp", self.mlp)
        pair(self.crop)

    @abstractmethod
    def camera(self) -> MakeCamera:
        """What makes the encoder of one camera."""

    def build(self, specification: Specification, horizons: Horizons) -> ObservationEncoder:
        """An encoder of every observation stream, with random weights. Raises ValueError where they do not fit it."""
        from ...policy.encoders.observation import Cameras, ObservationEncoder

        cameras = Cameras(self.camera(), crop=pair(self.crop), is_shared=self.shared)
        return ObservationEncoder(specification, horizons, hidden=self.mlp, cameras=cameras)

    def start(self, encoder: ObservationEncoder) -> None:
        """Give a new encoder the pretrained weights; that of a checkpoint has its own."""
        if self.weights is not None:
            encoder.load_pretrained(Path(self.weights))


@dataclass(kw_only=True)
class ResNetEncoderConfig(CameraEncoderConfig):
    """Images through a ResNet and a spatial softmax to `features` numbers each; vectors as in `lowdim`.

    depth: 18, 34 or 50. width: channels of the first of `stages`; 64 and 4 are the published network. keypoints: points
    of the softmax. crop: [height, width] of what is seen, in training at a place drawn at random. shared: one network
    for all cameras. weights: a file of torchvision's, which training begins with. norm: "group", or "frozen" for what
    the weights were trained to compute. frozen: the ResNet does not learn; else weights learn at a tenth of the rate.
    relu: cut the features off below 0. mean, std: of each channel of pixels in [0, 1], which are normalised with them;
    without them as `weights` expect, or to [-1, 1].
    """

    depth: int = 18
    width: int = 64
    stages: int = 4
    norm: str = "group"
    keypoints: int = 32
    relu: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "keypoints", "width")
        if self.depth not in (18, 34, 50) or not 1 <= self.stages <= 4:
            raise ValueError(
                f"a ResNet must have a depth of 18, 34 or 50 and 1 to 4 stages, got {self.depth} and {self.stages}"
            )
        if self.width % 16:
            raise ValueError(f"width must be a multiple of 16, the channels of a group of GroupNorm, got {self.width}")
        if self.norm not in ("group", "frozen"):
            raise ValueError(f"norm must be 'group' or 'frozen', got {self.norm!r}")
        if len(self.mean or ()) != len(self.std or ()) or min(self.std or [1]) <= 0:
            raise ValueError(
                f"mean and std must be given together, of each channel, std above 0, got {self.mean} and {self.std}"
            )

    def start(self, encoder: ObservationEncoder) -> None:
        """See `CameraEncoderConfig`. Raises ValueError where there is nothing trained that could stay as it is."""
        if self.weights is None and (self.frozen or self.norm == "frozen"):
            raise ValueError("frozen=true and norm=frozen keep what was trained: give weights=FILE, or leave them out")
        super().start(encoder)

    def camera(self) -> MakeCamera:
        """What makes the encoder of one camera."""
        from ...policy.encoders.resnet import ResNetEncoder

        return partial(
            ResNetEncoder,
            depth=self.depth,
            width=self.width,
            stages=self.stages,
            norm="frozen" if self.norm == "frozen" else "group",
            num_keypoints=self.keypoints,
            num_features=self.features,
            is_pretrained=self.weights is not None,
            is_frozen=self.frozen,
            has_relu=self.relu,
            pixels=(self.mean, self.std) if self.mean and self.std else None,
        )


@dataclass(kw_only=True)
class ViTEncoderConfig(CameraEncoderConfig):
    """Images through a pretrained vision transformer to `features` numbers each; vectors as in `lowdim`.

    weights: the folder of a DINOv2, CLIP or SigLIP model of Hugging Face on this machine. image_size: side of the
    square that a picture is stretched to. crop and shared: as in `resnet`. frozen: the transformer does not learn; else
    it learns at a tenth of the rate. architecture: what the folder says of the network, read from it, so that
    checkpoints do not need it.
    """

    image_size: int = 224
    shared: bool = True
    architecture: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "image_size")
        if self.weights is not None and not self.architecture:
            from ...policy.encoders.vit import read_architecture

            self.architecture = read_architecture(Path(self.weights))

    def camera(self) -> MakeCamera:
        """What makes the encoder of one camera. It raises ValueError where no network is given."""
        from ...policy.encoders.vit import ViTEncoder

        def make(channels: int, size: tuple[int, int]) -> ViTEncoder:
            if not self.architecture:
                raise ValueError("policy/encoder=vit needs a pretrained network: give policy.encoder.weights=FOLDER")
            return ViTEncoder(
                channels,
                architecture=self.architecture,
                image_size=self.image_size,
                num_features=self.features,
                is_frozen=self.frozen,
            )

        return make
