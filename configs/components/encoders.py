"""Encoders of observations: vectors and images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...specification import Horizons, Specification
from ..checks import LARGEST_SIZE, PathName, check_sizes, pair, positive

if TYPE_CHECKING:
    from ...policy.encoders.observation import MakeCamera, ObservationEncoder


@dataclass(kw_only=True)
class LowdimEncoderConfig:
    """Vectors side by side, as they are or through an MLP."""

    mlp: list[int] = field(default_factory=list)
    """Sizes of the MLP's layers. [] uses no MLP."""

    def __post_init__(self) -> None:
        check_sizes("mlp", self.mlp)

    def build(self, specification: Specification, horizons: Horizons) -> ObservationEncoder:
        """An encoder of all observation streams. Raises ValueError if one is an image."""
        from ...policy.encoders.observation import ObservationEncoder

        return ObservationEncoder(specification, horizons, hidden=self.mlp)

    def start(self, encoder: ObservationEncoder) -> None:
        """Nothing to load."""


@dataclass(kw_only=True)
class CameraEncoderConfig(ABC):
    """What all encoders of images share. Vectors are encoded as by `lowdim`."""

    features: int = 64
    """Numbers that each camera contributes to the conditioning."""
    crop: list[int] | None = None
    """Crop [height,width] in pixels: random in training, central otherwise. null sees the whole image."""
    shared: bool = False
    """Use one network for all cameras."""
    weights: PathName | None = None
    """Pretrained weights that training starts from. null starts from random weights."""
    frozen: bool = False
    """Do not train the pretrained network. Otherwise it learns at a tenth of the learning rate."""
    mlp: list[int] = field(default_factory=list)
    """Sizes of the layers of the MLP for vectors. [] uses no MLP."""

    def __post_init__(self) -> None:
        positive(self, "features", most=LARGEST_SIZE)
        check_sizes("mlp", self.mlp)
        pair(self.crop)

    @abstractmethod
    def camera(self) -> MakeCamera:
        """The function that makes the encoder of one camera."""

    def build(self, specification: Specification, horizons: Horizons) -> ObservationEncoder:
        """An encoder of all observation streams, with random weights. Raises ValueError if a stream does not fit."""
        from ...policy.encoders.observation import Cameras, ObservationEncoder

        cameras = Cameras(self.camera(), crop=pair(self.crop), is_shared=self.shared)
        return ObservationEncoder(specification, horizons, hidden=self.mlp, cameras=cameras)

    def start(self, encoder: ObservationEncoder) -> None:
        """Load the pretrained weights into a new encoder. An encoder of a checkpoint has its own."""
        if self.weights is not None:
            encoder.load_pretrained(Path(self.weights))


def _is_scale(mean: float, std: float) -> bool:
    return abs(mean) < 1e3 and 0 < std < 1e3


@dataclass(kw_only=True)
class ResNetEncoderConfig(CameraEncoderConfig):
    """Each image through a ResNet and a spatial softmax. weights: a file of torchvision."""

    depth: int = 18
    """18, 34 or 50."""
    width: int = 64
    """Channels of the first stage, a multiple of 16. The published networks have 64."""
    stages: int = 4
    """Number of stages, 1 to 4. The published networks have 4."""
    norm: str = "group"
    """group, or frozen for the batch normalisation of pretrained weights with its statistics fixed."""
    keypoints: int = 32
    """Keypoints of the spatial softmax."""
    relu: bool = False
    """Apply a ReLU to the features."""
    mean: list[float] | None = None
    """Mean of each colour channel, of pixels in [0, 1]. null is the mean of ImageNet with weights, else 0.5."""
    std: list[float] | None = None
    """Standard deviation of each colour channel. null is that of ImageNet with weights, else 0.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "keypoints", "width", most=LARGEST_SIZE)
        if self.depth not in (18, 34, 50) or not 1 <= self.stages <= 4:
            raise ValueError(
                f"a ResNet must have a depth of 18, 34 or 50 and 1 to 4 stages, got {self.depth} and {self.stages}"
            )
        if self.width % 16:
            raise ValueError(f"width must be a multiple of 16, the channels of a group of GroupNorm, got {self.width}")
        if self.norm not in ("group", "frozen"):
            raise ValueError(f"norm must be 'group' or 'frozen', got {self.norm!r}")
        means, stds = self.mean or [], self.std or []
        if len(means) != len(stds) or not all(map(_is_scale, means, stds)):
            raise ValueError(
                f"mean and std must be given together, of each channel, below 1000, std above 0, got {self.mean} and "
                f"{self.std}"
            )

    def start(self, encoder: ObservationEncoder) -> None:
        """Load the pretrained weights. Raises ValueError if `frozen` or `norm=frozen` is set without them."""
        if self.weights is None and (self.frozen or self.norm == "frozen"):
            raise ValueError("frozen=true and norm=frozen need pretrained weights: add weights=FILE, or leave them out")
        super().start(encoder)

    def camera(self) -> MakeCamera:
        """The function that makes the encoder of one camera."""
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
    """Each image through a vision transformer. weights: a folder of DINOv2, CLIP or SigLIP from Hugging Face."""

    shared: bool = True
    image_size: int = 224
    """Side in pixels of the square that each image is resized to."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Description of the network, read from the folder of weights and kept in checkpoints. Do not set it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "image_size", most=10_000)
        if self.weights is not None and not self.architecture:
            from ...policy.encoders.vit import read_architecture

            self.architecture = read_architecture(Path(self.weights))

    def camera(self) -> MakeCamera:
        """The function that makes the encoder of one camera. It raises ValueError if `weights` were never given."""
        from ...policy.encoders.vit import ViTEncoder

        def make(channels: int, size: tuple[int, int]) -> ViTEncoder:
            if not self.architecture:
                raise ValueError("policy/encoder=vit needs a pretrained network: add policy.encoder.weights=FOLDER")
            return ViTEncoder(
                channels,
                architecture=self.architecture,
                image_size=self.image_size,
                num_features=self.features,
                is_frozen=self.frozen,
            )

        return make
