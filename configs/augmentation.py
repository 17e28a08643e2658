"""Random changes to images and embedded sentences in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .components.lazy import values

if TYPE_CHECKING:
    from ..datasets.augmentation import Augmentation


@dataclass(kw_only=True)
class AugmentationConfig:
    """Random changes to a training batch, all off by default; see `datasets.augmentation`."""

    rotation: float = 0.0
    """Largest rotation about the centre, in degrees, either way."""
    brightness: float = 0.0
    """Brightness is multiplied by a factor between 1 - brightness and 1 + brightness."""
    contrast: float = 0.0
    """Contrast is multiplied by a factor between 1 - contrast and 1 + contrast."""
    saturation: float = 0.0
    """Saturation is multiplied by a factor between 1 - saturation and 1 + saturation."""
    words: float = 0.0
    """Standard deviation of noise on embedded sentences, whose largest number is 1 or -1, against other words."""

    def __post_init__(self) -> None:
        if any(values(self).values()):  # else torch need not load
            self.build(None)

    def build(self, crop: tuple[int, int] | None) -> Augmentation:
        """The augmentation for an encoder that sees a `crop` (h, w) of every image."""
        from ..datasets.augmentation import Augmentation

        return Augmentation(crop=crop, **values(self))
