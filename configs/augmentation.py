"""How images are changed in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..datasets.augmentation import Augmentation


@dataclass(kw_only=True)
class AugmentationConfig:
    """Random changes to the images of a training batch; see `datasets.augmentation`. All of them are off by default.

    rotation: by up to so many degrees. brightness, contrast, saturation: multiplied by 1 - x to 1 + x.
    """

    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if any((self.rotation, self.brightness, self.contrast, self.saturation)):  # torch is loaded only if need be
            self.build(None)

    def build(self, crop: tuple[int, int] | None) -> Augmentation:
        """The augmentation for a policy whose encoder sees a `crop` (h, w) of every image."""
        from ..datasets.augmentation import Augmentation

        return Augmentation(
            crop=crop,
            rotation=self.rotation,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
        )
